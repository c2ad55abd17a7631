"""Affine maps moved across the border of a nested model, to the linear layer that they belong to.

A rule matches calls of one graph. What a model's own user nests in it keeps its name and its
border, so the border stays, and a BatchNormalization behind a nested model that ends with a
convolution becomes the last layer inside; one with which a nested model begins, behind a
convolution, becomes a layer of the model around it. The same where the linear layer follows, and
where the nested model takes the place of a composite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
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


def cross(root: Graph, closed: Collection[Any], loses_its_class: Callable[[Graph], bool]) -> bool:
    """Move affine maps across borders; whether there are any. The graphs get to know which.

    Args:
        root: that of the whole model.
        closed: the layers that stay.
        loses_its_class: whether the result has a model in the place of a composite.
    """
    found = False
    # What was moved may cross the next border then.
    while sum(map(_move, _places(root, closed, loses_its_class))):
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
        above: the graph that computes the tensor, and its name there.
        below: the graph that reads it, and its name there.
        movable: the layers that may be moved.
        models: the graphs of nested models, which are models in the result too.
    """

    root: Graph
    graph: Graph
    node: Node
    inside: Graph
    above: tuple[Graph, Ref]
    below: tuple[Graph, Ref]
    movable: Collection[Layer]
    models: Collection[Graph | None]


def _places(
    root: Graph, closed: Collection[Any], loses_its_class: Callable[[Graph], bool]
) -> Iterator[_Border]:
    """The tensors that nested models take and return, as they are when it is asked for them."""
    graphs = [graph for _, graph in walk(root)]
    calls = Counter(node.layer for graph in graphs for node in graph)
    movable = {
        layer
        for layer, count in calls.items()
        if count == 1 and layer.cls in AFFINE and layer.source not in closed
    }
    if not movable:
        return
    models = {
        layer.graph
        for layer in calls
        if layer.graph is not None
        if (loses_its_class(layer.graph) if layer.graph.trace else layer.cls in MODELS)
    }
    is_alone = alone(graphs)
    written = [root] if root.trace is None and not root.frozen else []
    for graph in written:
        for number in [each.id for each in graph if each.layer.graph in models]:
            node = graph[number]  # of which others may have moved what it reads
            inside = node.layer.graph
            if inside is None or not is_alone(node.layer):
                continue
            written.append(inside)
            if not is_seamless(graph, node):
                continue
            inner = keras.tree.flatten(inside.inputs)
            for taken, given in zip(inner, node.refs, strict=True):
                above, below = (graph, given), (inside, taken)
                yield _Border(root, graph, node, inside, above, below, movable, models)
            if number not in graph:  # it was empty
                continue
            for index, ref in enumerate(keras.tree.flatten(inside.outputs)):
                above, below = (inside, ref), (graph, Ref(node.id, index))
                yield _Border(root, graph, node, inside, above, below, movable, models)


def _uses(graph: Graph, ref: Ref) -> tuple[int, int]:
    """How often calls read a tensor, and how often the model returns it."""
    read = [leaf for each in graph.readers(ref.node) for leaf in each.refs]
    return read.count(ref), graph.output_refs.count(ref)


def _reader(graph: Graph, ref: Ref) -> Node:
    """The call that reads a tensor."""
    return next(each for each in graph.readers(ref.node) if ref in each.refs)


def _move(border: _Border) -> bool:
    """Move a layer across a border, if there is one to move."""
    (above, made), (below, read) = border.above, border.below
    if sum(_uses(above, made)) != 1 or _uses(below, read) != (1, 0):
        return False
    first, last = _reader(below, read), above.producer(made)
    if _is_affine(below, first, border) and _is_behind_linear(above, made, border):
        _leave(below, first)
        _enter(above, first, made)
    elif (
        _is_affine(above, last, border)
        and _is_before_linear(below, read, border)
        and not _is_behind_linear(above, last.input, border)
    ):
        _leave(above, last)
        _enter(below, last, read)
    else:
        return False
    _lay_open_if_empty(border)
    return True


def _is_affine(graph: Graph, node: Node, border: _Border) -> bool:
    """Whether a call is one of a layer that may be moved."""
    if node.layer not in border.movable or node.args != node.refs or any(node.kwargs.values()):
        return False
    # The output of the whole model is called as the layer that computes it.
    named = graph is border.root and node.id in graph.output_ids
    return not named and not node.output.masked and graph.tensor(node.input) == node.output


def _is_behind_linear(graph: Graph, ref: Ref, border: _Border) -> bool:
    """Whether a tensor is used once, and a linear layer computes it, here or in a nested model."""
    node = graph.producer(ref)
    inside = node.layer.graph
    if sum(_uses(graph, ref)) != 1:
        return False
    if inside is None or inside not in border.models:
        return is_linear(node)
    return _is_behind_linear(inside, keras.tree.flatten(inside.outputs)[ref.index], border)


def _is_before_linear(graph: Graph, ref: Ref, border: _Border) -> bool:
    """Whether all that reads a tensor is a linear layer, here or in a nested model."""
    if _uses(graph, ref) != (1, 0):
        return False
    node = _reader(graph, ref)
    inside = node.layer.graph
    if inside is None or inside not in border.models:
        return issubclass(node.layer.cls, LINEAR)  # whatever is applied to what it computes
    taken = keras.tree.flatten(inside.inputs)[node.refs.index(ref)]
    return _is_before_linear(inside, taken, border)


def _leave(graph: Graph, node: Node) -> None:
    """Take a layer out: what was made of its output is made of what it read."""
    graph.redirect(Ref(node.id), node.input)
    graph.outputs = _replaced(graph.outputs, Ref(node.id), node.input)
    graph.remove(node.id)


def _enter(graph: Graph, node: Node, read: Ref) -> None:
    """Call a layer on a tensor of another graph, in which it gets a name that is free: what was
    made of the tensor is made of what it gives.
    """
    taken = {each.layer.name for each in graph}
    around = Layer(Functional, graph.name)
    name = next(each for each in names_inside(around, node.layer) if each not in taken)
    made = graph.tensor(read)  # of which there may be known more, or less, than there
    new = Node(graph.new_id(), replace(node.layer, name=name), (read,), {}, (made,))
    readers = graph.readers(read.node)
    graph.put(new)
    for reader in readers:
        args, kwargs = _replaced((reader.args, reader.kwargs), read, Ref(new.id))
        graph.put(replace(reader, args=args, kwargs=kwargs))
    graph.outputs = _replaced(graph.outputs, read, Ref(new.id))
    graph.crossed.append(Crossed(node.layer.source, name))


def _replaced(structure: Any, old: Ref, new: Ref) -> Any:
    return keras.tree.map_structure(lambda leaf: new if leaf == old else leaf, structure)


def _lay_open_if_empty(border: _Border) -> None:
    """A model of which nothing is left is none."""
    if {Ref(node.id) for node in border.inside} == {*keras.tree.flatten(border.inside.inputs)}:
        inline(border.graph, border.graph[border.node.id])
