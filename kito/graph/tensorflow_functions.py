"""Functions of TensorFlow in a `call`, on symbolic tensors: what `keras.ops` has of the same kind.

Keras runs a `call` that uses `tf.nn.relu`, but can't record it. TensorFlow asks others what to do
with arguments that it does not know, as a KerasTensor is. What is recorded so is compared with the
layer on data, as every trace is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

from kito.graph.keras_internals import register_tree_node_class, sublayers
from kito.graph.size_reads import Size

Function = Callable[..., Any]

OPERATORS = [
    f"__{reflected}{name}__"
    for name in ("add", "sub", "mul", "truediv", "pow")
    for reflected in ("", "r")
]

_is_recording = ContextVar("is_recording", default=False)


@contextlib.contextmanager
def tensorflow_as_keras() -> Iterator[None]:
    """Let functions of TensorFlow take symbolic tensors, where Keras runs on it."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    _register()
    token = _is_recording.set(True)
    shape = keras.KerasTensor.shape
    keras.KerasTensor.shape = property(lambda tensor: _Shape(shape.fget(tensor)), shape.fset)
    keras.KerasTensor.get_shape = lambda tensor: tensor.shape
    operators = {name: getattr(keras.KerasTensor, name) for name in OPERATORS}
    for name, operator in operators.items():
        setattr(keras.KerasTensor, name, _with_numbers(operator))
    try:
        yield
    finally:
        for name, operator in operators.items():
            setattr(keras.KerasTensor, name, operator)
        del keras.KerasTensor.get_shape
        keras.KerasTensor.shape = shape
        _is_recording.reset(token)


def _with_numbers(operator: Function) -> Function:
    """An operator for which what numpy computed has the dtype of the tensor, as in TensorFlow."""

    def operate(tensor: keras.KerasTensor, other: Any) -> Any:
        if isinstance(other, np.generic):
            other = other.item()
        elif isinstance(other, np.ndarray) and tensor.dtype in ("float16", "float32", "float64"):
            other = other.astype(tensor.dtype)
        return operator(tensor, other)

    return operate


