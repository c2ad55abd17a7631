"""Convolution whose window covers its whole input: a Dense layer.

Such a convolution has one position, at which it multiplies all numbers of a sample by its kernel.
That is what a Dense layer does, once these numbers lie on one axis:

    conv(x, kernel) = reshape(x, (1, ..., 1, -1)) @ reshape(kernel, (-1, filters))

A window of 1 on an input of one position, as in squeeze-and-excitation blocks (Hu et al. 2018,
https://arxiv.org/abs/1709.01507), needs no reshape.
"""

import math

from keras.layers import Conv1D, Conv2D, Conv3D, Dense, Reshape

from kito.definition import Decline, Layer, Node, chain, rule, where


def _has_one_position(conv: Node) -> bool:
    sizes = (
        conv.output.shape[2:] if conv.data_format == "channels_first" else conv.output.shape[1:-1]
    )
    return set(sizes) == {1}


@rule(chain(conv=where((Conv1D, Conv2D, Conv3D), _has_one_position)), default=False)
def squeeze_dense(conv: Node) -> list[Layer]:
    """Make a Dense layer of a convolution that has one position only."""
    if conv.data_format == "channels_first":
        raise Decline(f"{conv.name} is channels_first")
    if conv.groups > 1:
        raise Decline(f"{conv.name} has groups")
    # An output of one position has, without these, an input as large as the window.
    if {*conv.strides, *conv.dilation_rate} != {1}:
        raise Decline(f"{conv.name} has strides or a dilation: it may not read its whole input")
    pointwise = set(conv.kernel_size) == {1}
    if conv.padding != "valid" and not pointwise:
        raise Decline(f"{conv.name} reads padding")
    inputs = math.prod(conv.kernel.shape[:-1])
    weights = {"kernel": conv.kernel.reshape(inputs, conv.filters)}
    if conv.use_bias:
        weights["bias"] = conv.bias
    dtype = conv.layer.config["dtype"]
    dense = Layer.new(
        Dense,
        weights,
        name=conv.name,
        dtype=dtype,
        units=conv.filters,
        use_bias=conv.use_bias,
        activation=conv.activation,
    )
    if pointwise:
        return [dense]
    shape = (*(1 for _ in conv.kernel_size), inputs)
    return [Layer.new(Reshape, name=f"{conv.name}_row", dtype=dtype, target_shape=shape), dense]
