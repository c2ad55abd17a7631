"""Separable convolution: a depthwise convolution and a pointwise one.

A separable convolution is these two by definition; the bias and the activation belong to the
pointwise one:

    separable(x) = activation(pointwise(depthwise(x)) + bias)

Nothing is gained by that alone. Another rule may fold something into the depthwise half, and some
runtimes have faster code for the halves than for the whole.
"""

from keras.layers import (
    Conv1D,
    Conv2D,
    DepthwiseConv1D,
    DepthwiseConv2D,
    SeparableConv1D,
    SeparableConv2D,
)

from kito.definition import Decline, Layer, Node, chain, rule

HALVES = {
    SeparableConv1D: (DepthwiseConv1D, Conv1D),
    SeparableConv2D: (DepthwiseConv2D, Conv2D),
}
GEOMETRY = ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")


@rule(chain(conv=tuple(HALVES)), default=False, opens=False)
def separable_split(conv: Node) -> list[Layer]:
    """Make two convolutions of a separable one."""
    if conv.data_format == "channels_first" and conv.output.dtype != "float32":
        # On the CPU TensorFlow has plain convolutions of channels_first in float32 only.
        raise Decline(f"{conv.name} is channels_first and computes in {conv.output.dtype}")
    depthwise, pointwise = HALVES[conv.layer.cls]
    common = {"dtype": conv.layer.config["dtype"], "data_format": conv.data_format}
    first = Layer.new(
        depthwise,
        {"kernel": conv.depthwise_kernel},
        name=f"{conv.name}_depthwise",
        use_bias=False,
        **{name: conv.layer.config[name] for name in GEOMETRY},
        **common,
    )
    weights = {"kernel": conv.pointwise_kernel}
    if conv.use_bias:
        weights["bias"] = conv.bias
    second = Layer.new(
        pointwise,
        weights,
        name=conv.name,
        filters=conv.filters,
        kernel_size=1,
        use_bias=conv.use_bias,
        activation=conv.activation,
        **common,
    )
    return [first, second]
