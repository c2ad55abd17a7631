"""A composite layer, or a subclassed model -> the calls that its `call` makes.

Layers and models written in Python hide the layers that they hold. Called on symbolic tensors,
`call` records the layers and `keras.ops` that it uses, and that record is a graph like any other.
But it is the record of one run: a branch on data, a random number or a Python counter would be
frozen into it. So a trace that a rewrite makes use of must be faithful (doubt.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from kito.graph.keras_internals import (
    Functional,
    calls_in_order,
    infers,
    is_graph_class,
    is_strict,
    is_users,
    settings,
    sublayers,
)
from kito.graph.layer import to_numpy
from kito.graph.record import UntraceableError, check_reshapes, only_untraceable, record
from kito.graph.size_reads import Reads
from kito.graph.untouched import StatefulCallError, untouched

ONLY_KERAS = "; kito looks inside a call that uses layers and keras.ops, or what they replace"
UNLESS_HELD = "which kito can't take over unless a layer holds it"
# Larger ones are no constants that people write, and a model is saved with them as text.
LARGEST_CONSTANT = 2**16
# What is told apart in a string.
PLAIN = (keras.KerasTensor, bool, int, float, str, type(None))


# The outputs of composites, by the layer and by the arguments of its call.
Outputs = dict[tuple[int, str], Any]
# What records a call once more.
Recorder = Callable[[], Functional]


@contextlib.contextmanager
def trace(
    layer: keras.Layer, args: Any, kwargs: Any, known: Outputs
) -> Iterator[tuple[Functional, Reads]]:
    """The graph that the layer's `call` is at inference, for as long as the context lasts.

    Args:
        args, kwargs: the arguments of the call, with a `Tensor` where the layer gets a tensor.
        known: what traces found out before; is added to.

    Yields:
        A Functional model of the tensors, in the order in which they stand in the arguments, and
        what the call reads of their sizes.

    Raises:
        UntraceableError: `call` does not run on symbolic tensors, or depends on something that
            they don't show.
    """
    if type(layer).__call__ is not keras.Layer.__call__:
        raise UntraceableError("it has a `__call__` of its own, and the record is that of `call`")
    with (
        only_untraceable("symbolic tensors, which have no values", ONLY_KERAS),
        inferred_once(layer, known),
        untouched(layer),
    ):
        reads = Reads()
        unbuilt = [part for part in sublayers(layer) if not (part.built or part.weights)]
        function = record(layer, args, kwargs, reads)
        for part in unbuilt:
            if part.weights:
                raise UntraceableError(f"{part.name} gets its weights when it is called on data")
        _check_constants(layer, function, partial(record, layer, args, kwargs))
        _check_training(function)
        _check_known_sizes(function)
        yield function, reads


@contextlib.contextmanager
def inferred_once(layer: keras.Layer, known: Outputs) -> Iterator[None]:
    """Find out once what the layers inside a layer return, whatever is traced later.

    To find it out, Keras runs the `call` of what does not say it itself, with all that is inside.
    In a trace of each of n composites, one inside the other, that would be n ** 2 calls.
    """
    parts = [
        part
        for part in sublayers(layer)[1:]
        if "compute_output_spec" not in vars(part)
        and (_runs_on_any_size(part) or (is_users(type(part)) and not infers(part)))
    ]
    for part in parts:
        vars(part)["compute_output_spec"] = partial(_outputs, known, part)
    strict = [
        part
        for part in sublayers(layer)[1:]
        if is_strict(part) and "compute_output_spec" not in vars(part)
    ]
    for part in strict:
        vars(part)["compute_output_spec"] = partial(_without_training, part.compute_output_spec)
    try:
        yield
    finally:
        for part in [*parts, *strict]:
            del vars(part)["compute_output_spec"]


def _runs_on_any_size(layer: keras.Layer) -> bool:
    """Whether Keras runs a layer on any size, but infers what it returns only of that for which it
    was built.
    """
    sequential = isinstance(layer, keras.Sequential) and is_graph_class(type(layer))
    return sequential and layer.built


def _without_training(infer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a layer says of its outputs, to which `training` makes no difference."""
    kwargs.pop("training", None)
    return infer(*args, **kwargs)


