"""Linear layer -> LayerScale: one linear layer.

A LayerScale multiplies each channel by a weight (Touvron et al. 2021,
https://arxiv.org/abs/2103.17239), and a linear layer has one filter, or column, for each channel:

    gamma * (linear(x, kernel) + bias) = linear(x, kernel * gamma) + bias * gamma
"""

import numpy as np
from keras.layers import (
    Conv1D,
    Conv2D,
    Conv3D,
    Dense,
    DepthwiseConv1D,
    DepthwiseConv2D,
    EinsumDense,
)

from kito.definition import Decline, Layer, Node, chain, rule
from kito.operations import LayerScale
from kito.rules.batchnorm import check_activation, check_range, scaled
from kito.rules.einsum_dense import scaled_and_shifted

DEPTHWISE = (DepthwiseConv1D, DepthwiseConv2D)
LINEAR = (Conv1D, Conv2D, Conv3D, Dense, EinsumDense, *DEPTHWISE)


@rule(chain(linear=LINEAR, scale=LayerScale))
def layer_scale(linear: Node, scale: Node) -> Layer:
    """Fold a LayerScale, as ConvNeXt has it, into the linear layer before it."""
    check_activation(scale, linear)
    if scale.output.dtype != linear.output.dtype:
        raise Decline(f"{scale.name} turns {linear.output.dtype} into {scale.output.dtype}")
    if linear.layer.config.get("data_format") == "channels_first":
        raise Decline(
            f"{scale.name} scales the last axis, which is none of {linear.name}'s filters"
        )
    [gamma] = (weight.astype(np.float64) for weight in scale.weights.values())
    if len(gamma) != linear.output.shape[-1]:
        raise Decline(
            f"{scale.name} has {len(gamma)} weights for {linear.output.shape[-1]} channels"
        )
    if not np.isfinite(gamma).all():
        raise Decline(f"a weight of {scale.name} is not finite")
    check_range(scale, linear, gamma)
    if linear.layer.cls is EinsumDense:
        return scaled_and_shifted(linear, -1, gamma)
    channels = linear.kernel.shape[-2:] if linear.layer.cls in DEPTHWISE else (-1,)
    weights = {"kernel": scaled(linear.kernel, gamma.reshape(channels))}
    if linear.use_bias:
        weights["bias"] = scaled(linear.bias, gamma)
    return linear.evolve(**weights)
