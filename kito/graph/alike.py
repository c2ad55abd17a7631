"""The calls of a graph that look the same, without comparing each with each.

Two numbers tell calls apart: that of the arguments costs little, and that of the layer, for which
its configuration and its weights are looked at, is asked only of calls that have the first alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kito.graph.ir import Node

Calls = dict[int, "Node"]


class Alike:
    """An index of calls, kept while a graph changes."""

    def __init__(self) -> None:
        self._unsorted: dict[int, Calls] = {}
        self._sorted: dict[int, dict[int, Calls]] = {}

    def add(self, node: Node) -> None:
        """Enter a call."""
        self._unsorted.setdefault(node.signature, {})[node.id] = node

    def discard(self, node: Node) -> None:
        """Forget a call that was entered."""
        if self._unsorted[node.signature].pop(node.id, None) is None:
            del self._sorted[node.signature][node.layer.signature][node.id]

    def to(self, node: Node) -> list[Node]:
        """The calls that look like one that was entered, that one included."""
        unsorted = self._unsorted[node.signature]
        by_layer = self._sorted.setdefault(node.signature, {})
        if not by_layer and len(unsorted) == 1:
            return [node]
        for each in unsorted.values():
            by_layer.setdefault(each.layer.signature, {})[each.id] = each
        unsorted.clear()
        return list(by_layer[node.layer.signature].values())
