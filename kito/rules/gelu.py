"""gelu(x) -> x * (1 + erf(x / sqrt(2))) / 2, its definition, in operations that every runtime has.

TensorFlow computes gelu with the complementary error function, which ONNX does not have: an export
with it can't be loaded (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415).
"""

from __future__ import annotations

import math

from keras import activations
from keras.layers import Multiply, Rescaling

from kito.definition import Call, Layer, Node, chain, rule, where
from kito.operations import ErfOperation
from kito.rules.activation import function_of
from kito.rules.silu import LAYERS, without_activation


def _is_gelu(layer: Node) -> bool:
    return function_of(layer) is activations.gelu


@rule(chain(layer=where(LAYERS, _is_gelu)), default=("onnx",), opens=False)
def gelu(layer: Node) -> Call:
    """Write gelu with the error function."""
    x = without_activation(layer)
    name, dtype = layer.name, layer.layer.config["dtype"]
    inner = Layer.new(Rescaling, name=f"{name}_inner", dtype=dtype, scale=1 / math.sqrt(2))(x)
    erf = Layer.of(ErfOperation(name=f"{name}_erf"))(inner)
    factor = Layer.new(Rescaling, name=f"{name}_factor", dtype=dtype, scale=0.5, offset=0.5)(erf)
    return Layer.new(Multiply, name=name, dtype=dtype)([x, factor])
