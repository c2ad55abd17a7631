"""Transposed convolution -> BatchNormalization: one transposed convolution.

A transposed convolution is linear in its kernel too, but the kernel is (*window, filters, input
channels): the filter is the last axis but one.

    scale * (convT(x, kernel) + bias) + shift
        = convT(x, kernel * scale[:, None]) + (bias * scale + shift)
"""

from keras.layers import BatchNormalization, Conv1DTranspose, Conv2DTranspose, Conv3DTranspose

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import Float64, channel_axis, foldable, scaled, shifted


def scaled_and_shifted(conv: Node, scale: Float64, shift: Float64) -> Layer:
    """The transposed convolution that computes `scale * y + shift` of its output `y`."""
    return conv.evolve(kernel=scaled(conv.kernel, scale[:, None]), **shifted(conv, scale, shift))


@rule(chain(conv=(Conv1DTranspose, Conv2DTranspose, Conv3DTranspose), bn=BatchNormalization))
def conv_transpose_batchnorm(conv: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the transposed convolution before it."""
    return scaled_and_shifted(conv, *foldable(bn, conv, channel_axis(conv)))
