"""Depthwise convolution -> BatchNormalization: one depthwise convolution.

The kernel is (*window, channels, depth_multiplier), and output channel c * depth_multiplier + m is
made by kernel[..., c, m]. So the scale of the output channels, read in rows of depth_multiplier,
has the shape of the kernel's last two axes.
"""

from keras.layers import BatchNormalization, DepthwiseConv1D, DepthwiseConv2D

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import bias_of, channel_axis, foldable, scaled


@rule(chain(conv=(DepthwiseConv1D, DepthwiseConv2D), bn=BatchNormalization))
def depthwise_conv_batchnorm(conv: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the depthwise convolution before it."""
    scale, shift = foldable(bn, conv, channel_axis(conv))
    return conv.evolve(
        use_bias=True,
        kernel=scaled(conv.kernel, scale.reshape(conv.kernel.shape[-2:])),
        bias=bias_of(conv) * scale + shift,
    )
