"""Separable convolution -> BatchNormalization: one separable convolution.

A separable convolution is a depthwise one and then a pointwise one with the bias; the last axis of
the pointwise kernel is the filter:

    scale * (pointwise(depthwise(x)) + bias) + shift
        = (pointwise * scale)(depthwise(x)) + (bias * scale + shift)
"""

from keras.layers import BatchNormalization, SeparableConv1D, SeparableConv2D

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import Float64, channel_axis, foldable, scaled, shifted


def scaled_and_shifted(conv: Node, scale: Float64, shift: Float64) -> Layer:
    """The separable convolution that computes `scale * y + shift` of its output `y`."""
    return conv.evolve(
        pointwise_kernel=scaled(conv.pointwise_kernel, scale), **shifted(conv, scale, shift)
    )


@rule(chain(conv=(SeparableConv1D, SeparableConv2D), bn=BatchNormalization))
def separable_conv_batchnorm(conv: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the separable convolution before it."""
    return scaled_and_shifted(conv, *foldable(bn, conv, channel_axis(conv)))
