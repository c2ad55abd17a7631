"""silu(x), also known as swish -> x * sigmoid(x), its definition.

TensorFlow has silu as a function with a gradient of its own, which keeps it from being fused with
what stands around it (Ramachandran et al. 2017, https://arxiv.org/abs/1710.05941).
"""

from __future__ import annotations

from keras import activations
from keras.layers import (
    Activation,
    Conv1D,
    Conv2D,
    Conv3D,
    Dense,
    DepthwiseConv1D,
    DepthwiseConv2D,
    Multiply,
)

from kito.definition import Call, Layer, Node, Ref, chain, rule, where
from kito.rules.activation import function_of

LAYERS = (Activation, Conv1D, Conv2D, Conv3D, Dense, DepthwiseConv1D, DepthwiseConv2D)


def _is_silu(layer: Node) -> bool:
    return function_of(layer) is activations.silu


@rule(chain(layer=where(LAYERS, _is_silu)), default=("tensorflow", "openvino"), opens=False)
def silu(layer: Node) -> Call:
    """Multiply by the sigmoid instead of applying silu."""
    x, name, dtype = without_activation(layer), f"{layer.name}_sigmoid", layer.layer.config["dtype"]
    # A layer, and no operation: it casts what it reads, as the activation did, and Keras loads it
    # from a `.h5` file too.
    sigmoid = Layer.new(Activation, activation="sigmoid", name=name, dtype=dtype)
    return Layer.new(Multiply, name=layer.name, dtype=dtype)([x, sigmoid(x)])


def without_activation(layer: Node) -> Call | Ref:
    """What a layer applies its activation to."""
    if layer.layer.cls is Activation:
        return layer.input
    return layer.evolve(activation="linear")(layer.input)
