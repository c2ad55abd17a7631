"""Is the record of a layer's calls what the layer computes? Run both on the same data."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from kito.distance import apart, magnitude
from kito.graph.ir import Calls, Graph, Node, Ref, Tensor, Trace
from kito.graph.keras_internals import takes_training
from kito.graph.layer import Layer, to_numpy
from kito.graph.record import UntraceableError, only_untraceable, with_sizes
from kito.graph.tensorflow_functions import uncompiled
from kito.graph.untouched import untouched
from kito.samples import draw

# What each dimension that is not known is, in two runs; the next where that is too large, as for a
# table of positions. In a model five poolings by two must fit.
SIZES_OF_A_LAYER = ((16, 32, 8, 64), (20, 40, 12, 96))
SIZES_OF_A_MODEL = ((64, 16, 8), (96, 24, 12))
SIZES_OF_VOLUMES = ((16, 32, 64, 8), (24, 48, 96, 12))  # and of films; others take a minute
# By how much one input of a call may be larger than another, of which size that is tried, and with
# how many inputs all ways are.
SCALES = (1, 2, 4)
SCALED = 16
MOST_SCALED = 3
# Of the largest output. The trace runs the same operations, but maybe in another order.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}

# Which layers to run by their graph; the others are called.
Opened = Callable[[Layer], bool]


def check_faithful(graph: Graph, *, opened: Opened) -> None:
    """Whether a trace computes what its layer does, at inference, on several sizes.

    Raises:
        UntraceableError: it does not, or can't be found out.
    """
    trace = graph.trace
    assert trace is not None
    source = trace.source
    leaves = keras.tree.flatten((trace.args, trace.kwargs))
    dynamic = any(None in leaf.shape for leaf in leaves if isinstance(leaf, Tensor))
    sizes = sizes_to_try(source, leaves)
    rng = np.random.default_rng(0)
    with only_untraceable(), untouched(source), uncompiled(source):
        for batch, tried in zip((2, 1), sizes, strict=True) if dynamic else ((2, (1,)),):
            for size in tried:
                sized = with_sizes(leaves, batch=batch, others=size, scales=trace.scales)
                try:
                    _check_on(drawn(rng, sized), graph, opened)
                    break
                except _DoesNotRunError as error:
                    if size == tried[-1]:
                        raise error.reason from error
    _check_known_sizes(graph, trace)


def sizes_to_try(source: keras.Layer, leaves: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the sizes that are not known may be, in two runs, each with those to try in its place.

    Args:
        leaves: of the arguments of a call, with a `Tensor` for each tensor.
    """
    if not isinstance(source, keras.Model):
        return SIZES_OF_A_LAYER
    unknown = [leaf.shape[1:].count(None) for leaf in leaves if isinstance(leaf, Tensor)]
    return SIZES_OF_VOLUMES if max(unknown, default=0) > 2 else SIZES_OF_A_MODEL


def _check_known_sizes(graph: Graph, trace: Trace) -> None:
    """Whether Keras infers of the recorded calls all sizes that it infers of the layer.

    Raises:
        UntraceableError: it does not, and what follows may need them.
    """
    calls = lifted(graph)
    tensors = {node.id: node.outputs for node in calls.nodes}
    for ref, spec in zip(keras.tree.flatten(calls.outputs), trace.outputs, strict=False):
        shape = tensors[ref.node][ref.index].shape
        if any(size is None for size, known in zip(shape, spec.shape, strict=True) if known):
            raise UntraceableError(f"of its calls Keras infers {shape}, of itself {spec.shape}")


