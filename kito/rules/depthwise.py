"""Depthwise convolution -> BatchNormalization: one depthwise convolution.

The kernel is (*window, channels, depth_multiplier), and output channel c * depth_multiplier + m is
made by kernel[..., c, m]. So the scale of the output channels, read in rows of depth_multiplier,
has the shape of the kernel's last two axes.
"""

from keras.layers import BatchNormalization, DepthwiseConv1D, DepthwiseConv2D

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import Float64, channel_axis, foldable, scaled, shifted


def scaled_and_shifted(conv: Node, scale: Float64, shift: Float64) -> Layer:
    """The depthwise convolution that computes `scale * y + shift` of its output `y`."""
    return conv.evolve(
        kernel=scaled(conv.kernel, scale.reshape(conv.kernel.shape[-2:])),
        **shifted(conv, scale, shift),
    )


@rule(chain(conv=(DepthwiseConv1D, DepthwiseConv2D), bn=BatchNormalization))
def depthwise_conv_batchnorm(conv: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the depthwise convolution before it."""
    return scaled_and_shifted(conv, *foldable(bn, conv, channel_axis(conv)))
