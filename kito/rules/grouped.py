"""Grouped convolution -> depthwise convolution, or a few convolutions of wider groups.

The channels of a grouped convolution fall into groups that don't see each other. The kernel is
(*window, input channels of a group, filters), and the filters of a group are neighbours.

With one input channel a group it is a depthwise convolution: of the filters, `m` belong to each
input channel, in its order, which is how (*window, channels, m) is laid out.

A kernel of several groups is the block-diagonal kernel of one group: what lies off the diagonal is
zero. So groups can be put together, at the price of multiplying by zeros.

Keras runs grouped convolutions on TensorFlow's CPU through XLA, as TensorFlow itself has none
there; depthwise and plain convolutions have kernels of their own.
"""

from dataclasses import replace

import keras
import numpy as np
from keras.layers import (
    Concatenate,
    Conv1D,
    Conv2D,
    Conv3D,
    DepthwiseConv1D,
    DepthwiseConv2D,
)
from numpy.typing import NDArray

from kito.definition import Call, Decline, Layer, Node, chain, rule, where
from kito.operations import SplitOperation
from kito.rules.batchnorm import channel_axis, check_bias
from kito.rules.linear import ELEMENTWISE

DEPTHWISE: dict[type, type[keras.Layer]] = {Conv1D: DepthwiseConv1D, Conv2D: DepthwiseConv2D}
# How wide a group gets. Measured: narrower ones leave the processor idle, in wider ones the zeros
# cost more than they save.
CHANNELS = 16


def _is_grouped(conv: Node) -> bool:
    return bool(conv.groups > 1)


def _obstacle(conv: Node) -> str | None:
    """What keeps a grouped convolution from being depthwise."""
    inputs = conv.kernel.shape[-2]
    if inputs > 1:
        return f"{conv.name} has {inputs} input channels in each of its {conv.groups} groups"
    if len(set(conv.strides)) > 1:
        return f"{conv.name} has the strides {conv.strides}; depthwise ones must be equal"
    if conv.padding == "causal":
        return f"{conv.name} is causal, which a depthwise convolution can't be"
    return None


@rule(chain(conv=where((Conv1D, Conv2D), _is_grouped)))
def grouped_depthwise(conv: Node) -> Layer:
    """Make a convolution with one input channel a group depthwise."""
    if obstacle := _obstacle(conv):
        raise Decline(obstacle)
    if conv.use_bias:  # which Keras adds along the wrong axis to one of the two, in some versions
        check_bias(conv, channel_axis(conv))
    *window, _, filters = conv.kernel.shape
    multiplier = filters // conv.groups
    weights = {"kernel": conv.kernel.reshape(*window, conv.groups, multiplier)}
    if conv.use_bias:
        weights["bias"] = conv.bias
    same = ("name", "dtype", "strides", "padding", "data_format", "dilation_rate", "kernel_size")
    return Layer.new(
        DEPTHWISE[conv.layer.cls],
        weights,
        **{entry: conv.layer.config[entry] for entry in same},
        depth_multiplier=multiplier,
        activation=conv.activation,
        use_bias=conv.use_bias,
    )


@rule(
    chain(conv=where((Conv1D, Conv2D, Conv3D), _is_grouped)),
    default=("tensorflow", "jax", "onnx"),
    late=True,  # what follows the convolution goes into one layer more easily than into many
)
def grouped_blocks(conv: Node) -> Call:
    """Run a convolution of many narrow groups as a few plain convolutions."""
    if conv.layer.cls in DEPTHWISE and not _obstacle(conv):
        raise Decline(f"{conv.name} can be depthwise")
    if conv.data_format == "channels_first":  # of which Keras compiles only what has groups
        raise Decline(
            f"{conv.name} is channels_first, and TensorFlow may not run it without groups"
        )
    together = _groups_together(conv.groups, conv.kernel.shape[-2])
    axis = channel_axis(conv)
    blocks = conv.groups // together
    if blocks > 1 and conv.activation not in ELEMENTWISE:
        raise Decline(
            f"{conv.name} applies its activation ({conv.activation}) to all filters together"
        )
    kernels = np.split(conv.kernel, blocks, axis=-1)
    biases = np.split(conv.bias, blocks) if conv.use_bias else [None] * blocks
    parts = []
    split = Layer.of(SplitOperation(blocks, axis=axis, name=f"{conv.name}_split"))(conv.input)
    for index, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        part = conv.evolve(
            groups=1,
            filters=kernel.shape[-1],
            kernel=block_diagonal(kernel, together),
            **({} if bias is None else {"bias": bias}),
        )
        part = replace(part, name=f"{conv.name}_{index}")
        parts.append(part(split[index]) if blocks > 1 else part(conv.input))
    if blocks == 1:
        return parts[0]
    concat = Layer.new(Concatenate, name=conv.name, dtype=conv.layer.config["dtype"], axis=axis)
    return concat(parts)


def _groups_together(groups: int, inputs: int) -> int:
    """How many groups of so many input channels become one."""
    fitting = [n for n in range(1, groups + 1) if groups % n == 0 and n * inputs <= CHANNELS]
    return max(fitting, default=1)


def block_diagonal(kernel: NDArray[np.floating], groups: int) -> NDArray[np.floating]:
    """A kernel (*window, inputs, filters) of several groups as the kernel of one group.

    Returns:
        (*window, groups * inputs, filters)
    """
    *window, inputs, filters = kernel.shape
    wide = np.zeros((*window, groups, inputs, groups, filters // groups), kernel.dtype)
    for group, part in enumerate(np.split(kernel, groups, axis=-1)):
        wide[..., group, :, group, :] = part
    return wide.reshape(*window, groups * inputs, filters)
