"""Composites laid open where something folds across their border.

A rule matches calls of one graph. Most composites hold a convolution with its normalization, and
are rewritten inside. But some hold the one and not the other, or a branch each of an addition that
becomes one convolution: the calls of those are put beside what they belong to. So are those of
composites that call a layer which others call too: in the result they could be no models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import layers

from kito.definition import Rule
from kito.graph.cost import CONVOLUTIONS, TRANSPOSED
from kito.graph.hazards import ADDITIONS
from kito.graph.inline import free_name, inline, is_seamless, shared_inside
from kito.graph.ir import Graph, LaidOpen, Node, Ref, walk
from kito.graph.keras_internals import sublayers
from kito.graph.layer import Layer
from kito.graph.trace import is_written_in_python
from kito.report import Applied

LINEAR = (*CONVOLUTIONS, *TRANSPOSED, layers.Dense, layers.EinsumDense)
NORMALIZATION = layers.BatchNormalization
PADDINGS = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)


def lay_open(root: Graph, closed: Collection[Any] = (), opened: Collection[Any] = ()) -> bool:
    """Put the calls inside some composites in the place of theirs; whether there are any.

    Args:
        root: that of the whole model. The graphs get to know what was laid open in them: whether
            these traces are right is to be checked all the same.
        closed: the composites that are not.
        opened: those, and models in them, that are, for the result can't have them.
    """
    found = False
    while _lay_open_some(root, closed, opened):  # those that become visible are next
        found = True
    return found


def _lay_open_some(root: Graph, closed: Collection[Any], opened: Collection[Any]) -> bool:
    graphs = [graph for _, graph in walk(root)]
    shared = shared_inside(graphs)
    found = False
    for graph in graphs:
        for node in list(graph):
            node = graph[node.id]  # it may read one that is laid open by now
            forced = node.layer.source in opened
            if (
                (forced or (_is_composite(node) and node.layer.source not in closed))
                and is_seamless(graph, node)
                and (layers := shared(node.layer)) is not None
                and (forced or (_hold_weights(layers) if layers else _folds(graph, node)))
                and _have_free_names(graph, layers)
            ):
                _lay_open(graph, node, layers)
                found = True
    return _lay_open_together(graphs, opened) or found


def _lay_open_together(graphs: list[Graph], opened: Collection[Any]) -> bool:
    """Put the calls inside a composite, or a model in one, that is called several times and that
    the result can't have, in the place of each of its calls; whether there is one.
    """
    calls = Counter(node.layer for graph in graphs for node in graph)
    for inside in dict.fromkeys(layer.graph for layer in calls if layer.source in opened):
        sites = [(graph, node) for graph in graphs for node in graph if node.layer.graph is inside]
        if inside is None or not all(is_seamless(graph, node) for graph, node in sites):
            continue
        own = Counter(node.layer for node in inside)
        others = {layer for layer, count in own.items() if calls[layer] != count}
        around = list(dict.fromkeys(graph for graph, _ in sites))
        if all(_have_free_names(graph, others) for graph in around):
            _have_names_in_common(inside, others, sites)
            layers = {node.layer for node in inside}
            for graph, node in sites:
                _lay_open(graph, graph[node.id], layers)
            return True
    return False


def _have_names_in_common(
    inside: Graph, others: set[Layer], sites: list[tuple[Graph, Node]]
) -> None:
    """Let the layers inside a composite have names that are free wherever it is called.

    Args:
        others: those that are called elsewhere too, and keep their names.
    """
    composite = sites[0][1].layer
    taken = {layer.name for layer in others}
    taken |= {node.layer.name for graph, _ in sites for node in graph if node.layer.graph != inside}
    last = {inside.producer(ref).layer for ref in inside.output_refs}
    named: dict[Layer, Layer] = {layer: layer for layer in others}
    for call in list(inside):
        if call.layer not in named and call.layer.cls is not layers.InputLayer:
            named[call.layer] = replace(
                call.layer, name=free_name(composite, call.layer, last, taken)
            )
            taken.add(named[call.layer].name)
        inside.put(replace(call, layer=named.get(call.layer, call.layer)))


def _lay_open(graph: Graph, node: Node, shared: Collection[Layer]) -> None:
    inside = node.layer.graph
    assert inside is not None
    named = inline(graph, node, shared)
    names = frozenset(named.values())
    around = [
        replace(each, names=each.names | names) if node.layer.name in each.names else each
        for each in graph.laid_open
    ]
    within = [
        replace(each, names=frozenset(named[name] for name in each.names if name in named))
        for each in inside.laid_open
    ]
    own = LaidOpen(inside, names, frozenset(layer.name for layer in shared))
    graph.laid_open = [*around, own, *within]


def laid_open_in_vain(root: Graph, applied: Sequence[Applied], rules: Sequence[Rule]) -> set[Any]:
    """The composites of which the border was no hindrance: no rule that is a reason to open them
    took layers from both sides.

    Args:
        applied: the rewrites that were made.
        rules: those that were used.
    """
    reasons = {rule.name for rule in rules if rule.opens}
    rewrites = [each for each in applied if each.rule in reasons]
    return {
        opened.record.trace.source
        for path, graph in walk(root)
        for opened in graph.laid_open
        if opened.record.trace is not None
        and not any(each.path == path and _is_across(opened, {*each.layers}) for each in rewrites)
    }


def _is_across(opened: LaidOpen, layers: set[str]) -> bool:
    """Whether layers stood on both sides of a border, or others call one of them too."""
    return bool((opened.names & layers and layers - opened.names) or opened.shared & layers)


def may_fold_behind(graph: Graph, node: Node) -> bool:
    """Whether a layer that nobody has looked into holds a linear one, and what reads its output a
    normalization.
    """
    readers = graph.readers(node.id)
    return (
        is_written_in_python(node.layer.source)
        and _holds(node.layer.source, LINEAR)
        and len(readers) == 1
        and _holds(readers[0].layer.source, NORMALIZATION)
    )


def _holds(operation: keras.Operation, kinds: Any) -> bool:
    parts = sublayers(operation) if isinstance(operation, keras.Layer) else ()
    return any(issubclass(type(part), kinds) for part in parts)


def _folds(graph: Graph, node: Node) -> bool:
    """Whether something may fold across the border of a composite."""
    return _folds_before(graph, node) or _folds_behind(graph, node) or _is_branch(graph, node)


def _hold_weights(layers: Collection[Layer]) -> bool:
    """Whether a model with layers that others call too could not be loaded, see `find_flat` in
    codegen.py.
    """
    return any(layer.parameters for layer in layers)


def _have_free_names(graph: Graph, layers: Collection[Layer]) -> bool:
    """Whether layers that others call too can have their names in a graph."""
    names = {node.layer.name: node.layer for node in graph}
    return all(names.get(layer.name, layer) is layer for layer in layers)


def _is_composite(node: Node) -> bool:
    return node.layer.graph is not None and node.layer.graph.trace is not None


def _folds_before(graph: Graph, node: Node) -> bool:
    """Whether a composite begins with a normalization of what a linear layer computes."""
    inside = node.layer.graph
    assert inside is not None
    pairs = zip(keras.tree.flatten(inside.inputs), node.refs, strict=True)
    return any(
        _kinds(map(_first, inside.readers(inner.node))) == [NORMALIZATION]
        and _reads_once(graph, outer)
        and is_linear(_last(graph.producer(outer)))
        for inner, outer in pairs
    )


def _folds_behind(graph: Graph, node: Node) -> bool:
    """Whether a composite ends with a linear layer, of which a normalization reads the output."""
    return (
        is_linear(_last(node))
        and _reads_once(graph, Ref(node.id))
        and _kinds(map(_first, graph.readers(node.id))) == [NORMALIZATION]
    )


def _is_branch(graph: Graph, node: Node) -> bool:
    """Whether a composite is a branch of an addition, and another reads the same tensor."""
    given = _read_by_branch(graph, node)
    return given is not None and any(
        _read_by_branch(graph, summand) == given
        for reader in graph.readers(node.id)
        if reader.layer.cls in ADDITIONS
        for summand in map(graph.producer, reader.refs)
        if summand is not node
    )


def _read_by_branch(graph: Graph, node: Node) -> Ref | None:
    """The tensor of which a call gives a linear function: a convolution of it, a normalization, or
    both, also inside a composite.
    """
    if _is_composite(node):
        inside = node.layer.graph
        assert inside is not None
        inputs, outputs = keras.tree.flatten(inside.inputs), inside.output_refs
        one = len(inputs) == len(outputs) == 1
        last = inside.producer(outputs[0])
        return node.refs[0] if one and _read_by_branch(inside, last) == inputs[0] else None
    if node.layer.cls is NORMALIZATION and len(graph.consumers(node.refs[0].node)) == 1:
        before = _read_by_branch(graph, graph.producer(node.refs[0]))
        return node.refs[0] if before is None else before
    if node.layer.cls is NORMALIZATION:
        return node.refs[0]
    if is_linear(node):
        padding = graph.producer(node.refs[0])
        return (padding if padding.layer.cls in PADDINGS else node).refs[0]
    return None


def is_linear(node: Node) -> bool:
    """Whether a call is a linear function of what it reads, and of its weights."""
    return issubclass(node.layer.cls, LINEAR) and node.layer.config["activation"] == "linear"


def _last(node: Node) -> Node:
    """The call that computes what a call gives, inside a composite that gives one tensor."""
    inside = node.layer.graph
    if not _is_composite(node) or inside is None or len(inside.output_refs) != 1:
        return node
    return _last(inside.producer(inside.output_refs[0]))


def _first(node: Node) -> Node:
    """The call that reads what a call gets, inside a composite that gets one tensor."""
    inside = node.layer.graph
    if not _is_composite(node) or inside is None:
        return node
    readers = [
        each for ref in keras.tree.flatten(inside.inputs) for each in inside.readers(ref.node)
    ]
    return _first(readers[0]) if len(readers) == 1 else node


def _reads_once(graph: Graph, ref: Ref) -> bool:
    return len(graph.consumers(ref.node)) == 1 and ref.node not in graph.output_ids


def _kinds(nodes: Iterable[Node]) -> list[type]:
    return [node.layer.cls for node in nodes]
