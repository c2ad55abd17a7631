"""Is a trace what its layer computes? Asked only where the result is made of the trace.

To find out costs more than to record the trace, and most composites, such as those of networks of
text, are copied as they are, for no rule applies in them. So rules are applied as if every trace
were right; then those in which one was are checked, and where one is not faithful, all is done
again without it.

A composite that holds composites is checked together with them, in one run: only if that fails
is it found out which of them is at fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import keras

from kito.graph.copying import can_copy, can_load
from kito.graph.faithful import Before, Opened, calls_of, check_faithful
from kito.graph.ir import Graph, Layer, Trace
from kito.graph.record import UntraceableError
from kito.graph.sizes import check_sizes


def unfaithful(before: Before) -> dict[keras.Layer, UntraceableError]:
    """The composites in which a rule was applied, and whose traces are not what they compute.

    Args:
        before: the calls of all graphs, before any rule was applied.

    Returns:
        What is wrong with each.
    """

    @cache
    def is_rewritten(graph: Graph) -> bool:
        inside = (node.layer.graph for node in before[graph].nodes)
        return graph.rewritten or any(is_rewritten(each) for each in inside if each is not None)

    def opened(layer: Layer) -> bool:
        # A wrapper does not compute what its graph computes: it calls it in its own way.
        wrapped = layer.cls is keras.layers.TimeDistributed
        return layer.graph is not None and not wrapped and is_rewritten(layer.graph)

    found: dict[keras.Layer, UntraceableError] = {}
    believed: set[Graph] = set()
    for graph in before:
        if graph.trace is None or not is_rewritten(graph):
            continue
        try:
            check_sizes(graph.trace)
            if graph not in believed:
                believed.update(_check(graph.trace, graph, before, opened))
            _check_loadable(graph.trace.source, graph, before, opened)
        except UntraceableError as error:
            found[graph.trace.source] = error
    return found


def check_alone(trace: Trace, graph: Graph) -> None:
    """Check a trace in which no rule was applied; the composites inside are called.

    Raises:
        UntraceableError: it is not what its layer computes.
    """
    check_sizes(trace)
    check_faithful(trace, graph, calls_of(graph), opened=lambda layer: False)


def _check(trace: Trace, graph: Graph, before: Before, opened: Opened) -> Iterator[Graph]:
    """The graphs that are found to be faithful together with that of a composite.

    Raises:
        UntraceableError: its own trace is not faithful, whatever the composites inside it are.
    """
    for inside in (opened, lambda layer: False):
        try:
            check_faithful(trace, graph, before, opened=inside)
            return _opened(before, graph, inside)
        except UntraceableError as error:
            reason = error
    raise reason


def _opened(before: Before, graph: Graph, opened: Opened) -> Iterator[Graph]:
    yield graph
    for node in before[graph].nodes:
        if node.layer.graph is not None and opened(node.layer):
            yield from _opened(before, node.layer.graph, opened)


def _check_loadable(source: keras.Layer, graph: Graph, before: Before, opened: Opened) -> None:
    """What a composite holds must not be harder to save and load than the composite was.

    Raises:
        UntraceableError: Keras can load the composite, but not a layer inside it on its own.
    """
    for part in dict.fromkeys(_parts(before, graph, opened)):
        if not can_load(part.source) and can_load(source):
            raise UntraceableError(
                f"Keras can load it, but not the {part.cls.__name__} inside it on its own: is that "
                "registered, with a complete `get_config`?"
            )


def _parts(before: Before, graph: Graph, opened: Opened) -> Iterator[Layer]:
    """The layers of which the result has copies."""
    for node in before[graph].nodes:
        layer = node.layer
        if layer.graph is None:
            yield layer
        elif (
            opened(layer)
            or layer.cls.__module__.startswith("keras.src.")
            or not can_copy(layer.source)
        ):
            yield from _parts(before, layer.graph, opened)
        else:
            yield layer