def _check_on(data: list[Any], graph: Graph, opened: Opened) -> None:
    """Whether a trace computes what its layer does of data for the leaves of its arguments.

    Raises:
        UntraceableError: it does not.
        _DoesNotRunError: the layer does not run on these.
        Exception: whatever the trace raises.
    """
    trace = graph.trace
    assert trace is not None
    leaves = keras.tree.flatten((trace.args, trace.kwargs))
    given = [each for leaf, each in zip(leaves, data, strict=True) if isinstance(leaf, Tensor)]
    args, kwargs = keras.tree.pack_sequence_as((trace.args, trace.kwargs), data)
    # Whatever the call assigns to variables is forgotten.
    with keras.StatelessScope(), remembered(_leaves(graph, opened)):
        try:
            outputs = trace.source(*args, **{**kwargs, "training": False})
        except Exception as error:
            raise _DoesNotRunError(error) from error
        if any(0 in tuple(each.shape) for each in keras.tree.flatten(outputs)):
            raise _DoesNotRunError(UntraceableError("its call leaves nothing of random data"))
        recorded = evaluate(graph, given, opened)
    keras.tree.assert_same_structure(outputs, recorded)
    flat = keras.tree.flatten(outputs)
    for one, other in zip(flat, keras.tree.flatten(recorded), strict=True):
        _check_same(to_numpy(one), to_numpy(other))
    for one, spec in zip(flat, trace.outputs, strict=False):
        check_shape(tuple(one.shape), spec)


class _DoesNotRunError(Exception):
    """A layer does not take data of some size."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def scales(trace: Trace) -> tuple[int, ...]:
    """How the sizes that are not known have to stand to each other, so that the call takes them.

    A block that brings two branches together may enlarge one of them first.

    Returns:
        A number for each tensor in the arguments; none if the sizes may be alike, or nothing was
        found.
    """
    leaves = keras.tree.flatten((trace.args, trace.kwargs))
    for found in possible_scales(trace):
        sized = with_sizes(leaves, batch=1, others=SCALED, scales=found)
        with contextlib.suppress(UntraceableError):  # it does not take these
            answer(trace, drawn(np.random.default_rng(0), sized))
            return found if max(found) > 1 else ()
    return ()


def possible_scales(trace: Trace) -> Iterator[tuple[int, ...]]:
    """The scales that are tried, of a call with some inputs of unknown sizes; equal ones first."""
    leaves = keras.tree.flatten((trace.args, trace.kwargs))
    unknown = [None in leaf.shape[1:] for leaf in leaves if isinstance(leaf, Tensor)]
    count = sum(unknown)
    if count < 2:
        return
    steps = [2**step for step in range(count)]  # those of an encoder, of which each halves the last
    found = [(1,) * count, tuple(steps), tuple(reversed(steps))]
    if count <= MOST_SCALED:
        found += [each for each in itertools.product(SCALES, repeat=count) if min(each) == 1]
    for factors in sorted(dict.fromkeys(found), key=sum):
        some = iter(factors)
        yield tuple(next(some) if each else 1 for each in unknown)


def answer(trace: Trace, data: list[Any]) -> Any:
    """What a layer answers at inference; the data stand for the leaves of its arguments.

    Raises:
        UntraceableError: it does not run on them.
    """
    args, kwargs = keras.tree.pack_sequence_as((trace.args, trace.kwargs), data)
    layer = trace.source
    with only_untraceable(), untouched(layer), uncompiled(layer), keras.StatelessScope():
        return layer(*args, **{**kwargs, "training": False})


def evaluate(graph: Graph, inputs: list[Any], opened: Opened) -> Any:
    """What a graph as it was lifted computes of its inputs, one layer after the other."""
    calls = lifted(graph)
    given = dict(zip(keras.tree.flatten(calls.inputs), inputs, strict=True))
    values: dict[Ref, Any] = {}
    for node in calls.nodes:
        if Ref(node.id) in given:
            values[Ref(node.id)] = keras.ops.cast(given[Ref(node.id)], node.output.dtype)
            continue
        args, kwargs = keras.tree.map_structure(
            lambda leaf: values[leaf] if isinstance(leaf, Ref) else leaf, (node.args, node.kwargs)
        )
        results = keras.tree.flatten(_call(node, args, kwargs, opened))
        for index, value in enumerate(results):
            check_shape(tuple(value.shape), node.outputs[index])
            values[Ref(node.id, index)] = value
    return keras.tree.map_structure(
        lambda leaf: values[leaf] if isinstance(leaf, Ref) else leaf, calls.outputs
    )


def _call(node: Node, args: Any, kwargs: Any, opened: Opened) -> Any:
    layer = node.layer
    if layer.graph is not None and opened(layer):
        tensors = [
            value
            for value, leaf in zip(
                keras.tree.flatten((args, kwargs)),
                keras.tree.flatten((node.args, node.kwargs)),
                strict=True,
            )
            if isinstance(leaf, Ref)
        ]
        return evaluate(layer.graph, tensors, opened)
    if takes_training(layer.cls.call):
        kwargs = {"training": False, **kwargs}
    return layer.source(*args, **kwargs)


def _leaves(graph: Graph, opened: Opened) -> Iterator[keras.Layer]:
    """The layers that `evaluate` calls."""
    for nested in opened_graphs(graph, opened):
        for node in lifted(nested).nodes:
            runs = node.layer.graph is not None and opened(node.layer)
            if not runs and isinstance(node.layer.source, keras.Layer):
                yield node.layer.source


def opened_graphs(graph: Graph, opened: Opened) -> Iterator[Graph]:
    """The graphs that `evaluate` runs, the outer ones first."""
    yield graph
    for node in lifted(graph).nodes:
        if node.layer.graph is not None and opened(node.layer):
            yield from opened_graphs(node.layer.graph, opened)


def lifted(graph: Graph) -> Calls:
    """The calls of a graph before any rule was applied, of a model in which something is traced."""
    assert graph.lifted is not None
    return graph.lifted


@contextlib.contextmanager
def remembered(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Let a layer that gets what it had before answer as it did then.

    A trace calls the layers that the composite calls. What must be computed twice is only what
    lies between them.
    """
    patched = {id(layer): layer for layer in layers}.values()
    thread = threading.get_ident()
    for layer in patched:
        # Not setattr: it would be tracked.
        vars(layer)["call"] = partial(_answer, thread, [], layer.call)
    try:
        yield
    finally:
        for layer in patched:
            del vars(layer)["call"]


