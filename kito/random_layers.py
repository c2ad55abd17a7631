"""Random layers for a tensor that is there, with whatever options go together.

Each function takes `draw` and the tensor, and returns a layer that can be called on it. What is
picked shrinks to few options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
from hypothesis.strategies import DrawFn
from keras import layers, ops

Tensor = Any  # keras.KerasTensor, which has no types
Layer = Any  # keras.layers.Layer

CHANNELS = (2, 3, 4, 1)
# No step makes a tensor larger than this, for one sample.
MAX_ELEMENTS = 512


def any_layer(draw: DrawFn, x: Tensor) -> Layer:
    """Any layer that takes one tensor."""
    return draw(st.sampled_from(LAYERS[len(x.shape) - 2]))(draw, x)


def linear_and_norm(draw: DrawFn, x: Tensor) -> tuple[Layer, Layer]:
    """A linear layer and a BatchNormalization that can be called after it."""
    linear = draw(st.sampled_from(LINEAR[len(x.shape) - 2]))(draw, x)
    y = linear.compute_output_spec(keras.KerasTensor(x.shape, x.dtype))
    first = getattr(linear, "data_format", None) == "channels_first"
    return linear, normalization(draw, y, 1 if first else -1)


def normalization(draw: DrawFn, x: Tensor, channel_axis: int = -1) -> Layer:
    """BatchNormalization, mostly of the channels."""
    axis = channel_axis
    if rarely(draw, 6):
        axis = draw(st.sampled_from([i for i, size in enumerate(x.shape) if i and size]))
    return layers.BatchNormalization(
        axis=axis,
        scale=not rarely(draw, 4),
        center=not rarely(draw, 4),
        epsilon=draw(st.sampled_from((1e-3, 1e-5))),
        trainable=not rarely(draw, 6),
        dtype="float32" if rarely(draw) else None,
    )


def norm_call(draw: DrawFn, norm: Layer, x: Tensor) -> Tensor:
    """The normalization of a tensor; training=True normalizes with the batch's own statistics."""
    if rarely(draw):
        return norm(x, training=True)
    return norm(x)


def convolution(draw: DrawFn, x: Tensor) -> Layer:
    """Conv1D, Conv2D or Conv3D."""
    data_format, sizes, channels = layout(draw, x)
    divisors = [n for n in (2, 3, 4) if channels % n == 0]
    groups = draw(st.sampled_from([1, *divisors])) if rarely(draw, 3) else 1
    return CONVOLUTIONS[len(sizes)](
        groups * draw(st.integers(1, 4 // groups)),
        groups=groups,
        data_format=data_format,
        **window(draw, sizes, causal=len(sizes) == 1),
        **options(draw),
    )


def transposed(draw: DrawFn, x: Tensor) -> Layer:
    """Conv1DTranspose, Conv2DTranspose or Conv3DTranspose."""
    data_format, sizes, _ = layout(draw, x)
    # TensorFlow has no dilated gradient of a convolution in float64 and float16 on the CPU.
    dilation = 2 if compute_dtype() in ("float32", "bfloat16") and rarely(draw, 4) else 1
    strides = tuple(draw(st.integers(1, 2)) if dilation == 1 else 1 for _ in sizes)
    kernel = tuple(draw(st.integers(1, 3)) for _ in sizes)
    return TRANSPOSED[len(sizes)](
        draw(st.integers(1, 4)),
        kernel,
        strides=strides,
        dilation_rate=dilation,
        padding=draw(st.sampled_from(("valid", "same"))),
        data_format=data_format,
        **options(draw),
    )


def depthwise(draw: DrawFn, x: Tensor) -> Layer:
    """DepthwiseConv1D or DepthwiseConv2D."""
    data_format, sizes, _ = layout(draw, x, everywhere=True)
    return (layers.DepthwiseConv1D, layers.DepthwiseConv2D)[len(sizes) - 1](
        depth_multiplier=draw(st.integers(1, 2)),
        data_format=data_format,
        **window(draw, sizes, square=True),
        **options(draw),
    )


def separable(draw: DrawFn, x: Tensor) -> Layer:
    """SeparableConv1D or SeparableConv2D."""
    data_format, sizes, _ = layout(draw, x, everywhere=True)
    return (layers.SeparableConv1D, layers.SeparableConv2D)[len(sizes) - 1](
        draw(st.integers(1, 4)),
        depth_multiplier=draw(st.integers(1, 2)),
        data_format=data_format,
        **window(draw, sizes, square=True),
        **options(draw),
    )


def dense(draw: DrawFn, x: Tensor) -> Layer:
    """Dense, on the last axis."""
    return layers.Dense(draw(st.integers(1, 4)), **options(draw))


def activation(draw: DrawFn, x: Tensor) -> Layer:
    """An activation as a layer."""
    kinds = (
        layers.ReLU,
        lambda: layers.Activation("sigmoid"),
        lambda: layers.LeakyReLU(0.1),
        lambda: layers.Activation("linear"),
        lambda: layers.ReLU(6.0),
        lambda: layers.Activation("silu"),
        lambda: layers.Activation("gelu"),
        layers.ELU,
        layers.Softmax,
        lambda: layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) or None),
    )
    return draw(st.sampled_from(kinds))()


