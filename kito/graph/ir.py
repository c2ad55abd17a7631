"""The intermediate representation: a Keras model as a graph that rules can edit.

Besides the `Layer` (layer.py) there are three nouns. A `Node` is one call of a layer. A `Ref` is
one tensor: an output of a node. A `Graph` holds the nodes of one model in a
`networkx.MultiDiGraph`; a nested model is a layer that has a graph.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import networkx as nx
import numpy as np

from kito.errors import GraphError
from kito.graph.alike import Alike
from kito.graph.layer import Layer


@dataclass(frozen=True, slots=True)
class Ref:
    """One tensor of a graph: output number `index` of the node `node`."""

    node: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of a tensor before the model runs.

    `shape` has None for each dimension that is not known; `masked` says that Keras attaches a mask.
    """

    shape: tuple[int | None, ...]
    dtype: str
    masked: bool = False


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer: `args` and `kwargs` are as Keras recorded them, with Refs for tensors.

    What is not an attribute of the node is looked up on its layer, so that a rule reads
    `conv.kernel` and `conv.output.shape` alike.
    """

    id: int
    layer: Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    @property
    def output(self) -> Tensor:
        """The first output; most layers have one only."""
        return self.outputs[0]

    @property
    def input(self) -> Ref:
        """The first tensor that the call reads; most calls read one only."""
        return self.refs[0]

    @cached_property
    def refs(self) -> tuple[Ref, ...]:
        """The tensors that the call reads, in the order of its arguments, with repetitions."""
        leaves = keras.tree.flatten((self.args, self.kwargs))
        return tuple([leaf for leaf in leaves if isinstance(leaf, Ref)])

    @cached_property
    def signature(self) -> int:
        """A number that calls have in common which give layers of one class the same."""
        given = [
            (leaf.node, leaf.index) if isinstance(leaf, Ref) else leaf
            for leaf in keras.tree.flatten((self.args, self.kwargs))
            if isinstance(leaf, Ref | int | float)
        ]
        return hash((self.layer.cls, *given))

    @property
    def wrapped(self) -> Layer:
        """The layer inside a wrapper, see `Layer.wrapped`."""
        return self.layer.wrapped

    def evolve(self, **changes: Any) -> Layer:
        """The layer with some changes, see `Layer.evolve`."""
        return self.layer.evolve(**changes)

    def wrap(self, inner: Layer) -> Layer:
        """The wrapper around another layer, see `Layer.wrap`."""
        return self.layer.wrap(inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)


@dataclass(frozen=True)
class Trace:
    """The call that a graph is the record of.

    Attributes:
        source: the layer.
        args, kwargs: its arguments, with a `Tensor` where it gets a tensor.
        outputs: what Keras inferred of the outputs; none where nobody asked it.
        scales: how the sizes that are not known stand to each other, for each tensor in the
            arguments; none where they are alike.
        calls: the calls, each with its own sizes, if it is the record of several.
        reads: the shapes of tensors that the call read.
        record: what Keras recorded, a `keras.Function`.
    """

    source: keras.Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...] = ()
    scales: tuple[int, ...] = field(default=(), repr=False)
    calls: tuple[Trace, ...] = field(default=(), repr=False)
    reads: tuple[tuple[int | None, ...], ...] = field(default=(), repr=False)
    record: Any = field(default=None, repr=False, compare=False)


def exactly(value: Any) -> str:
    """The value as text that is the same for equal values only, also of large arrays."""
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return str(value)


@dataclass(frozen=True)
class Crossed:
    """A layer that was moved here from the other side of the border of a nested model.

    Attributes:
        source: the layer.
        name: what it is called here.
    """

    source: Any
    name: str


@dataclass(frozen=True)
class LaidOpen:
    """A composite of which the calls stand in the graph around it.

    Attributes:
        record: the graph that it had.
        names: what its layers are called in the graph around it.
        shared: those of the layers that others call too.
    """

    record: Graph
    names: frozenset[str]
    shared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Calls:
    """The calls of a graph at one time, in an order in which they can be computed."""

    nodes: tuple[Node, ...]
    inputs: Any
    outputs: Any


class Graph:
    """The calls of one model: nodes in a directed graph, edges keyed by the argument they fill.

    Attributes:
        name: the model's name.
        sequential: whether Keras held the model as a `Sequential`.
        trainable: the model's flag of that name.
        inputs: the structure that the model takes, with a Ref for each tensor.
        output_refs: the flat list of the tensors that the model returns.
        output_ids: the calls that compute these.
        rewritten: whether a rule changed something here.
        source: the model that the graph was lifted from.
        frozen: whether nothing here may be rewritten.
        masked: whether it gets tensors that have a mask, which Keras does not show inside.
        training: whether a call of it has training=True.
        trace: how it was recorded, if it is the record of the calls of a layer or model that is
            written in Python.
        laid_open: the composites of which the calls stand here, in the place of theirs.
        crossed: the layers that were moved here across the border of a nested model.
        lifted: its calls before any rule was applied.
        spare: a copy of what it was lifted from, if one was made.
        guessed: the inputs, with a `Tensor` for each tensor, if nobody knows their dtypes.
        narrowed: which sizes it does not take that its source takes, and why; empty if it does.
        dag: the `networkx.MultiDiGraph` of the numbers of the nodes. A multigraph, for
            `Add()([x, x])` has two equal edges.
    """

    def __init__(self, name: str, *, sequential: bool = False, trainable: bool = True) -> None:
        self.name = name
        self.sequential = sequential
        self.trainable = trainable
        self.inputs: Any = []
        self.outputs = []
        self.rewritten = False
        self.source: Any = None
        self.frozen = False
        self.masked = False
        self.training = False
        self.trace: Trace | None = None
        self.laid_open: list[LaidOpen] = []
        self.crossed: list[Crossed] = []
        self.lifted: Calls | None = None
        self.spare: keras.Layer | None = None
        self.guessed: Any = None
        self.narrowed = ""
        self.dag = nx.MultiDiGraph()
        self._nodes: dict[int, Node] = {}
        self._alike = Alike()
        self._order: list[int] | None = None  # until an edge changes
        self._next = 0

    def __getitem__(self, node_id: int) -> Node:
        return self._nodes[node_id]

    def __contains__(self, node_id: int) -> bool:
        return node_id in self._nodes

    def __iter__(self) -> Iterator[Node]:
        """The nodes in an order in which they can be computed, the same in every run."""
        if self._order is None:
            self._order = list(nx.lexicographical_topological_sort(self.dag))
        for node_id in self._order:
            yield self[node_id]

    def __len__(self) -> int:
        return len(self.dag)

    def new_id(self) -> int:
        """A number that no node has."""
        self._next += 1
        return self._next - 1

    def put(self, node: Node) -> None:
        """Add the node, or let it take the place of the one with the same number."""
        before: tuple[Ref, ...] = ()
        if node.id in self:
            before = self[node.id].refs
            self._alike.discard(self[node.id])
        else:
            self._order = None
        self._nodes[node.id] = node
        self._alike.add(node)
        self.dag.add_node(node.id)
        # Of the many tensors that a call may read, a rewrite changes one.
        pairs = enumerate(itertools.zip_longest(before, node.refs))
        for slot, old, new in [(slot, *pair) for slot, pair in pairs if pair[0] is not pair[1]]:
            self._order = None
            if old is not None:
                self.dag.remove_edge(old.node, node.id, key=slot)
            if new is not None:
                self.dag.add_edge(new.node, node.id, key=slot)

    def redirect(self, old: Ref, new: Ref) -> None:
        """Let all calls that read one tensor read another one."""
        place = (old.node, old.index)
        for reader in {node.id: node for node in self.consumers(old.node)}.values():
            given = (reader.args, reader.kwargs)
            leaves = [
                new if isinstance(leaf, Ref) and (leaf.node, leaf.index) == place else leaf
                for leaf in keras.tree.flatten(given)
            ]
            args, kwargs = keras.tree.pack_sequence_as(given, leaves)
            self.put(replace(reader, args=args, kwargs=kwargs))

    def remove(self, node_id: int) -> None:
        """Take out a node that nothing reads."""
        self._order = None
        self.dag.remove_node(node_id)
        self._alike.discard(self._nodes.pop(node_id))

    def restore(self) -> None:
        """Undo what rules did, in this graph alone."""
        assert self.lifted is not None
        self._order = None
        self.dag.clear()
        self._nodes.clear()
        self._alike = Alike()
        for node in self.lifted.nodes:
            self.put(node)
        self.inputs, self.outputs = self.lifted.inputs, self.lifted.outputs
        self.rewritten = False

    def prune(self) -> None:
        """Take out the calls that no output depends on; inputs stay."""
        needed = {ref.node for ref in keras.tree.flatten((self.inputs, self.outputs))}
        frontier = list(needed)
        while frontier:
            for ancestor in self.dag.predecessors(frontier.pop()):
                if ancestor not in needed:
                    needed.add(ancestor)
                    frontier.append(ancestor)
        for node_id in [node_id for node_id in self.dag if node_id not in needed]:
            self.remove(node_id)

    @property
    def outputs(self) -> Any:
        """The structure that the model returns, with a Ref for each tensor."""
        return self._outputs

    @outputs.setter
    def outputs(self, structure: Any) -> None:
        self._outputs = structure
        refs = (leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, Ref))
        self.output_refs: tuple[Ref, ...] = tuple(refs)
        self.output_ids = frozenset(ref.node for ref in self.output_refs)

    def producer(self, ref: Ref) -> Node:
        """The call that computes a tensor."""
        return self[ref.node]

    def tensor(self, ref: Ref) -> Tensor:
        """What is known of a tensor."""
        return self[ref.node].outputs[ref.index]

    def consumers(self, node_id: int) -> list[Node]:
        """The calls that read an output of the node, one entry a use."""
        return [self[reader] for _, reader, _ in self.dag.out_edges(node_id, keys=True)]

    def readers(self, node_id: int) -> list[Node]:
        """The calls that read an output of the node, each once, in the order of their numbers."""
        return [self._nodes[reader] for reader in sorted(self.dag.successors(node_id))]

    def alike(self, node: Node) -> list[Node]:
        """The calls of equal layers on equal tensors, and maybe some more; the node is one."""
        return self._alike.to(node)

    def verify_node(self, node: Node) -> None:
        """Check one call: what it reads exists.

        Raises:
            GraphError: a Ref leads nowhere.
        """
        for ref in node.refs:
            if ref.node not in self or ref.index >= len(self[ref.node].outputs):
                raise GraphError(f"{node.layer} reads a tensor that nothing computes: {ref}")

    def verify(self) -> None:
        """Check the whole graph.

        Raises:
            GraphError: a Ref leads nowhere, there is a cycle, or two layers have one name.
        """
        if not nx.is_directed_acyclic_graph(self.dag):
            raise GraphError(f"the graph of '{self.name}' has a cycle")
        owners: dict[str, Layer] = {}
        for node in self:
            self.verify_node(node)
            if owners.setdefault(node.layer.name, node.layer) is not node.layer:
                raise GraphError(f"two layers of '{self.name}' have the name '{node.layer.name}'")
        for ref in self.output_refs:
            if ref.node not in self:
                raise GraphError(f"'{self.name}' returns a tensor that nothing computes: {ref}")


def walk(graph: Graph) -> Iterator[tuple[tuple[str, ...], Graph]]:
    """The graph and all graphs nested in it, each once, with the path of names that leads there."""
    seen: set[int] = set()
    stack: list[tuple[tuple[str, ...], Graph]] = [((), graph)]
    while stack:
        path, current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield path, current
        nested = [node.layer for node in current if node.layer.graph is not None]
        for layer in reversed(nested):
            assert layer.graph is not None
            stack.append(((*path, layer.name), layer.graph))


def rewritten_graphs(graph: Graph) -> set[Graph]:
    """The graphs, this one and those nested in it, that a rule changed, or a graph inside them."""
    found: dict[Graph, bool] = {}

    def is_rewritten(each: Graph) -> bool:
        if each not in found:
            inside = (node.layer.graph for node in each if node.layer.graph is not None)
            found[each] = each.rewritten or any(map(is_rewritten, inside))
        return found[each]

    return {nested for _, nested in walk(graph) if is_rewritten(nested)}
