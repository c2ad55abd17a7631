"""Where the items of a graph stand, and how the edges run: `dot` decides, once for both sides.

Edges that exist only after the change run where the calls were that are gone, so that both sides
look alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from kito.drawing.folding import Folding
from kito.drawing.sheet import ARROW, POINTS_PER_INCH, Area, Point, inches, pygraphviz
from kito.drawing.units import Unit

# Two items, the second of which reads the first.
Edge = tuple[int, int]


class Layout:
    """The places of the items of one graph.

    Attributes:
        before: the edges before the change.
        after: the steps of the edges after the change, through the places of items that are gone.
        size: the width and the height of it all.
    """

    def __init__(
        self, units: Sequence[Unit], folding: Folding, sizes: Sequence[tuple[float, float]]
    ) -> None:
        self._units = units
        self._folding = folding
        self.before = list(self._edges("reads_before"))
        self._readers: dict[int, list[int]] = {}
        for start, end in self.before:
            self._readers.setdefault(start, []).append(end)
        routes = [self._route(*edge) for edge in self._edges("reads_after")]
        self.after = list(dict.fromkeys(step for route in routes for step in pairwise(route)))
        self._graph = pygraphviz().AGraph(directed=True, strict=True)
        self._graph.graph_attr.update(nodesep="0.28", ranksep="0.28")
        self._graph.node_attr.update(shape="box", fixedsize="true", label="")
        self._graph.edge_attr.update(tailport="s", headport="n", arrowsize=ARROW)
        for number, (width, height) in enumerate(sizes):
            self._graph.add_node(number, width=inches(width), height=inches(height))
        for start, end in dict.fromkeys([*self.before, *self.after]):
            self._graph.add_edge(start, end)
        for block, numbers in folding.frames.items():
            self._graph.add_subgraph(numbers, name=f"cluster_{block}", margin="14")
        self._graph.layout(prog="dot")
        left, low, right, high = _numbers(self._graph.graph_attr["bb"])
        self._left, self._top = left, high
        self.size = right - left, high - low

    def area(self, number: int) -> Area:
        """The place of an item. The left edge of everything is 0, and so is the top."""
        attributes = self._graph.get_node(number).attr
        x, y = self._moved(attributes["pos"])
        width, height = (float(attributes[each]) * POINTS_PER_INCH for each in ("width", "height"))
        return x, y, width, height

    def frame(self, block: int) -> Area:
        """The place of the frame around a block."""
        bounds = self._graph.get_subgraph(f"cluster_{block}").graph_attr["bb"]
        left, low, right, high = _numbers(bounds)
        x, y = (left + right) / 2 - self._left, (low + high) / 2 - self._top
        return x, y, right - left, high - low

    def curve(self, edge: Edge) -> tuple[Point, list[Point]]:
        """The tip of an edge, and the points of its Bezier curves."""
        tip, *points = self._graph.get_edge(*edge).attr["pos"].split()
        return self._moved(tip.removeprefix("e,")), list(map(self._moved, points))

    def is_gone(self, number: int) -> bool:
        """Whether nothing of an item is there after the change."""
        return not any(self._units[unit].after for unit in self._folding.items[number].units)

    def _moved(self, position: str) -> Point:
        x, y = _numbers(position)
        return x - self._left, y - self._top

    def _edges(self, side: str) -> Iterator[Edge]:
        edges = {
            (self._folding.item_of[read], number): None
            for number, item in enumerate(self._folding.items)
            for unit in item.units
            for read in getattr(self._units[unit], side)
        }
        yield from (edge for edge in edges if edge[0] != edge[1])

    def _route(self, start: int, end: int) -> list[int]:
        """The items that an edge after the change leads through: those that were between its ends
        and are gone, if there is such a way.
        """
        routes, seen = [[start]], {start}
        while routes:
            route = routes.pop()
            for reader in self._readers.get(route[-1], ()):
                if reader == end:
                    return [*route, end]
                if reader not in seen and self.is_gone(reader):
                    seen.add(reader)
                    routes.append([*route, reader])
        return [start, end]


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]
