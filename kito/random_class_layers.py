"""Random layers of a given class, for tensors that are there: `MAKERS`.

`random_layers` picks any layer for a tensor; here the class is given, as the pattern of a rule
gives it. Each function takes `draw`, the class, the tensor, and the axis along which the call
before has its channels, 1 or -1.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import hypothesis.strategies as st
import keras
import numpy as np
from hypothesis.strategies import DrawFn
from keras import layers, ops

from kito.graph.keras_internals import (
    AddOperation,
    DivideOperation,
    LayerScale,
    MultiplyOperation,
    ReshapeOperation,
    StochasticDepth,
    SubtractOperation,
    TrueDivideOperation,
)
from kito.random_layers import (
    CONVOLUTIONS,
    LINEAR,
    MAX_ELEMENTS,
    POOLING,
    TRANSPOSED,
    Tensor,
    convolution,
    dense,
    depthwise,
    elements,
    normalization,
    rarely,
    separable,
    spectral,
    transposed,
)

Class = type[keras.Operation]
# A layer, or another function of a tensor, or of a list of tensors where it merges these.
Made = Any
Make = Callable[[DrawFn, Any, Tensor, int], Made]

ANY_RANK = (2, 1, 0, 3)
ACTIVATIONS = (
    "relu",
    "linear",
    "silu",
    "gelu",
    "sigmoid",
    "softmax",
    "relu6",
    "leaky_relu",
    "tanh",
    "elu",
    "softplus",
    "hard_sigmoid",
    "exponential",
)
# Mostly what a window of 2 or 3 pads with.
SIDES = (*[(1, 1)] * 4, *[(0, 1)] * 3, (1, 0), (0, 0), (2, 2))
NUMBERS = (2.0, -0.5, 1.0, 0.25)


@dataclass(frozen=True)
class Maker:
    """How a call of a class is drawn.

    Attributes:
        make: gives the layer.
        ranks: how many sizes a tensor may have between the batch and the channels.
    """

    make: Make
    ranks: tuple[int, ...] = ANY_RANK

    def takes(self, x: Tensor) -> bool:
        """Whether the class can be called on the tensor, as far as its rank says."""
        return len(x.shape) - 2 in self.ranks


def given_by(strategy: st.SearchStrategy[Any]) -> Maker:
    """The maker that draws layers of a strategy, whatever the tensor."""
    return Maker(lambda draw, cls, x, axis: draw(strategy))


def reused(make: Callable[[DrawFn, Tensor], Made]) -> Make:
    """A function of `random_layers`, which finds the class by the rank of the tensor."""
    return lambda draw, cls, x, axis: make(draw, x)


def formatted(
    draw: DrawFn, cls: Any, x: Tensor, axis: int
) -> tuple[dict[str, str], tuple[int | None, ...]]:
    """The data format as an argument, if the class has one, and the sizes; mostly those of the
    call before.
    """
    if "data_format" not in inspect.signature(cls).parameters:
        return {}, tuple(x.shape[1:-1])
    if rarely(draw, 8):
        axis = 1 if axis == -1 else -1
    if axis == 1:
        return {"data_format": "channels_first"}, tuple(x.shape[2:])
    return {"data_format": "channels_last"}, tuple(x.shape[1:-1])


def repeated(draw: DrawFn, choices: Sequence[Any], times: int) -> Any:
    """One of the choices for each of some sizes, mostly the same one for all."""
    one = draw(st.sampled_from(choices))
    if times == 1:
        return one
    if rarely(draw, 3):
        return tuple(draw(st.sampled_from(choices)) for _ in range(times))
    return (one,) * times


def vector(draw: DrawFn, length: int | None) -> Any:
    """A number, or numbers for each of so many channels."""
    number = draw(st.sampled_from(NUMBERS))
    if not length or not rarely(draw, 3):
        return number
    return (number * np.linspace(1.0, 2.0, length)).tolist()


# --- what has weights -----------------------------------------------------------------------------


def einsum_dense(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """EinsumDense: over the last axis or another one, with new axes or without."""
    sizes = ["b", "bc", "bcd", "bcde"][len(x.shape) - 2]
    summed = sizes[-1] if not rarely(draw, 4) else draw(st.sampled_from(sizes))
    new = draw(st.sampled_from(("y", "yz")))
    kept = "".join(letter for letter in sizes if letter != summed)
    shared = draw(st.sampled_from(("", *kept)))  # an axis of the input that the kernel has too
    kernel = "".join(draw(st.permutations(summed + shared + new)))
    alone = kept.replace(shared, "") if shared else kept
    if alone and rarely(draw, 4):  # an axis that is added up, and not with the kernel
        kept = kept.replace(draw(st.sampled_from(alone)), "")
    output = kept + new if not rarely(draw, 4) else "".join(draw(st.permutations(kept + new)))
    lengths = {letter: draw(st.integers(1, 4)) for letter in new}
    lengths |= dict(zip(sizes, x.shape[1:], strict=True))
    ellipsis = len(alone) > 0 and not shared and output.startswith(alone) and rarely(draw, 3)
    equation = f"a{sizes},{kernel}->a{output}"
    if ellipsis and summed == sizes[-1]:
        equation = f"...{summed},{kernel}->...{output.removeprefix(kept)}"
        output = output.removeprefix(kept)
    bias = draw(st.sampled_from((None, output[-1], output)))
    shape = tuple(lengths[letter] for letter in output)
    return layers.EinsumDense(equation, shape, bias_axes=bias)


def batch_normalization(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """BatchNormalization, mostly of the channels."""
    return normalization(draw, x, -1 if axis == 1 and rarely(draw, 4) else axis)


def layer_normalization(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """LayerNormalization, mostly of the last axis."""
    axes = [-1, 1, [1, -1] if len(x.shape) > 2 else -1]
    return layers.LayerNormalization(
        axis=axes[0] if not rarely(draw, 6) else draw(st.sampled_from(axes)),
        scale=not rarely(draw, 4),
        center=not rarely(draw, 4),
        epsilon=draw(st.sampled_from((1e-3, 0.1))),
    )


def layer_scale(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """LayerScale, of the last axis; rarely one number for all."""
    return LayerScale(1.0, 1 if rarely(draw, 6) else x.shape[-1])


def time_distributed(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """TimeDistributed of a linear layer or of a normalization."""
    step = keras.KerasTensor((x.shape[0], *x.shape[2:]), x.dtype)
    if rarely(draw, 3):
        return layers.TimeDistributed(normalization(draw, step, axis))
    linear = draw(st.sampled_from(LINEAR[len(step.shape) - 2]))
    return layers.TimeDistributed(linear(draw, step))


# --- what has none --------------------------------------------------------------------------------


def activation(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """Activation."""
    return layers.Activation(draw(st.sampled_from(ACTIVATIONS)))


def relu(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """ReLU, sometimes with an end, a slope or a threshold."""
    return layers.ReLU(
        max_value=draw(st.sampled_from((None, 6.0, 0.5))) if rarely(draw, 3) else None,
        negative_slope=0.25 if rarely(draw, 6) else 0.0,
        threshold=0.25 if rarely(draw, 6) else 0.0,
    )


def leaky_relu(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """LeakyReLU."""
    return layers.LeakyReLU(draw(st.sampled_from((0.25, 0.1))))


def rescaling(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """Rescaling by numbers, or by one for each channel."""
    offset = vector(draw, x.shape[-1]) if draw(st.booleans()) else 0.0
    return layers.Rescaling(vector(draw, x.shape[-1]), offset=offset)


def fixed_normalization(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """Normalization with a given mean and variance."""
    length = x.shape[-1]
    invert = draw(st.booleans())
    if length and draw(st.booleans()):
        line = np.linspace(0.5, 2.0, length)
        mean = 0 * line if rarely(draw, 4) else line
        return layers.Normalization(mean=mean, variance=line, invert=invert)
    return layers.Normalization(axis=None, mean=0.5, variance=2.0, invert=invert)


def arithmetic(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """An operation on a constant, or on two tensors where it is given a list of them."""
    function = ARITHMETIC[cls]
    shapes: list[tuple[int, ...]] = [(), (1,)]
    if x.shape[-1]:
        shapes.append((x.shape[-1],))
    if x.shape[1]:
        shapes.append((x.shape[1], *[1] * (len(x.shape) - 2)))
    if None not in x.shape[1:]:
        shapes.append(tuple(x.shape[1:]))
    shape = draw(st.sampled_from(shapes))
    line = np.linspace(0.5, 2.0, math.prod(shape)).reshape(shape)
    number = draw(st.sampled_from((1, -1))) * line.astype("float32")
    constant = float(number) if shape == () else number
    left = rarely(draw, 3)

    def apply(given: Any) -> Tensor:
        if isinstance(given, list):
            return function(given[0], given[1])
        return function(constant, given) if left else function(given, constant)

    return apply


def pooling(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """A pooling with a window."""
    data_format, sizes = formatted(draw, cls, x, axis)
    return cls(
        repeated(draw, (3, 2, 3, 1), len(sizes)),
        strides=repeated(draw, (1, 1, 2), len(sizes)),
        padding="same" if rarely(draw, 3) else "valid",
        **data_format,
    )


def global_pooling(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """A pooling that leaves the channels."""
    data_format, _ = formatted(draw, cls, x, axis)
    return cls(keepdims=rarely(draw, 4), **data_format)


def padding(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """ZeroPadding or Cropping, mostly the same along all sizes."""
    data_format, sizes = formatted(draw, cls, x, axis)
    return cls(repeated(draw, SIDES, len(sizes)), **data_format)


def upsampling(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """UpSampling."""
    data_format, sizes = formatted(draw, cls, x, axis)
    most = 2 if elements(x) <= MAX_ELEMENTS >> len(sizes) else 1
    size = repeated(draw, range(1, most + 1), len(sizes))
    options: dict[str, Any] = {"size": size, **data_format}
    if cls is layers.UpSampling2D and rarely(draw, 3):
        options["interpolation"] = draw(st.sampled_from(("bilinear", "bicubic")))
    return cls(**options)


def target_shape(draw: DrawFn, x: Tensor) -> tuple[int, ...]:
    """A shape, without the batch, that a tensor can be given."""
    *sizes, channels = x.shape[1:]
    shapes = [(-1, channels or 1), (channels or -1, 1), (1, 1, channels or -1)]
    if not sizes:
        ones = (1,) * draw(st.integers(1, 3))
        shapes += [(*ones, channels or -1), (channels or -1, *ones)]
    if None not in x.shape[1:]:
        total = math.prod(x.shape[1:])
        shapes += [tuple(x.shape[1:]), tuple(reversed(x.shape[1:])), (total,), (total, 1)]
        if channels % 2 == 0:
            shapes.append((*sizes, 2, channels // 2))
    return draw(st.sampled_from(shapes))


def reshape(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """Reshape, sometimes to the shape that is there, or to all axes but one of length 1."""
    return layers.Reshape(target_shape(draw, x))


def reshape_operation(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """The function `keras.ops.reshape`."""
    shape = target_shape(draw, x)
    batch = (x.shape[0] or -1) if -1 not in shape else (x.shape[0] or 1)
    return lambda tensor: ops.reshape(tensor, (batch, *shape))


def permute(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """Permute."""
    return layers.Permute(draw(st.permutations(range(1, len(x.shape)))))


def concatenate(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """Concatenate, mostly of the channels."""
    if rarely(draw, 6):
        axis = draw(st.sampled_from(range(1, len(x.shape))))
    return layers.Concatenate(axis=axis)


def stochastic_depth(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
    """StochasticDepth, of ConvNeXt."""
    return StochasticDepth(0.5)


def with_arguments(*args: Any, **kwargs: Any) -> Make:
    """A layer that is always built with the same arguments."""
    return lambda draw, cls, x, axis: cls(*args, **kwargs)


def augmentation(**kwargs: Any) -> Maker:
    """A layer that changes images in training; it is called for inference."""

    def make(draw: DrawFn, cls: Any, x: Tensor, axis: int) -> Made:
        return partial(cls(**kwargs), training=False)

    return Maker(make, (2,))


def by_rank(kinds: Mapping[int, Any], make: Make) -> dict[Class, Maker]:
    """Classes of which each takes tensors of one rank."""
    return {cls: Maker(make, (rank,)) for rank, cls in kinds.items()}


ARITHMETIC: Mapping[Class, Callable[[Any, Any], Tensor]] = {
    AddOperation: ops.add,
    DivideOperation: ops.divide,
    MultiplyOperation: ops.multiply,
    SubtractOperation: ops.subtract,
    TrueDivideOperation: ops.true_divide,
}
MAKERS: Mapping[Class, Maker] = {
    **by_rank(CONVOLUTIONS, reused(convolution)),
    **by_rank(TRANSPOSED, reused(transposed)),
    **by_rank({1: layers.DepthwiseConv1D, 2: layers.DepthwiseConv2D}, reused(depthwise)),
    **by_rank({1: layers.SeparableConv1D, 2: layers.SeparableConv2D}, reused(separable)),
    layers.Dense: Maker(reused(dense)),
    layers.EinsumDense: Maker(einsum_dense),
    layers.SpectralNormalization: Maker(reused(spectral), (2, 0)),
    layers.TimeDistributed: Maker(time_distributed, (1, 2, 3)),
    layers.BatchNormalization: Maker(batch_normalization),
    layers.LayerNormalization: Maker(layer_normalization),
    layers.GroupNormalization: Maker(with_arguments(1)),
    layers.RMSNormalization: Maker(with_arguments()),
    layers.UnitNormalization: Maker(with_arguments()),
    LayerScale: Maker(layer_scale),
    layers.PReLU: Maker(with_arguments(shared_axes=[1])),
    layers.Activation: Maker(activation),
    layers.ReLU: Maker(relu),
    layers.LeakyReLU: Maker(leaky_relu),
    layers.ELU: Maker(with_arguments()),
    layers.Softmax: Maker(with_arguments()),
    layers.Rescaling: Maker(rescaling),
    layers.Normalization: Maker(fixed_normalization),
    **dict.fromkeys(ARITHMETIC, Maker(arithmetic)),
    **{cls: Maker(pooling, (rank,)) for rank in POOLING for cls in POOLING[rank]},
    layers.AveragePooling3D: Maker(pooling, (3,)),
    layers.MaxPooling3D: Maker(pooling, (3,)),
    **by_rank(
        {
            1: layers.GlobalAveragePooling1D,
            2: layers.GlobalAveragePooling2D,
            3: layers.GlobalAveragePooling3D,
        },
        global_pooling,
    ),
    **by_rank(
        {
            1: layers.GlobalMaxPooling1D,
            2: layers.GlobalMaxPooling2D,
            3: layers.GlobalMaxPooling3D,
        },
        global_pooling,
    ),
    **by_rank({1: layers.ZeroPadding1D, 2: layers.ZeroPadding2D, 3: layers.ZeroPadding3D}, padding),
    **by_rank({1: layers.Cropping1D, 2: layers.Cropping2D, 3: layers.Cropping3D}, padding),
    **by_rank({1: layers.UpSampling1D, 2: layers.UpSampling2D, 3: layers.UpSampling3D}, upsampling),
    layers.Flatten: Maker(with_arguments()),
    layers.Reshape: Maker(reshape),
    ReshapeOperation: Maker(reshape_operation),
    layers.Permute: Maker(permute),
    layers.RepeatVector: Maker(with_arguments(2), (0,)),
    layers.Identity: Maker(with_arguments()),
    layers.ActivityRegularization: Maker(with_arguments(l2=0.5)),
    layers.AlphaDropout: Maker(with_arguments(0.5)),
    layers.Dropout: Maker(with_arguments(0.5)),
    layers.GaussianDropout: Maker(with_arguments(0.5)),
    layers.GaussianNoise: Maker(with_arguments(0.5)),
    layers.SpatialDropout1D: Maker(with_arguments(0.5), (1,)),
    layers.SpatialDropout2D: Maker(with_arguments(0.5), (2,)),
    layers.SpatialDropout3D: Maker(with_arguments(0.5), (3,)),
    StochasticDepth: Maker(stochastic_depth),
    # Not RandomHue and RandomSaturation, whose states change at inference too.
    layers.RandomBrightness: augmentation(factor=0.5),
    layers.RandomColorJitter: augmentation(brightness_factor=0.5),
    layers.RandomContrast: augmentation(factor=0.5),
    layers.RandomErasing: augmentation(factor=1.0),
    layers.RandomFlip: augmentation(),
    layers.RandomPerspective: augmentation(factor=1.0),
    layers.RandomRotation: augmentation(factor=0.5),
    layers.RandomShear: augmentation(x_factor=0.5),
    layers.RandomTranslation: augmentation(height_factor=0.5, width_factor=0.5),
    layers.RandomZoom: augmentation(height_factor=0.5),
    layers.Concatenate: Maker(concatenate),
    layers.Add: Maker(with_arguments()),
    layers.Average: Maker(with_arguments()),
    layers.Maximum: Maker(with_arguments()),
    layers.Minimum: Maker(with_arguments()),
    layers.Multiply: Maker(with_arguments()),
    layers.Subtract: Maker(with_arguments()),
}
