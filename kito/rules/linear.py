"""The layers that are linear in a kernel, as the rules about what follows them see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
from keras import layers

from kito.definition import Decline, Layer, Node, Ref
from kito.rules import conv, conv_transpose, dense, depthwise, separable
from kito.rules.batchnorm import (
    Float64,
    channel_axis,
    check_activation,
    check_bias,
    check_range,
)

# The function of each that takes in what follows: scale * y + shift of its output y.
SCALED_AND_SHIFTED: Mapping[type[keras.Operation], Callable[[Node, Float64, Float64], Layer]] = {
    layers.Conv1D: conv.scaled_and_shifted,
    layers.Conv2D: conv.scaled_and_shifted,
    layers.Conv3D: conv.scaled_and_shifted,
    layers.Conv1DTranspose: conv_transpose.scaled_and_shifted,
    layers.Conv2DTranspose: conv_transpose.scaled_and_shifted,
    layers.Conv3DTranspose: conv_transpose.scaled_and_shifted,
    layers.Dense: dense.scaled_and_shifted,
    layers.DepthwiseConv1D: depthwise.scaled_and_shifted,
    layers.DepthwiseConv2D: depthwise.scaled_and_shifted,
    layers.SeparableConv1D: separable.scaled_and_shifted,
    layers.SeparableConv2D: separable.scaled_and_shifted,
}
LINEAR = tuple(SCALED_AND_SHIFTED)
# The activations that look at one number at a time. Others, such as softmax, look at all channels.
ELEMENTWISE = (
    "celu",
    "elu",
    "exponential",
    "gelu",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "tanh",
)


def linear_axis(linear: Node) -> int:
    """The axis of the channels, of the input as of the output, counted from the front."""
    return channel_axis(linear) % len(linear.output.shape)


def check_tensors(merge: Node, verb: str) -> None:
    """Whether a call merges tensors only.

    Args:
        verb: what it does to them.

    Raises:
        Decline: it merges a constant too.
    """
    given = [*merge.args, *merge.kwargs.values()]
    lists = [each for each in given if isinstance(each, list | tuple)]
    if not all(isinstance(each, Ref) for each in (lists[0] if lists else given)):
        raise Decline(f"{merge.name} {verb} a constant")


def folded(linear: Node, affine: Node, scale: Float64, shift: Float64) -> Layer:
    """The linear layer that computes `scale * y + shift` of its output `y`.

    Args:
        affine: the call that computes this now.
        scale, shift: vectors (channels,).

    Raises:
        Decline: the layer has an activation, or can't have such a bias or kernel.
    """
    check_activation(affine, linear)
    if linear.use_bias or shift.any():
        check_bias(linear, channel_axis(linear))
    check_range(affine, linear, scale)
    return SCALED_AND_SHIFTED[linear.layer.cls](linear, scale, shift)
