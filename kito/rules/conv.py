"""Convolution -> BatchNormalization: one convolution.

A convolution is linear in its kernel, filter by filter, whatever its stride, dilation, padding and
number of groups; the kernel's last axis is the filter:

    scale * (conv(x, kernel) + bias) + shift = conv(x, kernel * scale) + (bias * scale + shift)
"""

from keras.layers import BatchNormalization, Conv1D, Conv2D, Conv3D

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import bias_of, channel_axis, foldable, scaled


@rule(chain(conv=(Conv1D, Conv2D, Conv3D), bn=BatchNormalization))
def conv_batchnorm(conv: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the convolution before it."""
    scale, shift = foldable(bn, conv, channel_axis(conv))
    return conv.evolve(
        use_bias=True, kernel=scaled(conv.kernel, scale), bias=bias_of(conv) * scale + shift
    )