class _Shape(tuple[int | None, ...]):
    """A shape that has what those of TensorFlow have. As an argument, Keras takes it for a tuple,
    of which it can save what is in it.
    """

    def tree_flatten(self) -> tuple[tuple[int | None, ...], None]:
        return tuple(self), None

    @classmethod
    def tree_unflatten(cls, _: None, sizes: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(sizes)

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _Shape(part) if isinstance(index, slice) else part

    def as_list(self) -> list[int | None]:
        return list(self)

    @property
    def rank(self) -> int:
        return len(self)

    ndims = rank


@contextlib.contextmanager
def uncompiled(layer: keras.Layer) -> Iterator[None]:
    """Let TensorFlow run the functions in a call as they are written.

    Keras has it compile each grouped convolution, which for one call takes much longer than the
    convolution. But those in three dimensions it has no other way to compute.
    """
    if keras.backend.backend() != "tensorflow" or any(
        isinstance(part, keras.layers.Conv3D) and part.groups > 1 for part in sublayers(layer)
    ):
        yield
        return
    import tensorflow as tf  # noqa: PLC0415 (Keras may run on another backend)

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@functools.cache
def _register() -> None:
    """Be asked by TensorFlow, and let Keras know shapes, once for all: nobody can be taken from
    their lists.
    """
    import tensorflow as tf  # noqa: PLC0415 (Keras may run on another backend)

    class Dispatcher(tf.__internal__.dispatch.GlobalOpDispatcher):  # type: ignore[misc]
        def handle(self, op: Function, args: Any, kwargs: Any) -> Any:
            found = _functions().get(inspect.unwrap(op)) if _is_recording.get() else None
            # TensorFlow also asks where tensors of its own do not fit.
            if found is None or not any(map(_is_symbolic, keras.tree.flatten((args, kwargs)))):
                return self.NOT_SUPPORTED
            function, count = found
            signature = inspect.signature(op)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            values = [value for name, value in given.arguments.items() if name != "name"]
            usual = [each.default for name, each in signature.parameters.items() if name != "name"]
            if not all(map(_is_default, values[count:], usual[count:])):
                return self.NOT_SUPPORTED
            made = function(*values[:count])
            return self.NOT_SUPPORTED if made is NotImplemented else made

    Dispatcher().register()
    register_tree_node_class(_Shape)


@functools.cache
def _functions() -> dict[Function, tuple[Function, int]]:
    """Functions of TensorFlow, those of Keras in their place, and how many arguments these take.
    Others have to be TensorFlow's defaults.
    """
    import tensorflow as tf  # noqa: PLC0415

    alike = {
        1: [
            (tf.abs, ops.abs),
            (tf.convert_to_tensor, lambda x: x),  # with which activations of Keras begin
            (tf.cos, ops.cos),
            (tf.exp, ops.exp),
            (tf.floor, ops.floor),
            (tf.identity, lambda x: x),
            (tf.logical_not, ops.logical_not),
            (tf.math.ceil, ops.ceil),
            (tf.math.erf, ops.erf),
            (tf.math.log, ops.log),
            (tf.math.log1p, ops.log1p),
            (tf.math.rsqrt, ops.rsqrt),
            (tf.negative, ops.negative),
            (tf.nn.elu, ops.elu),
            (tf.nn.relu, ops.relu),
            (tf.nn.relu6, ops.relu6),
            (tf.nn.selu, ops.selu),
            (tf.nn.silu, ops.silu),
            (tf.nn.softplus, ops.softplus),
            (tf.nn.softsign, ops.softsign),
            (tf.ones_like, ops.ones_like),
            (tf.shape, _sizes),
            (tf.sigmoid, ops.sigmoid),
            (tf.sign, ops.sign),
            (tf.sin, ops.sin),
            (tf.sqrt, ops.sqrt),
            (tf.square, ops.square),
            (tf.stop_gradient, ops.stop_gradient),
            (tf.tanh, ops.tanh),
            (tf.zeros_like, ops.zeros_like),
        ],
        2: [
            (tf.add, ops.add),
            (tf.broadcast_to, lambda x, shape: ops.broadcast_to(x, _numbers(shape))),
            (tf.cast, lambda x, dtype: ops.cast(x, keras.backend.standardize_dtype(dtype))),
            (tf.concat, lambda tensors, axis: ops.concatenate(tensors, _numbers(axis))),
            (tf.divide, ops.divide),
            (tf.einsum, lambda equation, tensors: ops.einsum(equation, *tensors)),
            (tf.equal, ops.equal),
            (tf.expand_dims, lambda x, axis: ops.expand_dims(x, _numbers(axis))),
            (tf.greater, ops.greater),
            (tf.greater_equal, ops.greater_equal),
            (tf.less, ops.less),
            (tf.less_equal, ops.less_equal),
            (tf.logical_and, ops.logical_and),
            (tf.logical_or, ops.logical_or),
            (tf.math.l2_normalize, _l2_normalize),
            (tf.math.reduce_std, _over_axes(ops.std)),
            (tf.math.reduce_variance, _over_axes(ops.var)),
            (tf.maximum, ops.maximum),
            (tf.minimum, ops.minimum),
            (tf.multiply, ops.multiply),
            (tf.nn.depth_to_space, ops.depth_to_space),
            (tf.nn.gelu, ops.gelu),
            (tf.nn.leaky_relu, ops.leaky_relu),
            (tf.nn.log_softmax, lambda x, axis: ops.log_softmax(x, -1 if axis is None else axis)),
            (tf.nn.softmax, lambda x, axis: ops.softmax(x, -1 if axis is None else axis)),
            (tf.nn.space_to_depth, ops.space_to_depth),
            (tf.not_equal, ops.not_equal),
            (tf.pow, ops.power),
            (tf.reshape, lambda x, shape: ops.reshape(x, _numbers(shape))),
            (tf.reverse, lambda x, axis: ops.flip(x, _numbers(axis))),
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
            (tf.reduce_prod, _over_axes(ops.prod)),
            (tf.reduce_sum, _over_axes(ops.sum)),
            (tf.repeat, lambda x, repeats, axis: ops.repeat(x, _numbers(repeats), axis)),
            (tf.roll, lambda x, shift, axis: ops.roll(x, _numbers(shift), _numbers(axis))),
            (tf.split, _split),
            (tf.unstack, ops.unstack),
            (tf.where, ops.where),
        ],
        4: [
            (tf.gather, lambda x, places, _, axis: ops.take(x, places, axis or 0)),
            (tf.matmul, _matmul),
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


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, tuple | dict) and not value:  # of *args and **kwargs
        return True
    return value is default or (isinstance(value, str | int | float) and value == default)


def _numbers(value: Any) -> Any:
    """Sizes or axes, some of which may be tensors, or of numpy, as plain numbers."""
    if ops.is_tensor(value) or isinstance(value, np.ndarray | np.generic):
        value = np.asarray(value).tolist()
    return tuple(map(_numbers, value)) if isinstance(value, list | tuple) else value


def _sizes(x: Any) -> Any:
    """The shape, with which one can compute if all of it is known."""
    shape = tuple(ops.shape(x))
    noted = any(isinstance(size, Size) for size in shape)
    return shape if None in shape else np.array(shape, object if noted else "int32")


def _over_axes(function: Function) -> Function:
    return lambda x, axis, *keepdims: function(x, _numbers(axis), *keepdims)


def _l2_normalize(x: Any, axis: Any) -> Any:
    squares = ops.sum(ops.square(x), _numbers(axis), keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(squares, 1e-12)))  # TensorFlow's epsilon


def _matmul(x: Any, y: Any, transpose_x: bool, transpose_y: bool) -> Any:
    x = ops.swapaxes(x, -1, -2) if transpose_x else x
    return ops.matmul(x, ops.swapaxes(y, -1, -2) if transpose_y else y)


def _pooling(function: Function) -> Function:
    def window(size: Any) -> Any:
        size = _numbers(size)
        return size[1:3] if isinstance(size, tuple) and len(size) == 4 else size

    return lambda x, size, strides, padding: function(
        x, window(size), window(strides), padding.lower()
    )


def _split(x: Any, parts: Any, axis: int) -> Any:
    parts = _numbers(parts)
    if isinstance(parts, int):
        return ops.split(x, parts, axis)
    if -1 in parts[:-1]:
        return NotImplemented
    return ops.split(x, np.cumsum(parts)[:-1].tolist(), axis)  # Keras takes the places of the cuts


def _pad(x: Any, paddings: Any, mode: str, value: float) -> Any:
    kind = mode.lower()
    constant = {"constant_values": value} if kind == "constant" else {}
    return ops.pad(x, _numbers(paddings), kind, **constant)


def in_function() -> bool:
    """Whether TensorFlow records what runs, as the graph of a function."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf  # noqa: PLC0415 (Keras may run on another backend)

    return not tf.executing_eagerly()
