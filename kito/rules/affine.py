"""Affine maps per channel, whatever layer or operation computes them.

    y = scale * x + shift

| layer or operation                  | scale                   | shift                     |
|:------------------------------------|:------------------------|:--------------------------|
| BatchNormalization                  | see `batchnorm.py`      | see `batchnorm.py`        |
| Rescaling(scale, offset)            | scale                   | offset                    |
| Normalization(mean, variance)       | 1 / deviation           | -mean / deviation         |
| the same with invert=True           | deviation               | mean                      |
| x + c, c + x                        | 1                       | c                         |
| x - c                               | 1                       | -c                        |
| c - x                               | -1                      | c                         |
| x * c, c * x                        | c                       | 0                         |
| x / c                               | 1 / c                   | 0                         |

where deviation = max(sqrt(variance), keras.backend.epsilon()), and c is a number, an array or a
tensor with values. c / x is no affine map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras.layers import BatchNormalization, Normalization, Rescaling

from kito.definition import Chain, Decline, Graph, Match, Node, Readers, Ref, Tensor, to_numpy
from kito.operations import (
    AddOperation,
    DivideOperation,
    MultiplyOperation,
    SubtractOperation,
    TrueDivideOperation,
)
from kito.rules.batchnorm import Float64, scale_and_shift

# x - c is exact for x near c, scale * x - scale * c is not: it is off by some 6e-8 of the shift in
# float32, and by 1e-3 or 8e-3 in the short dtypes. 128 is more than the means of images.
LARGEST_SHIFT = 128
LARGEST_SHIFT_IN_16_BITS = 8


@dataclass(frozen=True, eq=False)
class Affine:
    """The map of each channel: scale * x + shift.

    Attributes:
        name: of the layer that it is.
        scale, shift: float64; vectors (channels,), or numbers (shape ()) if axis is None.
        axis: that of the channels, counted from the front; None if they are all treated alike.
    """

    name: str
    scale: Float64
    shift: Float64
    axis: int | None

    def along(self, axis: int, channels: int) -> tuple[Float64, Float64]:
        """Scale and shift as vectors (channels,) along an axis.

        Raises:
            Decline: they vary along another axis.
        """
        if self.axis not in (axis, None):
            raise Decline(
                f"{self.name} varies along axis {self.axis}, the channels are axis {axis}"
            )
        return np.broadcast_to(self.scale, channels), np.broadcast_to(self.shift, channels)

    def then(self, other: Affine) -> Affine:
        """The map that applies this one and then the other.

        Raises:
            Decline: they vary along different axes.
        """
        axis = other.axis if self.axis is None else self.axis
        if other.axis not in (axis, None):
            raise Decline(
                f"{self.name} varies along axis {self.axis}, {other.name} along axis {other.axis}"
            )
        shift = self.shift * other.scale + other.shift
        return Affine(other.name, self.scale * other.scale, shift, axis)


@dataclass(frozen=True)
class Sourced:
    """A pattern, and as `source` the call that makes what the first of its calls reads."""

    pattern: Chain | Readers

    @property
    def names(self) -> tuple[str, ...]:
        return ("source", *self.pattern.names)

    @property
    def anchors(self) -> tuple[type[keras.Operation], ...]:
        return self.pattern.anchors

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        match = self.pattern.match(graph, node)
        if match is None:
            return None
        source = graph.producer(match.head.input)
        return Match({"source": source, **match.captures}, frozenset({"source"}), match.ends)

    def __str__(self) -> str:
        return str(self.pattern)


def reads_one_tensor(node: Node) -> bool:
    """Whether a call has one tensor among its arguments: a sum of two is no affine map."""
    return len(node.refs) == 1


def affine_of(node: Node, given: Tensor) -> Affine:
    """The affine map that a call is.

    Args:
        given: the tensor that the call reads.

    Raises:
        Decline: it is none, it changes the dtype or the shape, or it is not finite.
    """
    if node.output.dtype != given.dtype:
        raise Decline(f"{node.name} turns {given.dtype} into {node.output.dtype}")
    if node.output.shape != given.shape:
        raise Decline(f"{node.name} turns the shape {given.shape} into {node.output.shape}")
    if node.layer.cls is BatchNormalization:
        return Affine(node.name, *scale_and_shift(node), node.axis % len(given.shape))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale, shift = np.broadcast_arrays(*READERS[node.layer.cls](node))
    check_normal(node.name, (scale, shift), node.output.dtype)
    if not scale.size:
        raise Decline(f"{node.name} has an empty constant")
    axes = [axis - scale.ndim for axis, size in enumerate(scale.shape) if size > 1]
    if not axes:
        return Affine(node.name, scale.reshape(()), shift.reshape(()), None)
    axis = len(given.shape) + axes[0]
    if len(axes) > 1 or axis < 1 or given.shape[axis] != scale.size:
        raise Decline(
            f"{node.name} has a constant of the shape {scale.shape} for a tensor of the shape "
            f"{given.shape}: it is not one for each channel"
        )
    if node.layer.cls is AddOperation and axis < len(given.shape) - 1:
        # Keras 3.15 on TensorFlow adds a vector along the last axis, or else axis 1, if that is as
        # long, whatever axis the vector has.
        guessed = {given.shape[-1]} if axis == 1 else {given.shape[-1], given.shape[1]}
        if guessed & {None, scale.size}:
            raise Decline(f"{node.name} adds a vector that Keras may add along another axis")
    scale, shift = scale.reshape(-1), shift.reshape(-1)
    if (scale == scale[0]).all() and (shift == shift[0]).all():
        return Affine(node.name, scale[0], shift[0], None)
    return Affine(node.name, scale, shift, axis)


def check_normal(name: str, numbers: Iterable[Float64], dtype: str) -> None:
    """Whether a layer could hold these numbers as precisely as any.

    Raises:
        Decline: one is not finite, out of the range of the dtype, or so small that bits are lost.
    """
    limits = np.finfo(dtype if dtype in ("float16", "float64") else "float32")
    sizes = np.abs(np.concatenate([each.reshape(-1) for each in numbers]))
    if not np.isfinite(sizes).all():
        raise Decline(f"{name} has a scale or shift that is not finite")
    if not ((sizes == 0) | ((sizes >= limits.tiny) & (sizes <= limits.max))).all():
        raise Decline(f"{name} has a scale or shift out of the range of {dtype}")


def as_cast(node: Node, given: Tensor) -> Tensor:
    """The tensor that a call reads, as it computes with it: layers cast it first to their dtype."""
    if issubclass(node.layer.cls, keras.Layer) and getattr(node.layer.source, "autocast", True):
        return replace(given, dtype=node.output.dtype)
    return given


def check_mask(node: Node, given: Tensor) -> None:
    """Whether a call leaves the mask of what it reads as it is.

    Raises:
        Decline: layers behind it would see a mask that they do not see now.
    """
    if given.masked != node.output.masked:
        raise Decline(f"{node.name} ends a mask")


def check_shift(affine: Affine, dtype: str) -> None:
    """Whether it makes no difference that the shift is added after another rounding.

    Raises:
        Decline: the shift is so large that its rounding would be seen.
    """
    largest = LARGEST_SHIFT_IN_16_BITS if dtype in ("float16", "bfloat16") else LARGEST_SHIFT
    if np.abs(affine.shift).max() > largest:
        raise Decline(
            f"{affine.name} shifts a channel by more than {largest}, which {dtype} could not do "
            "as exactly elsewhere"
        )


def _rescaling(node: Node) -> tuple[Float64, Float64]:
    entries = (node.layer.config["scale"], node.layer.config["offset"])
    scale, offset = (_as_cast_by_keras(entry, node.output.dtype) for entry in entries)
    if keras.config.image_data_format() == "channels_first" and scale.size + offset.size > 2:
        # Keras 3.15 puts the scale along the first axis then, and the offset along the last one.
        raise Decline(f"{node.name} has a scale or offset per channel, and images channels first")
    return scale, offset


def _as_cast_by_keras(entry: Any, dtype: str) -> Float64:
    """A number or numbers of a configuration as the layer casts them.

    Of Python's numbers Keras on TensorFlow makes float32 first, also in a float64 layer.
    """
    values = keras.ops.cast(keras.saving.deserialize_keras_object(entry), dtype)
    if dtype != "float64":
        values = keras.ops.cast(values, "float32")  # not all dtypes of 16 bits are numpy's
    return to_numpy(values).astype(np.float64)


def _normalization(node: Node) -> tuple[Float64, Float64]:
    source = node.layer.source
    if source is None or node.layer.is_new:
        raise Decline(f"{node.name} is not a layer of the given model")
    # What the layer computes with; its weights, if it has some, are only what these are made of.
    mean = to_numpy(source.mean).astype(np.float64)
    deviation = np.sqrt(to_numpy(source.variance).astype(np.float64))
    deviation = np.maximum(deviation, keras.backend.epsilon())
    if node.invert:
        return deviation, mean
    return 1 / deviation, -mean / deviation


def _operation(node: Node) -> tuple[Float64, Float64]:
    arguments = [*node.args, *(node.kwargs[name] for name in ("x1", "x2") if name in node.kwargs)]
    [position] = [index for index, argument in enumerate(arguments) if isinstance(argument, Ref)]
    constant = _constant(node, arguments[1 - position])
    one, none = np.ones_like(constant), np.zeros_like(constant)
    if node.layer.cls is AddOperation:
        return one, constant
    if node.layer.cls is SubtractOperation:
        return (one, -constant) if position == 0 else (-one, constant)
    if node.layer.cls is MultiplyOperation:
        return constant, none
    if position == 1:
        raise Decline(f"{node.name} divides by the tensor, which is no affine map")
    return 1 / constant, none


def _constant(node: Node, value: Any) -> Float64:
    if keras.ops.is_tensor(value) and not isinstance(value, keras.Variable):
        value = to_numpy(value)
    plain = isinstance(value, int | float | np.ndarray | np.generic)
    array = np.asarray(value) if plain else np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise Decline(f"{node.name} has an argument that is no number, array or tensor")
    return array.astype(np.float64)


READERS: Mapping[type[keras.Operation], Callable[[Node], tuple[Float64, Float64]]] = {
    Rescaling: _rescaling,
    Normalization: _normalization,
    AddOperation: _operation,
    DivideOperation: _operation,
    MultiplyOperation: _operation,
    SubtractOperation: _operation,
    TrueDivideOperation: _operation,
}
# The classes that may be affine maps, without and with BatchNormalization.
PLAIN_AFFINE = tuple(READERS)
AFFINE = (BatchNormalization, *PLAIN_AFFINE)
