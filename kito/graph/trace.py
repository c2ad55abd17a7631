"""A composite layer, or a subclassed model -> the calls that its `call` makes.

Layers and models written in Python hide the layers that they hold. Called on symbolic tensors,
`call` records the layers and `keras.ops` that it uses, and that record is a graph like any other.
But it is the record of one run: a branch on data, a random number or a Python counter would be
frozen into it. So a trace is believed only if it is faithful (faithful.py).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np

from kito.errors import first_line
from kito.graph.ir import Layer, Tensor
from kito.graph.keras_internals import (
    Functional,
    ReshapeOperation,
    StatefulCallError,
    arguments,
    at_inference,
    calls_in_order,
    structures,
    sublayers,
    untouched,
)

# A batch size of which no other number in a model is a multiple.
BATCH_SIZE = 7919
# With which sizes a call is recorded again that is to work with any.
OTHER_SIZES = (1, 16, 1024)
ONLY_KERAS = "; kito looks inside a call that uses layers and keras.ops alone"
# What is told apart in a string.
PLAIN = (keras.KerasTensor, bool, int, float, str, type(None))
IN_A_RESHAPE = "computes with the batch size, which kito can replace in a reshape only"


# The outputs of composites, by the layer and by the arguments of its call.
Outputs = dict[tuple[int, str], Any]


class UntraceableError(Exception):
    """The layer can't be replaced by a record of its calls; the message says why."""


@contextlib.contextmanager
def trace(layer: keras.Layer, args: Any, kwargs: Any, known: Outputs) -> Iterator[Functional]:
    """The graph that the layer's `call` is at inference, for as long as the context lasts.

    Args:
        args, kwargs: the arguments of the call, with a `Tensor` where the layer gets a tensor.
        known: what traces found out before; is added to.

    Yields:
        A Functional model of the tensors, in the order in which they stand in the arguments.

    Raises:
        UntraceableError: `call` does not run on symbolic tensors, or depends on something that
            they don't show.
    """
    with (
        only_untraceable("symbolic tensors, which have no values", ONLY_KERAS),
        inferred_once(layer, known),
        untouched(layer),
    ):
        function = _record_at_inference(layer, args, kwargs)
        _check_constants(function)
        _check_training(function)
        _check_other_sizes(function, layer, args, kwargs)
        yield function


@contextlib.contextmanager
def inferred_once(layer: keras.Layer, known: Outputs) -> Iterator[None]:
    """Find out once what the composites inside a layer return, whatever is traced later.

    To find it out, Keras runs all that is inside. In a trace of each of n composites, one inside
    the other, that would be n ** 2 calls.
    """
    parts = [
        part
        for part in sublayers(layer)[1:]
        if is_written_in_python(part)
        and "compute_output_spec" not in vars(part)
        and type(part).compute_output_spec is keras.Layer.compute_output_spec
        and type(part).compute_output_shape is keras.Layer.compute_output_shape
    ]
    for part in parts:
        vars(part)["compute_output_spec"] = partial(_outputs, known, part)
    try:
        yield
    finally:
        for part in parts:
            del vars(part)["compute_output_spec"]