def affine(draw: DrawFn, x: Tensor) -> Layer:
    """A layer that multiplies and adds the same in all samples."""
    channels = x.shape[-1]
    vector = np.linspace(0.5, 2.0, channels).tolist() if channels else 1.5
    kinds = [
        lambda: normalization(draw, x),
        lambda: layers.Rescaling(draw(st.sampled_from((2.0, -0.5))), offset=0.25),
        lambda: layers.Rescaling(vector, offset=vector),
    ]
    if channels:
        kinds.append(lambda: layers.Normalization(mean=vector, variance=vector))
    return draw(st.sampled_from(kinds))()


def noise(draw: DrawFn, x: Tensor) -> Layer:
    """A layer that does nothing at inference."""
    kinds = [lambda: layers.Dropout(0.5), lambda: layers.GaussianNoise(1.0)]
    kinds += [lambda: layers.GaussianDropout(0.5)]
    if spatial := SPATIAL_DROPOUT.get(len(x.shape) - 2):
        kinds.append(lambda: spatial(0.5))
    return draw(st.sampled_from(kinds))()


def other_normalization(draw: DrawFn, x: Tensor) -> Layer:
    """A normalization that no rule folds, or one that has no linear layer before it."""
    kinds = (
        lambda: normalization(draw, x),
        layers.LayerNormalization,
        lambda: layers.GroupNormalization(1),
    )
    return draw(st.sampled_from(kinds))()


def pooling(draw: DrawFn, x: Tensor) -> Layer:
    """A pooling with a window."""
    rank = len(x.shape) - 2
    options = window(draw, x.shape[1:-1], dilation=False)
    options["pool_size"] = options.pop("kernel_size")
    return draw(st.sampled_from(POOLING[rank]))(**options)


def global_pooling(draw: DrawFn, x: Tensor) -> Layer:
    """A pooling that leaves the channels."""
    return draw(st.sampled_from(GLOBAL_POOLING[len(x.shape) - 2]))(keepdims=draw(st.booleans()))


def resizing(draw: DrawFn, x: Tensor) -> Layer:
    """Zero padding, cropping or upsampling."""
    rank = len(x.shape) - 2
    padding, cropping, upsampling = RESIZING[rank]
    kinds = [lambda: padding(draw(st.integers(1, 2)))]
    if all(size is None or size > 2 for size in x.shape[1:-1]):
        kinds.append(lambda: cropping(1))
    if elements(x) <= MAX_ELEMENTS >> rank:
        kinds.append(lambda: upsampling(2))
    return draw(st.sampled_from(kinds))()


def reshaping(draw: DrawFn, x: Tensor) -> Layer:
    """Flatten, Reshape, Permute or RepeatVector."""
    shape = x.shape[1:]
    kinds = [lambda: layers.Reshape((-1, shape[-1]))]
    if len(shape) == 1:
        kinds += [lambda: layers.RepeatVector(draw(st.integers(1, 3)))]
        kinds += [lambda: layers.Reshape((1, 1, shape[0]))]
    if None not in shape:
        order = st.permutations(range(1, len(shape) + 1))
        kinds += [layers.Flatten, lambda: layers.Permute(draw(order))]
        kinds += [lambda: layers.Reshape(shape[::-1])]
    return draw(st.sampled_from(kinds))()


