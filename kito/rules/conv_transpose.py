"""Transposed convolution -> BatchNormalization: one transposed convolution.

A transposed convolution is linear in its kernel too, but the kernel is (*window, filters, input
channels): the filter is the last axis but one.

    scale * (convT(x, kernel) + bias) + shift
        = convT(x, kernel * scale[:, None]) + (bias * scale + shift)
"""

from keras.layers import BatchNormalization, Conv1DTranspose, Conv2DTranspose, Conv3DTranspose

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import bias_of, channel_axis, foldable, scaled


@rule(chain(conv=(Conv1DTranspose, Conv2DTranspose, Conv3DTranspose), bn=BatchNormalization))
def conv_transpose_batchnorm(conv: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the transposed convolution before it."""
    scale, shift = foldable(bn, conv, channel_axis(conv))
    return conv.evolve(
        use_bias=True,
        kernel=scaled(conv.kernel, scale[:, None]),
        bias=bias_of(conv) * scale + shift,
    )