def _outputs(known: Outputs, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    """What `layer.compute_output_spec` returns."""
    if not all(isinstance(leaf, PLAIN) for leaf in keras.tree.flatten((args, kwargs))):
        return type(layer).compute_output_spec(layer, *args, **kwargs)
    call = keras.tree.map_structure(
        lambda leaf: (leaf.shape, leaf.dtype) if isinstance(leaf, keras.KerasTensor) else leaf,
        (args, kwargs),
    )
    key = id(layer), str(call)
    if key not in known:
        known[key] = keras.tree.map_structure(_alone, _infer(layer, args, kwargs))
    return keras.tree.map_structure(_alone, known[key])


def _alone(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """The tensor without the call that it belongs to."""
    return keras.KerasTensor(tensor.shape, tensor.dtype, sparse=tensor.sparse)


def _infer(layer: keras.Layer, args: Any, kwargs: Any) -> Any:
    """The outputs of a call on symbolic tensors, in which each composite inside is asked for its
    own; where that does not go, as Keras infers them.
    """
    with contextlib.suppress(Exception):
        outputs = layer.call(*args, **kwargs)
        if all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(outputs)):
            return outputs
    return type(layer).compute_output_spec(layer, *args, **kwargs)


@contextlib.contextmanager
def only_untraceable(data: str = "random data", remedy: str = "") -> Iterator[None]:
    """Whatever the user's code raises here, on data that it did not expect, is one error."""
    try:
        yield
    except UntraceableError:
        raise
    except StatefulCallError as error:
        raise UntraceableError(str(error)) from error
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        raise UntraceableError(f"its call fails on {data} ({said}){remedy}") from error


def _record_at_inference(layer: keras.Layer, args: Any, kwargs: Any) -> Functional:
    try:
        function = _record(layer, args, kwargs)
        _check_sizes(function)
    except Exception:
        function = _record_of_any_batch(layer, args, kwargs)
    return function


def _record(layer: keras.Layer, args: Any, kwargs: Any) -> Functional:
    inputs: list[keras.KerasTensor] = []

    def symbolic(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        dtype = leaf.dtype
        if layer.autocast and keras.backend.is_float_dtype(dtype):
            dtype = layer.input_dtype  # as Layer.__call__ does
        shape = leaf.shape or (None,)
        inputs.append(keras.Input(batch_shape=shape, dtype=dtype, name=f"input_{len(inputs)}"))
        return inputs[-1]

    args, kwargs = keras.tree.map_structure(symbolic, (args, kwargs))
    if "training" in inspect.signature(layer.call).parameters:
        kwargs = {**kwargs, "training": False}
    with at_inference(layer):
        outputs = layer.call(*args, **kwargs)
    if not all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(outputs)):
        raise UntraceableError("its call returns something that is not a tensor")
    return keras.Function(inputs if len(inputs) > 1 else inputs[0], outputs)


def _record_of_any_batch(layer: keras.Layer, args: Any, kwargs: Any) -> Functional:
    """The record of a call that computes with its batch size, `ops.shape(x)[0]`.

    On a symbolic batch that is None. So the call is recorded with a number, and that is taken out
    again where it is known how: a reshape infers one dimension.

    Raises:
        UntraceableError: the batch size is used in another way.
    """

    def any_batch(leaf: Any) -> Any:
        unknown = isinstance(leaf, Tensor) and leaf.shape[:1] == (None,)
        return replace(leaf, shape=(BATCH_SIZE, *leaf.shape[1:])) if unknown else leaf

    fixed = _record(layer, *keras.tree.map_structure(any_batch, (args, kwargs)))
    tensors = {
        id(tensor): keras.Input(
            batch_shape=[None if size == BATCH_SIZE else size for size in tensor.shape],
            dtype=tensor.dtype,
            name=tensor.name,
        )
        for tensor in fixed.inputs
    }
    for call in calls_in_order(fixed):
        if call.is_input:
            continue
        args, kwargs = keras.tree.map_structure(
            lambda leaf: tensors.get(id(leaf), leaf), arguments(call)
        )
        if any(map(_holds_batch_size, keras.tree.flatten((args, kwargs)))):
            raise UntraceableError(f"{call.operation.name} {IN_A_RESHAPE}")
        outputs = _of_any_batch(call.operation)(*args, **kwargs)
        for old, new in zip(call.outputs, keras.tree.flatten(outputs), strict=True):
            tensors[id(old)] = new
    inputs, outputs = keras.tree.map_structure(
        lambda tensor: tensors[id(tensor)], structures(fixed)
    )
    return keras.Function(inputs, outputs)


def _of_any_batch(operation: keras.Operation) -> keras.Operation:
    if isinstance(operation, keras.Layer):
        return operation
    held = [name for name, value in vars(operation).items() if _holds_batch_size(value)]
    if not held:
        return operation
    if isinstance(operation, ReshapeOperation):
        shape = [-1 if _holds_batch_size(size) else size for size in operation.newshape]
        if shape.count(-1) == 1:
            return ReshapeOperation(tuple(shape))
    raise UntraceableError(f"{operation.name} {IN_A_RESHAPE}")


def _holds_batch_size(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_batch_size, value))
    if isinstance(value, (int, float)):
        return value != 0 and value % BATCH_SIZE == 0
    return isinstance(value, np.ndarray) and _holds_batch_size(value.shape)


