"""The units that a picture consists of: a call that is kept, or calls and what replaces them.

Both sides of a picture have the same units in the same places, so what is the same stands side by
side, and what is not is seen at once.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

from kito.graph.change import CallRecord, GraphChange
from kito.report import Report

SIDES = ("before", "after")

# A call on one side of the change.
Key = tuple[str, int]


@dataclass(frozen=True)
class Unit:
    """Calls in a row, and the calls in a row that take their place.

    Attributes:
        before, after: the calls; empty where a side has nothing here.
        rules: the rules that were applied here.
        reasons: the rules that declined a kept call, each with the reason.
        is_kept: whether both sides are the same call.
        is_touched: whether it is kept, and something was rewritten inside its layer.
        reads_before, reads_after: the numbers of the units that each side reads.
    """

    before: tuple[CallRecord, ...]
    after: tuple[CallRecord, ...]
    rules: tuple[str, ...]
    reasons: tuple[tuple[str, str], ...]
    is_kept: bool
    is_touched: bool
    reads_before: tuple[int, ...]
    reads_after: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to say of it: a call that is the same on both sides."""
        return self.is_kept and not self.is_touched and not self.reasons

    @property
    def looks(self) -> tuple[Hashable, ...]:
        """What is seen of the unit without its names and sizes; what is inside counts apart."""
        return (
            tuple(call.kind for call in self.before),
            tuple(call.kind for call in self.after),
            self.rules,
            tuple(rule for rule, _ in self.reasons),
            self.is_kept,
        )

    def side(self, side: str) -> tuple[CallRecord, ...]:
        """The calls of one side."""
        return self.before if side == "before" else self.after

    def is_on_both_sides(self, call: CallRecord) -> bool:
        """Whether the layer of a call is called on the other side too."""
        return all(
            call.layer in {each.layer for each in calls} for calls in (self.before, self.after)
        )

    @property
    def reads(self) -> set[int]:
        """The numbers of the units that it reads, on either side."""
        return {*self.reads_before, *self.reads_after}


def units(change: GraphChange, report: Report, touched: Collection[tuple[str, ...]]) -> list[Unit]:
    """The units of one graph. Each but those in a cycle stands behind the units that it reads.

    Args:
        touched: the paths of the graphs in which something was rewritten.
    """
    calls: dict[Key, CallRecord] = {("before", call.id): call for call in change.before}
    calls |= {("after", call.id): call for call in change.after}
    readers: dict[Key, set[Key]] = {key: set() for key in calls}
    for (side, call_id), call in calls.items():
        for read in call.reads:
            readers[side, read].add((side, call_id))
    log = _Log(report, change.path)
    parts = list(_parts(change, calls, readers, log))
    owner = {key: number for number, part in enumerate(parts) for key in part}
    needed = [
        {
            side: tuple(
                dict.fromkeys(
                    owner[side, read]
                    for key in part
                    if key[0] == side
                    for read in calls[key].reads
                    if owner[side, read] != number
                )
            )
            for side in SIDES
        }
        for number, part in enumerate(parts)
    ]
    ends = [owner[side, out] for out in change.outputs for side in SIDES]
    order = _depth_first(
        [*ends, *range(len(parts))], [each["before"] + each["after"] for each in needed]
    )
    place = {number: index for index, number in enumerate(order)}

    def unit(number: int) -> Unit:
        before, after = (
            tuple(calls[key] for key in parts[number] if key[0] == side) for side in SIDES
        )
        is_kept = [call.layer for call in before] == [call.layer for call in after]
        return Unit(
            before=before,
            after=after,
            rules=() if is_kept else log.rules(call.name for call in (*before, *after)),
            reasons=log.reasons(call.name for call in before) if is_kept else (),
            is_kept=is_kept,
            is_touched=is_kept and before[0].inside in touched,
            reads_before=tuple(place[each] for each in needed[number]["before"]),
            reads_after=tuple(place[each] for each in needed[number]["after"]),
        )

    return list(map(unit, order))


class _Log:
    """What the report says of the layers of one graph."""

    def __init__(self, report: Report, path: tuple[str, ...]) -> None:
        self._rewrites = nx.utils.UnionFind()
        applied = [each for each in report.applied if each.path == path]
        for each in applied:
            self._rewrites.union(*each.layers, *each.result)
        self._rules: dict[str, dict[str, None]] = {}
        for each in applied:
            self._rules.setdefault(self._rewrites[each.layers[0]], {})[each.rule] = None
        self._reasons: dict[str, list[tuple[str, str]]] = {}
        for declined in report.declined:
            for name in set(declined.layers) if declined.path == path else ():
                reason = (declined.rule, declined.reason)
                self._reasons.setdefault(name, []).append(reason)

    def together(self, one: str, other: str) -> bool:
        """Whether the same rewrites, one after the other, were about both layers."""
        return bool(self._rewrites[one] == self._rewrites[other])

    def rules(self, names: Iterable[str]) -> tuple[str, ...]:
        """The rules that rewrote these layers."""
        roots = dict.fromkeys(self._rewrites[name] for name in names)
        return tuple(dict.fromkeys(rule for root in roots for rule in self._rules.get(root, ())))

    def reasons(self, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """Why rules did not rewrite these layers."""
        return tuple(
            dict.fromkeys(reason for name in names for reason in self._reasons.get(name, ()))
        )


def _parts(
    change: GraphChange,
    calls: dict[Key, CallRecord],
    readers: dict[Key, set[Key]],
    log: _Log,
) -> Iterator[tuple[Key, ...]]:
    """The calls of each unit."""
    kept = change.kept
    changed = nx.Graph()
    for side, call_id in calls:
        if call_id in kept:
            if side == "before":
                yield ("before", call_id), ("after", call_id)
            continue
        changed.add_node((side, call_id))
        if side == "after" and ("before", call_id) in calls:
            changed.add_edge((side, call_id), ("before", call_id))
    for key in changed:
        for reader in readers[key]:
            if reader in changed and log.together(calls[key].name, calls[reader].name):
                changed.add_edge(key, reader)
    position = {key: index for index, key in enumerate(calls)}
    for component in nx.connected_components(changed):
        part = tuple(sorted(component, key=position.__getitem__))
        sides = [[key for key in part if key[0] == side] for side in SIDES]
        if all(_is_row(side, calls, readers) for side in sides):
            yield part
        else:  # each call for itself, next to what has its number
            for call_id in dict.fromkeys(call_id for _, call_id in part):
                yield tuple(key for key in part if key[1] == call_id)


def _is_row(
    keys: Sequence[Key], calls: dict[Key, CallRecord], readers: dict[Key, set[Key]]
) -> bool:
    """Whether each call reads the one before; only the first reads others, and only the last is
    read by others.
    """
    inside = {number for _, number in keys}
    return all(
        key[1] in calls[reader].reads
        and inside.issuperset(calls[reader].reads)
        and readers[key] <= {*keys}
        for key, reader in pairwise(keys)
    )


def _depth_first(ends: Iterable[int], needed: Sequence[Sequence[int]]) -> list[int]:
    """An order of computation in which a branch is computed as a whole, then the next one."""
    order: dict[int, None] = {}
    seen: set[int] = set()
    for end in ends:
        stack = [(end, False)]
        while stack:
            number, is_done = stack.pop()
            if is_done:
                order.setdefault(number)
            elif number not in seen:
                seen.add(number)
                stack.append((number, True))
                stack.extend((each, False) for each in reversed(needed[number]))
    return list(order)
