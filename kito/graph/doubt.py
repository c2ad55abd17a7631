"""May the calls inside a layer or model take its place? Asked only where the result has them.

A trace must be what its layer computes, and what has a class of its own may be saved where its
parts can't.

To find out costs more than to record the trace, and most composites, such as those of networks of
text, are copied as they are, for no rule applies in them. So rules are applied as if every trace
were right; then those in which one was are checked, and where one is not faithful, all is done
again without it.

A composite that holds composites is checked together with them, in one run: only if that fails
is it found out which of them is at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import cache

import keras

from kito.graph.copying import can_load, copy_and_call, copy_layer
from kito.graph.faithful import Opened, check_faithful, opened_graphs, scales
from kito.graph.inference import placeholder
from kito.graph.ir import Graph, Tensor, Trace, rewritten_graphs, walk
from kito.graph.keras_internals import Functional, is_graph_class, is_users, shell, sublayers
from kito.graph.layer import Layer
from kito.graph.record import UntraceableError
from kito.graph.sizes import check_sizes
from kito.graph.trace import Outputs

# What holds layers and has no more to save than they have.
CONTAINERS = (Functional, keras.Sequential, keras.layers.TimeDistributed)


def unfaithful(
    graph: Graph, savable: bool = True, known: Collection[keras.Layer] = ()
) -> tuple[dict[keras.Layer, UntraceableError], set[keras.Layer]]:
    """What would lose its class, though the calls inside can't take its place.

    These are composites whose traces are not what they compute, and models of a class of their own,
    or composites, that can be saved and loaded, which their parts can't.

    Args:
        graph: that of the model, after its rewrites.
        savable: whether Keras must be able to load the result, if it can load the model.
        known: the layers of users inside which nobody need look any more.

    Returns:
        What is wrong with each; and the layers that can't be loaded, where the calls that those
        make may take their place too.
    """
    rewritten = rewritten_graphs(graph)
    # Of composites in composites all is asked again.
    is_copied, loads = cache(_is_copied), cache(can_load)
    outputs: Outputs = {}

    def opened(layer: Layer) -> bool:
        return is_run(layer) and layer.graph in rewritten

    found: dict[keras.Layer, UntraceableError] = {}
    unloadable: dict[keras.Layer, UntraceableError] = {}
    plain: set[keras.Layer] = set()
    believed: set[Graph] = set()
    graphs = [nested for _, nested in walk(graph)]
    doubtful = [nested for nested in graphs if nested in rewritten]
    doubtful += [
        opened.record
        for nested in graphs
        if nested.trace is None or nested in rewritten  # or it is copied, with all in it
        for opened in nested.laid_open
    ]
    if not (graph in doubtful or graph.frozen or is_graph_class(type(graph.source))):
        doubtful.append(graph)  # it loses its class
    for nested in doubtful:
        source = nested.source if nested.trace is None else nested.trace.source
        if type(source) in CONTAINERS:
            continue
        parts = _harder_to_load(source, nested, opened, is_copied, loads) if savable else []
        if parts:
            unloadable[source] = _unloadable_error(source, parts[0])
            if all(is_users(type(part)) and part not in known for part in parts):
                plain.update(parts)
            continue
        try:
            if nested.trace is not None:
                _check_sizes(nested, outputs)
                if nested not in believed:
                    believed.update(_check(nested, opened))
        except UntraceableError as error:
            found[source] = error
    if plain:
        return found, plain
    # What holds one of these may be rewritten where that is kept whole.
    found |= {
        source: error
        for source, error in unloadable.items()
        if not any(part in unloadable for part in sublayers(source)[1:])
    }
    return found, plain


def check_copied(graph: Graph) -> Iterator[Graph]:
    """Check the trace of a composite that can't be copied, together with those inside it.

    Returns:
        The graphs that were checked.

    Raises:
        UntraceableError: it is not what the composite computes.
    """
    assert graph.trace is not None
    _check_sizes(graph, {})
    source = graph.trace.source
    if parts := _harder_to_load(source, graph, is_run, _is_copied, can_load):
        raise _unloadable_error(source, parts[0])
    return _check(graph, is_run)


def check_alone(graph: Graph) -> None:
    """Check a trace; what it calls is called.

    Raises:
        UntraceableError: it is not what its layer computes.
    """
    _check_sizes(graph, {})
    check_faithful(graph, opened=lambda layer: False)


def _check_sizes(graph: Graph, known: Outputs) -> None:
    """Whether the call does the same at every size; what sizes go together is found out first.

    Args:
        known: see `trace`.

    Raises:
        UntraceableError: it does not.
    """
    assert graph.trace is not None
    graph.trace = replace(graph.trace, scales=scales(graph.trace))
    check_sizes(graph.trace, known)


def is_run(layer: Layer) -> bool:
    """Whether a layer computes what its graph computes; a wrapper calls it in its own way."""
    return layer.cls is not keras.layers.TimeDistributed


def _check(graph: Graph, opened: Opened) -> Iterator[Graph]:
    """The graphs that are found to be faithful together with that of a composite.

    Raises:
        UntraceableError: its own trace is not faithful, whatever the composites inside it are.
    """
    for inside in (opened, lambda layer: False):
        try:
            check_faithful(graph, opened=inside)
            return opened_graphs(graph, inside)
        except UntraceableError as error:
            reason = error
    raise reason


def _unloadable_error(source: keras.Layer, part: keras.Layer) -> UntraceableError:
    return UntraceableError(
        f"Keras can load the {type(source).__name__}, but not the {type(part).__name__} inside "
        "it on its own: is that registered, with a complete `get_config`? If the result is not "
        "saved, `savable=False` optimizes it all the same"
    )


def _harder_to_load(
    source: keras.Layer,
    graph: Graph,
    opened: Opened,
    is_copied: Callable[[Layer], bool],
    loads: Callable[[keras.Operation], bool],
) -> list[keras.Layer]:
    """The layers inside a composite or a model that Keras can't load on their own, though it can
    load that: what would take its place must not be harder to save and load.
    """
    parts = [part.source for part in _unloadable(graph, opened, is_copied, loads)]
    return parts if parts and loads(source) else []


def _unloadable(
    graph: Graph,
    opened: Opened,
    is_copied: Callable[[Layer], bool],
    loads: Callable[[keras.Operation], bool],
) -> Iterator[Layer]:
    """The layers of which the result has copies that Keras can't load on their own: not those that
    a rule made, nor those of which the calls inside take the place, because a rule was applied
    there or Keras can't copy them.
    """
    for layer in dict.fromkeys(node.layer for node in graph if not node.layer.is_new):
        inside = layer.graph
        is_whole = inside is None or not (layer.cls in CONTAINERS or opened(layer))
        if inside is not None and not (is_whole and is_copied(layer)):
            yield from _unloadable(inside, opened, is_copied, loads)
        elif is_whole and not loads(layer.source):
            yield layer


def _is_copied(layer: Layer) -> bool:
    """Whether Keras makes a second layer with the state of a composite, or of a model in it. The
    graph keeps that, for the result.
    """
    assert layer.graph is not None
    if layer.graph.spare is None:
        try:
            layer.graph.spare = copied(layer.source, layer.graph.trace)
        except Exception:
            return False
    return True


def copied(source: keras.Layer, trace: Trace | None) -> keras.Layer:
    """A second layer with the state of the first, which Keras builds, or the call of its trace.

    Raises: what `copy_layer` raises.
    """
    if trace is None:
        return copy_layer(source)
    args, kwargs = keras.tree.map_structure(
        lambda leaf: placeholder(leaf) if isinstance(leaf, Tensor) else leaf,
        (trace.args, trace.kwargs),
    )
    copy, _ = copy_and_call(source, args, kwargs)
    return shell(copy)