def _check_sizes(function: Functional) -> None:
    """Keras records a reshape to sizes that are not known, but can't compute it."""
    for call in calls_in_order(function):
        for value in (
            () if isinstance(call.operation, keras.Layer) else vars(call.operation).values()
        ):
            if isinstance(value, (tuple, list)) and None in value:
                raise UntraceableError(f"{call.operation.name} needs a size that is not known")


def _check_constants(function: Functional) -> None:
    """Weights that `call` reads itself would be frozen into the record, and lost on saving; so
    would functions, and whatever they read.
    """
    plain = (bool, int, float, str, type(None), type(...), slice, np.ndarray, np.generic)
    for call in calls_in_order(function):
        leaves = keras.tree.flatten((call.arguments.args, call.arguments.kwargs))
        if not isinstance(call.operation, keras.Layer):
            leaves += filter(callable, vars(call.operation).values())
        for leaf in leaves:
            if not isinstance(leaf, (keras.KerasTensor, *plain)):
                made = "weight" if isinstance(leaf, keras.Variable) else type(leaf).__name__
                raise UntraceableError(
                    f"its call hands a {made} to {call.operation.name}, which kito can't take "
                    "over unless a layer holds it"
                )


def _check_other_sizes(function: Functional, layer: keras.Layer, args: Any, kwargs: Any) -> None:
    """A branch on a size is not seen where the size is not known, nor maybe on random data, for
    which sizes are small.
    """
    tensors = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Tensor)]
    if not any(None in tensor.shape[1:] for tensor in tensors):
        return
    held = set(map(id, sublayers(layer)))
    expected = _outline(function, held)
    for known in OTHER_SIZES:

        def sized(leaf: Any, known: int = known) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return replace(leaf, shape=(*leaf.shape[:1], *(n or known for n in leaf.shape[1:])))

        try:
            other = _record_at_inference(layer, *keras.tree.map_structure(sized, (args, kwargs)))
        except Exception:  # it takes no input of that size
            continue
        if _outline(other, held) != expected:
            raise UntraceableError(f"its call does otherwise where a size is {known}")


def _outline(function: Functional, held: set[int]) -> list[str]:
    """The calls of a record and their arguments: equal for records that compute the same.

    Args:
        held: the layers that are the same in all records; others the call may have made.
    """
    numbers: dict[int, str] = {}
    lines = []
    for number, call in enumerate(calls_in_order(function)):
        operation, given = call.operation, arguments(call)
        for index, tensor in enumerate(call.outputs):
            numbers[id(tensor)] = f"{number}.{index}"
        if call.is_input:
            continue
        given = keras.tree.map_structure(lambda leaf: numbers.get(id(leaf), leaf), given)
        what = id(operation) if id(operation) in held else _described(operation)
        lines.append(f"{what} {given}")
    outputs = keras.tree.map_structure(lambda leaf: numbers[id(leaf)], structures(function)[1])
    return [*lines, str(outputs)]


def _described(operation: keras.Operation) -> Any:
    try:
        return type(operation), Layer.of(operation).behaviour
    except NotImplementedError:  # it can't say what it is
        return type(operation)


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


def is_composite(layer: keras.Operation, anchors: frozenset[type]) -> bool:
    """Whether a layer written in Python holds layers at which a rule could match."""
    return is_written_in_python(layer) and any(
        type(part) in anchors for part in sublayers(layer)[1:]
    )


def is_written_in_python(layer: keras.Operation) -> bool:
    """Whether a layer is not one of Keras' own, and holds layers."""
    return (
        isinstance(layer, keras.Layer)
        and not type(layer).__module__.startswith("keras.src.layers.")
        and len(sublayers(layer)) > 1
    )