def _answer(
    thread: int,
    before: list[tuple[list[Any], Any]],
    call: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    if threading.get_ident() != thread:
        return call(*args, **kwargs)
    given = keras.tree.flatten((args, kwargs))
    for known, outputs in before:
        if len(known) == len(given) and all(map(_is_same, known, given)):
            return outputs
    outputs = call(*args, **kwargs)
    before.append((given, outputs))
    return outputs


def _is_same(one: Any, other: Any) -> bool:
    if one is other or not keras.ops.is_tensor(one) or not keras.ops.is_tensor(other):
        return one is other
    return (one.dtype, one.shape) == (other.dtype, other.shape) and np.array_equal(
        to_numpy(one), to_numpy(other)
    )


def drawn(rng: np.random.Generator, leaves: Any) -> list[Any]:
    """Random data for the leaves of arguments that are tensors."""
    return [_data(rng, leaf) for leaf in leaves]


def _data(rng: np.random.Generator, leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    array = draw(rng, tuple(size or 0 for size in leaf.shape or (1,)), leaf.dtype)
    return keras.ops.convert_to_tensor(array, dtype=leaf.dtype)


def _check_same(expected: np.ndarray, recorded: np.ndarray) -> None:
    if expected.shape != recorded.shape or expected.dtype != recorded.dtype:
        raise UntraceableError(
            f"its call gives {expected.shape} {expected.dtype}, the record of its calls "
            f"{recorded.shape} {recorded.dtype}"
        )
    difference = apart(expected, recorded) / (magnitude(expected) or 1.0)
    if difference > TOLERANCES.get(str(expected.dtype), 0.0):
        raise UntraceableError(
            f"its call and the record of its calls differ by {difference:.1e} of the largest output"
        )


def check_shape(shape: tuple[int | None, ...], inferred: Tensor) -> None:
    """Whether the shape of a tensor can be what Keras inferred of it; None is any size.

    Raises:
        WrongShapeError: it can't.
    """
    if len(shape) != len(inferred.shape) or any(
        None not in (size, known) and size != known
        for size, known in zip(shape, inferred.shape, strict=True)
    ):
        raise WrongShapeError(f"Keras infers the shape {inferred.shape}, its call gives {shape}")


class WrongShapeError(UntraceableError):
    """The shapes that the model shows are wrong, from this layer on."""
