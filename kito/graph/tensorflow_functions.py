"""Functions of TensorFlow in a `call`, on symbolic tensors: what `keras.ops` has of the same kind.

Keras runs a `call` that uses `tf.nn.relu`, but can't record it. TensorFlow asks others what to do
with arguments that it does not know, as a KerasTensor is. What is recorded so is compared with the
layer on data, as every trace is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

Function = Callable[..., Any]

_is_recording = ContextVar("is_recording", default=False)


@contextlib.contextmanager
def tensorflow_as_keras() -> Iterator[None]:
    """Let functions of TensorFlow take symbolic tensors, where Keras runs on it."""
    if keras.backend.backend() == "tensorflow":
        _register()
    token = _is_recording.set(True)
    try:
        yield
    finally:
        _is_recording.reset(token)


@functools.cache
def _register() -> None:
    """Be asked by TensorFlow, once for all: nobody can be taken from its list."""
    import tensorflow as tf  # noqa: PLC0415 (Keras may run on another backend)

    class Dispatcher(tf.__internal__.dispatch.GlobalOpDispatcher):  # type: ignore[misc]
        def handle(self, op: Function, args: Any, kwargs: Any) -> Any:
            found = _functions().get(inspect.unwrap(op)) if _is_recording.get() else None
            if found is None:
                return self.NOT_SUPPORTED
            function, count = found
            signature = inspect.signature(op)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            values = [value for name, value in given.arguments.items() if name != "name"]
            usual = [each.default for name, each in signature.parameters.items() if name != "name"]
            if not all(map(_is_default, values[count:], usual[count:])):
                return self.NOT_SUPPORTED
            return function(*values[:count])

    Dispatcher().register()


@functools.cache
def _functions() -> dict[Function, tuple[Function, int]]:
    """Functions of TensorFlow, those of Keras in their place, and how many arguments these take.
    Others have to be TensorFlow's defaults.
    """
    import tensorflow as tf  # noqa: PLC0415

    alike = {
        1: [
            (tf.abs, ops.abs),
            (tf.cos, ops.cos),
            (tf.exp, ops.exp),
            (tf.identity, lambda x: x),
            (tf.math.erf, ops.erf),
            (tf.math.log, ops.log),
            (tf.math.rsqrt, ops.rsqrt),
            (tf.negative, ops.negative),
            (tf.nn.elu, ops.elu),
            (tf.nn.relu, ops.relu),
            (tf.nn.relu6, ops.relu6),
            (tf.nn.selu, ops.selu),
            (tf.nn.silu, ops.silu),
            (tf.nn.softplus, ops.softplus),
            (tf.nn.softsign, ops.softsign),
            (tf.shape, ops.shape),
            (tf.sigmoid, ops.sigmoid),
            (tf.sin, ops.sin),
            (tf.sqrt, ops.sqrt),
            (tf.square, ops.square),
            (tf.tanh, ops.tanh),
        ],
        2: [
            (tf.add, ops.add),
            (tf.cast, lambda x, dtype: ops.cast(x, keras.backend.standardize_dtype(dtype))),
            (tf.concat, ops.concatenate),
            (tf.divide, ops.divide),
            (tf.expand_dims, ops.expand_dims),
            (tf.matmul, ops.matmul),
            (tf.maximum, ops.maximum),
            (tf.minimum, ops.minimum),
            (tf.multiply, ops.multiply),
            (tf.nn.gelu, ops.gelu),
            (tf.nn.leaky_relu, ops.leaky_relu),
            (tf.nn.softmax, lambda x, axis: ops.softmax(x, -1 if axis is None else axis)),
            (tf.pow, ops.power),
            (tf.reshape, lambda x, shape: ops.reshape(x, _numbers(shape))),
            (tf.squeeze, lambda x, axis: ops.squeeze(x, _numbers(axis))),
            (tf.stack, ops.stack),
            (tf.subtract, ops.subtract),
            (tf.tile, lambda x, repeats: ops.tile(x, _numbers(repeats))),
            (tf.transpose, lambda x, axes: ops.transpose(x, _numbers(axes))),
        ],
        3: [
            (tf.clip_by_value, ops.clip),
            (tf.image.resize, lambda x, size, how: ops.image.resize(x, _numbers(size), how)),
            (tf.reduce_max, _over_axes(ops.max)),
            (tf.reduce_mean, _over_axes(ops.mean)),
            (tf.reduce_min, _over_axes(ops.min)),
            (tf.reduce_sum, _over_axes(ops.sum)),
            (tf.split, _split),
            (tf.unstack, ops.unstack),
            (tf.where, ops.where),
        ],
        4: [
            (tf.nn.avg_pool2d, _pooling(ops.average_pool)),
            (tf.nn.max_pool2d, _pooling(ops.max_pool)),
            (tf.pad, _pad),
        ],
    }
    return {
        inspect.unwrap(function): (other, count)
        for count, pairs in alike.items()
        for function, other in pairs
    }


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, str | int | float) and value == default)


def _numbers(value: Any) -> Any:
    """Sizes or axes that may be a tensor, or an array, as plain numbers."""
    if ops.is_tensor(value) or isinstance(value, np.ndarray):
        value = np.asarray(value).tolist()
    return tuple(value) if isinstance(value, list) else value


def _over_axes(function: Function) -> Function:
    return lambda x, axis, keepdims: function(x, _numbers(axis), keepdims)


def _pooling(function: Function) -> Function:
    return lambda x, size, strides, padding: function(x, size, strides, padding.lower())


def _split(x: Any, parts: Any, axis: int) -> Any:
    parts = _numbers(parts)
    if isinstance(parts, int):
        return ops.split(x, parts, axis)
    return ops.split(x, np.cumsum(parts)[:-1].tolist(), axis)  # Keras takes the places of the cuts


def _pad(x: Any, paddings: Any, mode: str, value: float) -> Any:
    kind = mode.lower()
    constant = {"constant_values": value} if kind == "constant" else {}
    return ops.pad(x, _numbers(paddings), kind, **constant)
