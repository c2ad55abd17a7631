"""What rules match: chains of calls, found from their last call upwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import keras

from kito.errors import RuleDefinitionError
from kito.graph.ir import Graph, Node

Classes = tuple[type[keras.Operation], ...]


@dataclass(frozen=True)
class Match:
    """The calls that a pattern found, by capture name, in the order of computation."""

    captures: Mapping[str, Node]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self.captures.values())

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def tail(self) -> Node:
        return self.nodes[-1]


class Pattern(Protocol):
    """Anything that finds a match which ends at a given call.

    Attributes:
        names: the captures, which are the parameters of the rule's function.
        anchors: the classes of the last call; the engine asks for matches at these only.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def anchors(self) -> Classes: ...

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        ...


@dataclass(frozen=True)
class Chain:
    """Calls of the given classes, each reading the one before and nothing else."""

    links: Mapping[str, Classes]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.links)

    @property
    def anchors(self) -> Classes:
        return tuple(self.links.values())[-1]

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        found: dict[str, Node] = {}
        for name, classes in reversed(list(self.links.items())):
            # Exactly these classes: a subclass may compute something else.
            if node.layer.cls not in classes:
                return None
            found[name] = node
            if len(found) == len(self.links):
                return Match(dict(reversed(found.items())))
            if len(node.refs) != 1:
                return None
            node = graph.producer(node.refs[0])
        return None

    def __str__(self) -> str:
        return " -> ".join(
            " | ".join(cls.__name__ for cls in classes) for classes in self.links.values()
        )


def chain(
    **links: type[keras.Operation] | tuple[type[keras.Operation], ...],
) -> Chain:
    """A pattern: one call after the other, `name=Class` or `name=(Class, OtherClass)`.

    Raises:
        RuleDefinitionError: there is no link, or a link is not a Keras layer class.
    """
    if not links:
        raise RuleDefinitionError("chain() needs at least one link: chain(conv=Conv2D)")
    normalized = {
        name: classes if isinstance(classes, tuple) else (classes,)
        for name, classes in links.items()
    }
    for name, classes in normalized.items():
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, keras.Operation)):
                raise RuleDefinitionError(f"chain({name}=...) is not a Keras layer class: {cls!r}")
    return Chain(normalized)
