"""Convolution -> BatchNormalization: one convolution.

A convolution is linear in its kernel, filter by filter, whatever its stride, dilation, padding and
number of groups; the kernel's last axis is the filter:

    scale * (conv(x, kernel) + bias) + shift = conv(x, kernel * scale) + (bias * scale + shift)
"""

from keras.layers import BatchNormalization, Conv1D, Conv2D, Conv3D

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import Float64, channel_axis, foldable, scaled, shifted


def scaled_and_shifted(conv: Node, scale: Float64, shift: Float64) -> Layer:
    """The convolution that computes `scale * y + shift` of its output `y`."""
    return conv.evolve(kernel=scaled(conv.kernel, scale), **shifted(conv, scale, shift))


@rule(chain(conv=(Conv1D, Conv2D, Conv3D), bn=BatchNormalization))
def conv_batchnorm(conv: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the convolution before it."""
    return scaled_and_shifted(conv, *foldable(bn, conv, channel_axis(conv)))
