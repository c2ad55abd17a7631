"""Models that a composite layer calls, such as a Sequential for each branch, laid open inside it.

Rules match calls of one graph. What a model's own user nests in it keeps its name and its border; a
composite of which the calls take the place has none that anybody could ask for.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import keras

from kito.graph.inference import infer_outputs
from kito.graph.ir import Graph, Node, Ref, walk
from kito.graph.keras_internals import Functional
from kito.graph.layer import Layer


def inline_models(graph: Graph) -> None:
    """Put the calls inside models that composites call once in the place of that call.

    Args:
        graph: that of the whole model.
    """
    nested = [each for _, each in walk(graph)]
    is_alone = alone(nested)
    for each in nested:
        while each.trace is not None and (
            found := [
                node
                for node in each
                if node.layer.cls in (Functional, keras.Sequential)
                and is_seamless(each, node)
                and is_alone(node.layer)
            ]
        ):
            for node in found:
                inline(each, each[node.id])  # it may read one that is laid open by now


def alone(graphs: list[Graph]) -> Callable[[Layer], bool]:
    """What tells whether nobody else calls a layer, or a layer inside it.

    Args:
        graphs: all of the whole model.
    """
    shared = shared_inside(graphs)
    return lambda layer: shared(layer) == set()


def shared_inside(graphs: list[Graph]) -> Callable[[Layer], set[Layer] | None]:
    """What tells which layers inside a layer others call too; None if they call that itself.

    Args:
        graphs: all of the whole model.
    """
    calls = Counter(node.layer for each in graphs for node in each)
    holders = Counter(layer.graph for layer in calls if layer.graph is not None)

    def shared(layer: Layer) -> set[Layer] | None:
        inside = layer.graph
        if inside is None or calls[layer] > 1 or holders[inside] > 1:
            return None
        own = Counter(node.layer for node in inside)
        return {each for each, count in own.items() if calls[each] != count}

    return shared


def is_seamless(graph: Graph, node: Node) -> bool:
    """Whether a call is no more than the calls inside it: nothing is cast, and no mask begins there
    that the calls around it would see then.
    """
    inside = node.layer.graph
    if inside is None:
        return False
    masks = inside.masked or any(each.masked for call in inside for each in call.outputs)
    if masks or inside.training:
        return False
    given = [graph.tensor(ref) for ref in node.refs]
    taken = [inside.tensor(ref) for ref in keras.tree.flatten(inside.inputs)]
    # A Functional model takes what it gets as it is.
    casts = not isinstance(node.layer.source, Functional)
    own = node.layer.source.input_dtype
    return len(given) == len(taken) and all(
        one.dtype == other.dtype
        and len(one.shape) == len(other.shape)
        and (not casts or one.dtype == own or not keras.backend.is_float_dtype(one.dtype))
        for one, other in zip(given, taken, strict=True)
    )


def inline(graph: Graph, node: Node, shared: Collection[Layer] = ()) -> dict[str, str]:
    """Put the calls inside a model or composite in the place of its call.

    What computes its output, if that is one, gets its name: an output of a model is called so.

    Args:
        shared: layers inside that others call too; they stay what they are.

    Returns:
        The names that its layers have in the graph, by those that they had.
    """
    inside = node.layer.graph
    assert inside is not None
    places: dict[Ref, Ref] = dict(zip(keras.tree.flatten(inside.inputs), node.refs, strict=True))
    # A Sequential is built for what it is called on first.
    same = all(inside.tensor(old) == graph.tensor(new) for old, new in places.items())
    names = {each.layer.name for each in graph if each is not node}
    names |= {layer.name for layer in shared}
    last = {inside[ref.node].layer for ref in inside.output_refs}
    layers: dict[Layer, Layer] = {}

    def placed(leaf: Any) -> Any:
        return places[leaf] if isinstance(leaf, Ref) else leaf

    for call in inside:
        if Ref(call.id) in places:
            continue
        if call.layer in shared:
            layers[call.layer] = call.layer
        elif call.layer not in layers:
            name = free_name(node.layer, call.layer, last, names)
            names.add(name)
            layers[call.layer] = replace(call.layer, name=name)
        args, kwargs = keras.tree.map_structure(placed, (call.args, call.kwargs))
        layer = layers[call.layer]
        outputs = call.outputs if same else infer_outputs(graph, layer, args, kwargs)
        new = Node(graph.new_id(), layer, args, kwargs, outputs)
        graph.put(new)
        places |= {Ref(call.id, index): Ref(new.id, index) for index in range(len(call.outputs))}
    moved = {
        Ref(node.id, index): places[ref]
        for index, ref in enumerate(keras.tree.flatten(inside.outputs))
    }
    for old, new_ref in moved.items():
        graph.redirect(old, new_ref)
    graph.outputs = keras.tree.map_structure(
        lambda leaf: moved.get(leaf, leaf) if isinstance(leaf, Ref) else leaf, graph.outputs
    )
    graph.remove(node.id)
    return {old.name: new.name for old, new in layers.items()}


def free_name(outer: Layer, inner: Layer, last: set[Layer], taken: Collection[str]) -> str:
    """A name for a layer inside a model or composite that is laid open.

    Args:
        last: the layers that compute what it returns; one alone may have the name of the whole.
    """
    wanted = names_inside(outer, inner)
    if {inner} == last:
        wanted = itertools.chain([outer.name], wanted)
    return next(each for each in wanted if each not in taken)


def names_inside(outer: Layer, inner: Layer) -> Iterator[str]:
    """What a layer inside a model or composite may be called where that is laid open."""
    yield inner.name
    name = f"{outer.name}_{inner.name}"
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1