def recurrent(draw: DrawFn, x: Tensor) -> Layer:
    """LSTM, GRU or SimpleRNN, in one or both directions."""
    kind = draw(st.sampled_from((layers.GRU, layers.LSTM, layers.SimpleRNN)))
    layer = kind(2, return_sequences=draw(st.booleans()))
    return layers.Bidirectional(layer) if draw(st.booleans()) else layer


def time_distributed(draw: DrawFn, x: Tensor) -> Layer:
    """A layer for each step of time."""
    step = keras.KerasTensor((x.shape[0], *x.shape[2:]), x.dtype)
    inside = draw(st.sampled_from(LINEAR[len(step.shape) - 2]))(draw, step)
    return layers.TimeDistributed(inside)


def spectral(draw: DrawFn, x: Tensor) -> Layer:
    """SpectralNormalization of a Dense layer, or of a convolution."""
    inside = convolution if len(x.shape) == 4 else dense
    return layers.SpectralNormalization(inside(draw, x))


def composite(draw: DrawFn, x: Tensor) -> Layer:
    """A layer written in Python that holds a linear layer and its normalization."""
    if rarely(draw, 4):
        return Bottleneck(draw(st.sampled_from(CHANNELS)))
    linear, norm = linear_and_norm(draw, x)
    if isinstance(linear, layers.TimeDistributed) and x.shape[1] is None:
        # Keras on JAX can't build one inside a layer, where it does not know how many steps go in.
        hypothesis.assume(keras.backend.backend() != "jax")
    # Of the other axes, Keras does not know all sizes while it builds what a layer holds.
    first = getattr(linear, "data_format", None) == "channels_first"
    hypothesis.assume(None not in x.shape[1:] or norm.axis == (1 if first else -1))
    return Block(linear, norm, rate=draw(st.sampled_from((0.0, 0.5))))


