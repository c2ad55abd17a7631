"""Separable convolution -> BatchNormalization: one separable convolution.

A separable convolution is a depthwise one and then a pointwise one with the bias; the last axis of
the pointwise kernel is the filter:

    scale * (pointwise(depthwise(x)) + bias) + shift
        = (pointwise * scale)(depthwise(x)) + (bias * scale + shift)
"""

from keras.layers import BatchNormalization, SeparableConv1D, SeparableConv2D

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import bias_of, channel_axis, foldable, scaled


@rule(chain(conv=(SeparableConv1D, SeparableConv2D), bn=BatchNormalization))
def separable_conv_batchnorm(conv: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the separable convolution before it."""
    scale, shift = foldable(bn, conv, channel_axis(conv))
    return conv.evolve(
        use_bias=True,
        pointwise_kernel=scaled(conv.pointwise_kernel, scale),
        bias=bias_of(conv) * scale + shift,
    )