def _outputs(known: Outputs, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    """What `layer.compute_output_spec` returns."""
    try:
        key = id(layer), str(keras.tree.map_structure(_told_apart, (args, kwargs)))
    except Exception:  # Keras runs it to infer what another layer returns, on what has no values
        return type(layer).compute_output_spec(layer, *args, **kwargs)
    if key not in known:
        try:
            known[key] = keras.tree.map_structure(_alone, _infer(layer, args, kwargs))
        except StatefulCallError:  # what it leaves, others may read
            return type(layer).compute_output_spec(layer, *args, **kwargs)
    return keras.tree.map_structure(_alone, known[key])


def _told_apart(leaf: Any) -> Any:
    """What is equal for equal arguments of a call.

    Raises: whatever the backend raises of what has no values.
    """
    if isinstance(leaf, keras.KerasTensor):
        return leaf.shape, leaf.dtype
    if isinstance(leaf, PLAIN):
        return leaf
    if not keras.ops.is_tensor(leaf):
        raise TypeError(type(leaf))
    values = to_numpy(leaf)
    return values.shape, values.dtype, hashlib.sha256(values.tobytes()).hexdigest()


def _alone(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """The tensor without the call that it belongs to."""
    return keras.KerasTensor(tensor.shape, tensor.dtype, sparse=tensor.sparse)


def _infer(layer: keras.Layer, args: Any, kwargs: Any) -> Any:
    """The outputs of a call on symbolic tensors, in which each layer inside is asked for its own;
    where that does not go, as Keras infers them.

    Raises:
        StatefulCallError: the call of a layer that holds none changes something.
    """
    if len(sublayers(layer)) == 1:
        with untouched(layer):
            return type(layer).compute_output_spec(layer, *args, **kwargs)
    with contextlib.suppress(Exception):
        outputs = layer.call(*args, **kwargs)
        if all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(outputs)):
            leaves = keras.tree.flatten((args, kwargs))
            given = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
            check_reshapes(keras.Function(given, outputs))
            return outputs
    return type(layer).compute_output_spec(layer, *args, **kwargs)


def _check_constants(layer: keras.Layer, function: Functional, again: Recorder) -> None:
    """Weights that `call` reads itself would be frozen into the record, and lost on saving; so
    would functions, and whatever they read. A tensor may be made of a weight, or drawn: so the call
    is recorded once more with other weights, and gives the same one if it is a constant.
    """
    tensors = list(_tensors(function))
    if not tensors:
        return
    with keras.StatelessScope(state_mapping=[(each, _other(each)) for each in layer.variables]):
        try:
            others = [tensor for _, tensor in _tensors(again())]
        except Exception:  # as that of a table of places, which are none now
            others = []
    for (name, tensor), other in zip(tensors, [*others, *[None] * len(tensors)], strict=False):
        if not _is_equal(tensor, other):
            raise UntraceableError(
                f"its call hands a tensor made of weights, or drawn at random, to {name}, "
                f"{UNLESS_HELD}"
            )
        if math.prod(tensor.shape) > LARGEST_CONSTANT:
            raise UntraceableError(
                f"its call hands a constant of {math.prod(tensor.shape):,} numbers to {name}, "
                f"{UNLESS_HELD}"
            )


def _tensors(function: Functional) -> Iterator[tuple[str, Any]]:
    """The tensors with values that a record holds, and the names of the operations that take them.

    Raises:
        UntraceableError: it holds something else that is not in a configuration.
    """
    plain = (bool, int, float, str, type(None), type(...), slice, np.ndarray, np.generic)
    for call in calls_in_order(function):
        leaves = keras.tree.flatten((call.arguments.args, call.arguments.kwargs))
        if not isinstance(call.operation, keras.Layer):
            leaves += filter(_is_held, keras.tree.flatten(settings(call.operation)))
        for leaf in leaves:
            if isinstance(leaf, (keras.KerasTensor, *plain)):
                continue
            if isinstance(leaf, keras.Variable) or not keras.ops.is_tensor(leaf):
                made = "weight" if isinstance(leaf, keras.Variable) else type(leaf).__name__
                raise UntraceableError(
                    f"its call hands a {made} to {call.operation.name}, {UNLESS_HELD}"
                )
            yield call.operation.name, leaf


def _is_held(value: Any) -> bool:
    """Whether an operation that has a value among its settings reads more than a number."""
    return callable(value) or isinstance(value, keras.Variable) or keras.ops.is_tensor(value)


def _other(variable: keras.Variable) -> Any:
    """Another value for a variable."""
    if keras.backend.is_float_dtype(variable.dtype):
        return variable * 1.5 + 1
    value = keras.ops.convert_to_tensor(variable)
    return keras.ops.logical_not(value) if variable.dtype == "bool" else value + 1


def _is_equal(one: Any, other: Any) -> bool:
    return keras.ops.is_tensor(other) and np.array_equal(to_numpy(one), to_numpy(other))


def _check_training(function: Functional) -> None:
    """A Functional model hands the `training` that it is called with, False in `predict`, on to all
    its calls, whatever they were recorded with.
    """
    for call in calls_in_order(function):
        if call.arguments.kwargs.get("training"):
            raise UntraceableError(
                f"its call calls {call.operation.name} with training=True, and `predict` of a "
                "model with a graph of layers does not"
            )


def _check_known_sizes(function: Functional) -> None:
    """A layer runs on a size of which nobody knows that it is the one that it has weights for, as
    behind a Flatten, but Keras can't build it again for that.
    """
    for call in calls_in_order(function):
        spec = getattr(call.operation, "input_spec", None)
        axes = spec.axes if isinstance(spec, keras.InputSpec) else None
        shape = call.arguments.keras_tensors[0].shape if axes else ()
        if any(shape[axis] is None for axis in axes or ()):
            raise UntraceableError(
                f"its call hands {call.operation.name} a tensor of {shape}, of which not all sizes "
                "are known that it has weights for"
            )


def is_composite(layer: keras.Operation, anchors: frozenset[type]) -> bool:
    """Whether a layer written in Python holds layers at which a rule could match."""
    return is_written_in_python(layer) and any(
        isinstance(part, tuple(anchors)) for part in sublayers(layer)[1:]
    )


def is_written_in_python(layer: keras.Operation) -> bool:
    """Whether a layer is not one of Keras' own, and holds layers."""
    return (
        isinstance(layer, keras.Layer)
        and not type(layer).__module__.startswith("keras.src.layers.")
        and len(sublayers(layer)) > 1
    )