@keras.saving.register_keras_serializable("kito.random_models")
class Block(layers.Layer):  # type: ignore[misc]
    """A layer written in Python: linear, normalization, activation, dropout."""

    def __init__(self, linear: Layer, norm: Layer, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.linear, self.norm = linear, norm
        self.dropout = layers.Dropout(rate)

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """What a trained block does: with dropout where it trains."""
        x = ops.relu(self.norm(self.linear(x), training=training))
        return self.dropout(x, training=training)

    def get_config(self) -> dict[str, Any]:
        """The layers inside are saved as their configurations."""
        parts = {"linear": self.linear, "norm": self.norm}
        own = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        return {**super().get_config(), **own, "rate": self.dropout.rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Block:
        """A block of new layers with the saved configurations."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name]) for name in ("linear", "norm")
        }
        return cls(**{**config, **parts})


@keras.saving.register_keras_serializable("kito.random_models")
class Bottleneck(layers.Layer):  # type: ignore[misc]
    """A layer written in Python that leaves its configuration and its building to Keras."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.down = layers.Dense(1, use_bias=False)
        self.norm = layers.BatchNormalization()
        self.up = layers.Dense(units, activation="relu")

    def call(self, x: Tensor) -> Tensor:
        """Fewer channels, and back."""
        return self.up(self.norm(self.down(x)))


# By the number of sizes between the batch and the channels.
CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}
TRANSPOSED = {1: layers.Conv1DTranspose, 2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}
SPATIAL_DROPOUT = {
    1: layers.SpatialDropout1D,
    2: layers.SpatialDropout2D,
    3: layers.SpatialDropout3D,
}
POOLING = {
    1: (layers.MaxPooling1D, layers.AveragePooling1D),
    2: (layers.MaxPooling2D, layers.AveragePooling2D),
}
GLOBAL_POOLING = {
    1: (layers.GlobalMaxPooling1D, layers.GlobalAveragePooling1D),
    2: (layers.GlobalMaxPooling2D, layers.GlobalAveragePooling2D),
    3: (layers.GlobalMaxPooling3D, layers.GlobalAveragePooling3D),
}
RESIZING = {
    1: (layers.ZeroPadding1D, layers.Cropping1D, layers.UpSampling1D),
    2: (layers.ZeroPadding2D, layers.Cropping2D, layers.UpSampling2D),
    3: (layers.ZeroPadding3D, layers.Cropping3D, layers.UpSampling3D),
}
LINEAR = {
    0: (dense, spectral),
    1: (convolution, dense, depthwise, separable, transposed, time_distributed),
    2: (convolution, dense, depthwise, separable, transposed, time_distributed, spectral),
    3: (convolution, dense, transposed, time_distributed),
}
PLAIN = (activation, affine, noise, other_normalization, reshaping, composite)
LAYERS = {
    0: (*LINEAR[0], *PLAIN),
    1: (*LINEAR[1], *PLAIN, pooling, global_pooling, resizing, recurrent),
    2: (*LINEAR[2], *PLAIN, pooling, global_pooling, resizing),
    # No pooling with a window: TensorFlow has none for three sizes in float64 and float16.
    3: (*LINEAR[3], *PLAIN, global_pooling, resizing),
}


# --- what they have in common --------------------------------------------------------------------


def rarely(draw: DrawFn, one_in: int = 10) -> bool:
    """True once in a while; shrinks to False."""
    return draw(st.integers(1, one_in)) == one_in


def elements(x: Tensor) -> int:
    """How many numbers one sample is; a size that is not known counts as 64."""
    return math.prod(size or 64 for size in x.shape[1:])


def compute_dtype() -> str:
    """The dtype in which layers of the current policy compute."""
    return str(keras.config.dtype_policy().compute_dtype)


def layout(
    draw: DrawFn, x: Tensor, *, everywhere: bool = False
) -> tuple[str, tuple[int | None, ...], int]:
    """A data format in which a convolution can read the tensor, the sizes and the channels; mostly
    Keras' `image_data_format`.

    Args:
        everywhere: the layer takes channels_first in every dtype.
    """
    # On the CPU TensorFlow has convolutions of channels_first in float32 only.
    possible = x.shape[1] is not None and (everywhere or compute_dtype() == "float32")
    usual = keras.config.image_data_format() == "channels_first"
    if possible and rarely(draw, 6) != usual:
        return "channels_first", tuple(x.shape[2:]), x.shape[1]
    return "channels_last", tuple(x.shape[1:-1]), x.shape[-1]


def window(
    draw: DrawFn,
    sizes: Sequence[int | None],
    *,
    causal: bool = False,
    square: bool = False,
    dilation: bool = True,
) -> dict[str, Any]:
    """Kernel size, strides, dilation and padding that give at least one element.

    Args:
        causal: whether the layer takes causal padding.
        square: strides are the same along all sizes.
        dilation: whether the layer takes dilation.
    """
    padding = draw(st.sampled_from(("valid", "same", "causal") if causal else ("valid", "same")))
    kind = draw(
        st.sampled_from(("plain", "strides", "dilation") if dilation else ("plain", "strides"))
    )
    rate = 2 if kind == "dilation" else 1
    most = [
        3 if padding != "valid" or size is None else min(3, (size - 1) // rate + 1)
        for size in sizes
    ]
    kernel = [draw(st.integers(1, min(most)))] * len(sizes)
    if len(sizes) > 1 and rarely(draw, 3):
        kernel = [draw(st.integers(1, largest)) for largest in most]
    strides = [1 for _ in sizes]
    if kind == "strides":
        strides = [2 for _ in sizes] if square else [draw(st.integers(1, 2)) for _ in sizes]
    result = {"kernel_size": tuple(kernel), "strides": tuple(strides), "padding": padding}
    return result | {"dilation_rate": rate} if dilation else result


def options(draw: DrawFn) -> dict[str, Any]:
    """What every linear layer takes."""
    return {
        "use_bias": draw(st.booleans()),
        "activation": inner(draw),
        "trainable": not rarely(draw),
    }


def inner(draw: DrawFn) -> str | None:
    """The activation inside a linear layer: mostly none, or the rules have nothing to do."""
    kinds = (None, None, None, None, "linear", "relu", "tanh", "silu", "gelu")
    return draw(st.sampled_from(kinds))
