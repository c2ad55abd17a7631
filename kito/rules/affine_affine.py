"""Affine map per channel -> affine map per channel: one affine map.

    b.scale * (a.scale * x + a.shift) + b.shift
        = (a.scale * b.scale) * x + (a.shift * b.scale + b.shift)

The result is a Rescaling where all channels are treated alike, and a BatchNormalization with
gamma = scale, beta = shift, mean 0, variance 1 and epsilon 0 otherwise.

Each rewrite leaves one map less, so the rule comes to an end.
"""

import keras
import numpy as np
from keras.layers import BatchNormalization, Rescaling

from kito.definition import Call, Decline, Layer, Node, chain, rule, where
from kito.rules.affine import (
    AFFINE,
    Affine,
    Sourced,
    affine_of,
    as_cast,
    check_mask,
    check_normal,
    check_shift,
    reads_one_tensor,
)
from kito.rules.batchnorm import check_range


@rule(
    Sourced(chain(first=where(AFFINE, reads_one_tensor), second=AFFINE)),
    # Measured slower on PyTorch, which scales a few channels faster than it normalizes them.
    default=("tensorflow", "jax", "onnx", "openvino", "litert"),
    opens=False,
)
def affine_affine(source: Node, first: Node, second: Node) -> Call:
    """Merge two affine maps in a row, such as a Rescaling and a Normalization, into one."""
    given = source.outputs[first.input.index]
    check_mask(first, given)
    check_mask(second, first.output)
    # What takes the place of a layer casts what it reads as that did.
    both = affine_of(first, as_cast(first, given)).then(affine_of(second, first.output))
    check_normal(both.name, (both.scale, both.shift), second.output.dtype)
    check_shift(both, second.output.dtype)
    check_range(second, first, np.atleast_1d(both.scale))
    layer = _layer(both, second.name, second.output.dtype, _policy(first, second))
    return layer(first.input)


def _layer(affine: Affine, name: str, dtype: str, policy: object) -> Layer:
    if affine.axis is None:
        numbers = (float(affine.scale), float(affine.shift))
        if dtype == "float64" and any(float(np.float32(number)) != number for number in numbers):
            raise Decline("Keras makes float32 of the numbers of a Rescaling, also in float64")
        return Layer.new(Rescaling, name=name, dtype=policy, scale=numbers[0], offset=numbers[1])
    weights = {
        "gamma": affine.scale,
        "beta": affine.shift,
        "moving_mean": np.zeros_like(affine.scale),
        "moving_variance": np.ones_like(affine.scale),
    }
    return Layer.new(
        BatchNormalization, weights, name=name, dtype=policy, axis=affine.axis, epsilon=0.0
    )


def _policy(first: Node, second: Node) -> object:
    for node in (first, second):
        if issubclass(node.layer.cls, keras.Layer):
            return node.layer.config["dtype"]
    dtype = second.output.dtype
    # So that the numbers are not rounded to 16 bits too.
    return f"mixed_{dtype}" if dtype in ("float16", "bfloat16") else dtype
