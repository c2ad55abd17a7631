"""A model before and after its rewrites, as light as a drawing needs it: no layers, no weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import keras

from kito.graph.cost import is_pass, multiply_adds
from kito.graph.ir import Graph, Node, walk
from kito.graph.layer import Layer


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call of a layer.

    Attributes:
        id: the number of the call; the same before and after, where a call stands for its result.
        layer: a number for the layer; calls with the same number call the same layer.
        name, kind: the name and the class of the layer.
        shape, dtype: of the first output; None for each dimension that is not known.
        parameters: the number of weights of the layer, none for one that has a graph of its own.
        multiply_adds: the products that it adds up, see `cost.py`.
        is_pass: whether it multiplies nothing, and reads and writes numbers.
        reads: the calls whose outputs it reads, in the order of its arguments.
        inside: the path of the layer's own graph, None if it has none.
    """

    id: int
    layer: int
    name: str
    kind: str
    shape: tuple[int | None, ...]
    dtype: str
    parameters: int
    multiply_adds: int
    is_pass: bool
    reads: tuple[int, ...]
    inside: tuple[str, ...] | None


@dataclass(frozen=True)
class GraphChange:
    """The calls of one graph before and after, in an order of computation.

    Attributes:
        path: the names of the layers that lead to the graph; empty for the model itself.
        outputs: the calls whose outputs the graph returns.
    """

    path: tuple[str, ...]
    before: tuple[CallRecord, ...]
    after: tuple[CallRecord, ...]
    outputs: tuple[int, ...]

    @property
    def kept(self) -> frozenset[int]:
        """The calls of layers that are the same before and after."""
        after = {call.id: call.layer for call in self.after}
        return frozenset(call.id for call in self.before if after.get(call.id) == call.layer)

    @property
    def is_changed(self) -> bool:
        """Whether anything was rewritten here; the graphs of layers count for themselves."""
        return self.before != self.after


@dataclass(frozen=True)
class Change:
    """The model `name` and the graphs of its layers, the model's own graph first."""

    name: str
    graphs: tuple[GraphChange, ...]

    @property
    def calls(self) -> tuple[int, int]:
        """The number of calls before and after; inputs are none."""
        before, after = (
            sum(call.kind != "InputLayer" for calls in side for call in calls)
            for side in self._sides()
        )
        return before, after

    @property
    def parameters(self) -> tuple[int, int]:
        """The number of weights before and after."""
        before, after = (
            sum({call.layer: call.parameters for calls in side for call in calls}.values())
            for side in self._sides()
        )
        return before, after

    @property
    def multiply_adds(self) -> tuple[int, int]:
        """The products that one sample takes before and after."""
        return self._total(lambda call: call.multiply_adds)

    @property
    def passes(self) -> tuple[int, int]:
        """The calls before and after that multiply nothing, and read and write numbers."""
        return self._total(lambda call: call.is_pass)

    def _total(self, count: Callable[[CallRecord], int]) -> tuple[int, int]:
        """A sum over all calls before and after; those of a graph as often as it is called."""

        def total(graphs: dict[tuple[str, ...], tuple[CallRecord, ...]]) -> int:
            @cache
            def of(path: tuple[str, ...]) -> int:
                calls = graphs[path]
                return sum(
                    count(call) if call.inside is None else of(call.inside) for call in calls
                )

            return of(self.graphs[0].path)

        before = total({graph.path: graph.before for graph in self.graphs})
        return before, total({graph.path: graph.after for graph in self.graphs})

    @property
    def touched(self) -> frozenset[tuple[str, ...]]:
        """The paths of the graphs in which, or inside which, something was rewritten."""
        changed = [graph.path for graph in self.graphs if graph.is_changed]
        return frozenset(path[:end] for path in changed for end in range(len(path) + 1))

    def _sides(self) -> Iterator[list[tuple[CallRecord, ...]]]:
        yield [graph.before for graph in self.graphs]
        yield [graph.after for graph in self.graphs]


class Recorder:
    """Records a graph when it is made, and what has changed since when it is asked."""

    def __init__(self, graph: Graph) -> None:
        self._name = graph.name
        self._graphs = list(walk(graph))
        self._paths = {id(nested): path for path, nested in self._graphs}
        # Holds the layers too, so that a new one can't be taken for an old one.
        self._numbers: dict[Layer, int] = {}
        # By the id of each variable of the model, the layer that it is counted with: a layer inside
        # several composites is one.
        self._owners: dict[int, Layer] = {}
        self._before = [self._calls(nested) for _, nested in self._graphs]

    def change(self) -> Change:
        """What has changed since the recorder was made."""
        return Change(
            self._name,
            tuple(
                GraphChange(
                    path=path,
                    before=before,
                    # Where the rewrites were given up, the graph is copied as it was.
                    after=self._calls(graph) if graph.rewritten else before,
                    outputs=tuple(dict.fromkeys(ref.node for ref in graph.output_refs)),
                )
                for (path, graph), before in zip(self._graphs, self._before, strict=True)
            ),
        )

    def _calls(self, graph: Graph) -> tuple[CallRecord, ...]:
        products = multiply_adds(graph)
        return tuple(self._call(node, products[node.id]) for node in graph)

    def _call(self, node: Node, products: int) -> CallRecord:
        layer = node.layer
        return CallRecord(
            id=node.id,
            layer=self._numbers.setdefault(layer, len(self._numbers)),
            name=layer.name,
            kind=layer.cls.__name__,
            shape=node.output.shape,
            dtype=node.output.dtype,
            parameters=self._parameters(layer),
            multiply_adds=products,
            is_pass=not products and is_pass(node),
            reads=tuple(dict.fromkeys(ref.node for ref in node.refs)),
            inside=None if layer.graph is None else self._paths[id(layer.graph)],
        )

    def _parameters(self, layer: Layer) -> int:
        if layer.graph is not None:
            return 0
        if layer.is_new or not isinstance(layer.source, keras.Layer):
            return layer.parameters
        owned = [
            variable.shape
            for variable in layer.source.weights
            if self._owners.setdefault(id(variable), layer) is layer
        ]
        return sum(map(math.prod, owned))
