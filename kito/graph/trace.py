"""A composite layer, or a subclassed model -> the calls that its `call` makes.

Layers and models written in Python hide the layers that they hold. Called on symbolic tensors,
`call` records the layers and `keras.ops` that it uses, and that record is a graph like any other.
But it is the record of one run: a branch on data, a random number or a Python counter would be
frozen into it. So a trace is believed only if it computes what the layer computes, on real data
and on several sizes; otherwise the layer stays whole.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kito.errors import first_line
from kito.graph.ir import Tensor, to_numpy
from kito.graph.keras_internals import (
    Functional,
    calls_in_order,
    structures,
    sublayers,
    untouched,
)

# What each dimension that is not known is, in two runs. In a model five poolings by two must fit.
SIZES_OF_A_LAYER = (32, 40)
SIZES_OF_A_MODEL = (64, 96)
# Of the largest output. The trace runs the same operations, but maybe in another order.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


class UntraceableError(Exception):
    """The layer can't be replaced by a record of its calls; the message says why."""


@contextlib.contextmanager
def trace(layer: keras.Layer, args: Any, kwargs: Any) -> Iterator[Functional]:
    """The graph that the layer's `call` is at inference, for as long as the context lasts.

    Args:
        args, kwargs: the arguments of the call, with a `Tensor` where the layer gets a tensor.

    Yields:
        A Functional model of the tensors, in the order in which they stand in the arguments.

    Raises:
        UntraceableError: `call` does not run on symbolic tensors, depends on something that they
            don't show, or does not compute what its record computes.
    """
    try:
        with untouched(layer):
            function = _record(layer, args, kwargs)
            _check_constants(function)
            _check_faithful(layer, function, args, kwargs)
            yield function
    except UntraceableError:
        raise
    except Exception as error:  # whatever the user's code raises on tensors without values
        raise UntraceableError(f"{type(error).__name__}: {first_line(error)}") from error


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
    outputs = layer.call(*args, **kwargs)
    if not all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(outputs)):
        raise UntraceableError("its call returns something that is not a tensor")
    return Functional(inputs if len(inputs) > 1 else inputs[0], outputs)


def _check_constants(function: Functional) -> None:
    """Weights that `call` reads itself would be frozen into the record, and lost on saving."""
    plain = (bool, int, float, str, type(None), type(...), slice, np.ndarray, np.generic)
    for call in calls_in_order(function):
        for leaf in keras.tree.flatten((call.arguments.args, call.arguments.kwargs)):
            if not isinstance(leaf, (keras.KerasTensor, *plain)):
                raise UntraceableError(
                    f"its call hands a {type(leaf).__name__} to {call.operation.name}"
                )


def _check_faithful(layer: keras.Layer, function: Functional, args: Any, kwargs: Any) -> None:
    rng = np.random.default_rng(0)
    dynamic = any(
        size is None
        for leaf in keras.tree.flatten((args, kwargs))
        if isinstance(leaf, Tensor)
        for size in leaf.shape[1:]
    )
    sizes = SIZES_OF_A_MODEL if isinstance(layer, keras.Model) else SIZES_OF_A_LAYER
    for batch, size in zip((2, 1), sizes, strict=True) if dynamic else ((2, 1),):
        data = keras.tree.map_structure(
            lambda leaf, batch=batch, size=size: (
                _draw(rng, leaf, batch, size) if isinstance(leaf, Tensor) else leaf
            ),
            (args, kwargs),
        )
        tensors = [
            leaf
            for leaf, spec in zip(
                keras.tree.flatten(data), keras.tree.flatten((args, kwargs)), strict=True
            )
            if isinstance(spec, Tensor)
        ]
        with keras.StatelessScope():  # whatever the call assigns to variables is forgotten
            expected = layer(*data[0], **{**data[1], "training": False})
        keras.tree.assert_same_structure(expected, structures(function)[1])
        with keras.StatelessScope():
            cast = [
                keras.ops.cast(tensor, symbol.dtype)
                for tensor, symbol in zip(tensors, function.inputs, strict=True)
            ]
            recorded = function(cast if len(cast) > 1 else cast[0], training=False)
        for one, other in zip(
            keras.tree.flatten(expected), keras.tree.flatten(recorded), strict=True
        ):
            _check_same(to_numpy(one), to_numpy(other))


def _draw(rng: np.random.Generator, tensor: Tensor, batch: int, size: int) -> Any:
    first, *rest = tensor.shape or (1,)
    shape = (first or batch, *(known or size for known in rest))
    if tensor.dtype == "bool":
        return keras.ops.convert_to_tensor(rng.random(shape) < 0.5)
    if keras.backend.is_int_dtype(tensor.dtype):
        return keras.ops.convert_to_tensor(rng.integers(0, 2, shape), dtype=tensor.dtype)
    return keras.ops.convert_to_tensor(rng.standard_normal(shape), dtype=tensor.dtype)


def _check_same(expected: np.ndarray, recorded: np.ndarray) -> None:
    if expected.shape != recorded.shape or expected.dtype != recorded.dtype:
        raise UntraceableError(
            f"its call gives {expected.shape} {expected.dtype}, the record of its calls "
            f"{recorded.shape} {recorded.dtype}"
        )
    if expected.dtype.kind in "OSU":
        same = bool((expected == recorded).all())
        difference = 0.0 if same else 1.0
    else:
        one, other = expected.astype(np.float64), recorded.astype(np.float64)
        magnitude = np.max(np.abs(one), initial=0, where=np.isfinite(one)) or 1.0
        same = bool(np.array_equal(np.isnan(one), np.isnan(other)))
        difference = float(np.nanmax(np.abs(one - other), initial=0) / magnitude)
    if not same or difference > TOLERANCES.get(str(expected.dtype), 0.0):
        raise UntraceableError(
            f"its call and the record of its calls differ by {difference:.1e} of the largest output"
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
