"""Affine maps moved across the border of a nested model, to the linear layer that they belong to.

A rule matches calls of one graph. What a model's own user nests in it keeps its name and its
border, so the border stays, and a BatchNormalization behind a nested model that ends with a
convolution becomes the last layer inside; one with which a nested model begins, behind a
convolution, becomes a layer of the model around it. The same where the linear layer follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from kito.definition import Rule
from kito.graph.borders import LINEAR, is_linear
from kito.graph.inline import alone, inline, is_seamless, names_inside
from kito.graph.ir import Crossed, Graph, Node, Ref, walk
from kito.graph.keras_internals import Functional
from kito.graph.layer import Layer
from kito.report import Applied

MODELS = (Functional, keras.Sequential)
AFFINE = (
    keras.layers.BatchNormalization,
    keras.layers.Normalization,
    keras.layers.Rescaling,
)


def cross(root: Graph, closed: Collection[Any] = ()) -> bool:
    """Move affine maps across borders; whether there are any. The graphs get to know which.

    Args:
        root: that of the whole model.
        closed: the layers that stay.
    """
    found = False
    # What was moved may cross the next border then.
    while sum(_cross_one(*place) for place in _places(root, closed)):
        found = True
    return found


def crossed_in_vain(root: Graph, applied: Sequence[Applied], rules: Sequence[Rule]) -> set[Any]:
    """The layers that were moved, and that no rule which is a reason to move them took.

    Args:
        applied: the rewrites that were made.
        rules: those that were used.
    """
    reasons = {rule.name for rule in rules if rule.opens}
    rewrites = [each for each in applied if each.rule in reasons]
    moved = [(path, layer) for path, graph in walk(root) for layer in graph.crossed]
    taken = {
        layer.source
        for path, layer in moved  # one may have crossed several
        if any(each.path == path and layer.name in each.layers for each in rewrites)
    }
    return {layer.source for _, layer in moved} - taken


@dataclass(frozen=True)
class _Border:
    """The call of a nested model, and one of the tensors that cross its border.

    Attributes:
        root: the graph of the whole model.
        graph: in which the call stands.
        node: the call.
        inside: the graph of the nested model.
        outer, inner: the tensor, outside and inside.
        movable: the layers that may be moved.
    """

    root: Graph
    graph: Graph
    node: Node
    inside: Graph
    outer: Ref
    inner: Ref
    movable: Collection[Layer]


def _places(root: Graph, closed: Collection[Any]) -> Iterator[tuple[_Border, bool]]:
    """The tensors that nested models take, and those that they return, which is said with each, as
    they are when it is asked for them.
    """
    graphs = [graph for _, graph in walk(root)]
    calls = Counter(node.layer for graph in graphs for node in graph)
    movable = {
        layer
        for layer, count in calls.items()
        if count == 1 and layer.cls in AFFINE and layer.source not in closed
    }
    is_alone = alone(graphs)
    written = [root] if root.trace is None and not root.frozen else []
    for graph in written:
        for number in [each.id for each in graph if each.layer.cls in MODELS]:
            node = graph[number]  # of which others may have moved what it reads
            inside = node.layer.graph
            if inside is None or inside.trace is not None or not is_alone(node.layer):
                continue
            written.append(inside)
            if not is_seamless(graph, node):
                continue
            inner = keras.tree.flatten(inside.inputs)
            for taken, given in zip(inner, node.refs, strict=True):
                yield _Border(root, graph, node, inside, given, taken, movable), False
            if number not in graph:  # it was empty
                continue
            for index, ref in enumerate(keras.tree.flatten(inside.outputs)):
                yield _Border(root, graph, node, inside, Ref(node.id, index), ref, movable), True


def _cross_one(border: _Border, is_output: bool) -> bool:
    """Move a layer in or out at a border, if there is one to move."""
    if not _is_private(border, is_output):
        return False
    return (_move_at_output if is_output else _move_at_input)(border)


def _is_private(border: _Border, is_output: bool) -> bool:
    """Whether nothing else reads the tensor, on either side of the border."""
    inside = _uses(border.inside, border.inner)
    return _uses(border.graph, border.outer) == (1, 0) and inside == (
        (0, 1) if is_output else (1, 0)
    )


def _uses(graph: Graph, ref: Ref) -> tuple[int, int]:
    """How often calls read a tensor, and how often the model returns it."""
    read = [leaf for each in graph.readers(ref.node) for leaf in each.refs]
    return read.count(ref), graph.output_refs.count(ref)


def _reader(graph: Graph, ref: Ref) -> Node:
    """The call that reads a tensor."""
    return next(each for each in graph.readers(ref.node) if ref in each.refs)


def _move_at_output(border: _Border) -> bool:
    graph, inside, outer, inner = border.graph, border.inside, border.outer, border.inner
    reader = _reader(graph, outer)
    last = inside.producer(inner)
    if _is_affine(graph, reader, border) and _is_behind_linear(inside, inner):
        _leave(graph, reader, outer)
        new = _enter(inside, reader, inner)
        inside.outputs = _replaced(inside.outputs, inner, new)
        return True
    if (
        _is_affine(inside, last, border)
        and _is_before_linear(graph, outer)
        and not _is_behind_linear(inside, last.input)
    ):
        _leave(inside, last, last.input)
        new = _enter(graph, last, outer)
        graph.put(_reading(graph[reader.id], outer, new))
        _lay_open_if_empty(border)
        return True
    return False


def _move_at_input(border: _Border) -> bool:
    graph, inside, outer, inner = border.graph, border.inside, border.outer, border.inner
    reader = _reader(inside, inner)
    before = graph.producer(outer)
    if _is_affine(inside, reader, border) and _is_behind_linear(graph, outer):
        _leave(inside, reader, inner)
        new = _enter(graph, reader, outer)
        graph.put(_reading(graph[border.node.id], outer, new))
        _lay_open_if_empty(border)
        return True
    if (
        _is_affine(graph, before, border)
        and _is_before_linear(inside, inner)
        and not _is_behind_linear(graph, before.input)
    ):
        _leave(graph, before, before.input)
        new = _enter(inside, before, inner)
        inside.put(_reading(inside[reader.id], inner, new))
        return True
    return False


def _is_affine(graph: Graph, node: Node, border: _Border) -> bool:
    """Whether a call is one of a layer that may be moved."""
    if node.layer not in border.movable or node.args != node.refs or any(node.kwargs.values()):
        return False
    # The output of the whole model is called as the layer that computes it.
    named = graph is border.root and node.id in graph.output_ids
    return not named and not node.output.masked and graph.tensor(node.input) == node.output


def _is_behind_linear(graph: Graph, ref: Ref) -> bool:
    """Whether a tensor is used once, and a linear layer computes it, here or in a nested model."""
    node = graph.producer(ref)
    inside = node.layer.graph
    if sum(_uses(graph, ref)) != 1:
        return False
    if node.layer.cls not in MODELS or inside is None:
        return is_linear(node)
    return _is_behind_linear(inside, keras.tree.flatten(inside.outputs)[ref.index])


def _is_before_linear(graph: Graph, ref: Ref) -> bool:
    """Whether all that reads a tensor is a linear layer, here or in a nested model."""
    if _uses(graph, ref) != (1, 0):
        return False
    node = _reader(graph, ref)
    inside = node.layer.graph
    if node.layer.cls not in MODELS or inside is None:
        return issubclass(node.layer.cls, LINEAR)  # whatever is applied to what it computes
    return _is_before_linear(inside, keras.tree.flatten(inside.inputs)[node.refs.index(ref)])


def _leave(graph: Graph, node: Node, read: Ref) -> None:
    """Take a layer out: what was made of its output is made of what it read."""
    graph.redirect(Ref(node.id), read)
    graph.outputs = _replaced(graph.outputs, Ref(node.id), read)
    graph.remove(node.id)


def _enter(graph: Graph, node: Node, read: Ref) -> Ref:
    """Call a layer on a tensor of another graph, in which it gets a name that is free."""
    taken = {each.layer.name for each in graph}
    around = Layer(Functional, graph.name)
    name = next(each for each in names_inside(around, node.layer) if each not in taken)
    made = graph.tensor(read)  # of which there may be known more, or less, than there
    new = Node(graph.new_id(), replace(node.layer, name=name), (read,), {}, (made,))
    graph.put(new)
    graph.crossed.append(Crossed(node.layer.source, name))
    return Ref(new.id)


def _reading(node: Node, old: Ref, new: Ref) -> Node:
    args, kwargs = _replaced((node.args, node.kwargs), old, new)
    return replace(node, args=args, kwargs=kwargs)


def _replaced(structure: Any, old: Ref, new: Ref) -> Any:
    return keras.tree.map_structure(lambda leaf: new if leaf == old else leaf, structure)


def _lay_open_if_empty(border: _Border) -> None:
    """A model of which nothing is left is none."""
    if {Ref(node.id) for node in border.inside} == {*keras.tree.flatten(border.inside.inputs)}:
        inline(border.graph, border.graph[border.node.id])
