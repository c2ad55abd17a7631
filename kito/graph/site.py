"""A match where it stands, with what the rule wants there."""

from __future__ import annotations

from dataclasses import dataclass

from kito.definition import Match, Result
from kito.graph.ir import Graph, Node, Ref
from kito.graph.layer import Call, Layer, call_of


@dataclass(frozen=True)
class Site:
    """A match and the graph that it stands in."""

    graph: Graph
    match: Match
    results: tuple[Result, ...]

    @property
    def pairs(self) -> tuple[tuple[Node, Result], ...]:
        """Each call that others read, and what takes its place."""
        return tuple(zip(self.match.tails, self.results, strict=True))

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls that the rule asks for, each once, in the order of computation; none if tensors
        that are there already will do.
        """
        found: dict[Call, None] = {}
        for result in self.results:
            if not isinstance(result, Ref):
                found |= dict.fromkeys(call_of(result).order)
        return tuple(found)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of these calls."""
        return tuple(dict.fromkeys(call.layer for call in self.calls))

    @property
    def successors(self) -> dict[Layer, Layer]:
        """The layers that take the place of another one, with that one."""
        found: dict[Layer, Layer] = {}
        for tail, result in self.pairs:
            if isinstance(result, Call):
                found.setdefault(result.layer, tail.layer)
        return found
