"""Linear layers of one input -> Concatenate: one wider layer.

The filters of a convolution, or the units of a Dense layer, don't know of each other. So layers
that read one tensor in the same way are one layer with the filters of all:

    concatenate([conv(x, kernel_1), conv(x, kernel_2)]) = conv(x, concatenate([kernel_1, kernel_2]))

if the tensors are put together along the axis of the filters, and the activation is applied to each
number by itself.
"""

from typing import Any

import numpy as np
from keras.layers import Concatenate, Conv1D, Conv2D, Conv3D, Dense

from kito.definition import Call, Decline, Node, branches, rule
from kito.rules.batchnorm import check_bias

GEOMETRY = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "activation")
ELEMENTWISE = (
    "elu",
    "exponential",
    "gelu",
    "hard_sigmoid",
    "hard_silu",
    "leaky_relu",
    "linear",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "tanh",
)


@rule(
    branches(linear=(Conv1D, Conv2D, Conv3D, Dense), merge=Concatenate, every=True),
    default=False,
)
def concatenated_siblings(linear: tuple[Node, ...], merge: Node) -> Call:
    """Merge linear layers of one input whose outputs are concatenated."""
    first = linear[0]
    for other in linear[1:]:
        _check_siblings(first, other)
    axis = 1 if first.layer.config.get("data_format") == "channels_first" else -1
    rank = len(merge.output.shape)
    if merge.axis % rank != axis % rank:
        raise Decline(
            f"{merge.name} puts tensors together along axis {merge.axis}, not the filters"
        )
    if merge.output.dtype != first.output.dtype:
        raise Decline(f"{merge.name} turns {first.output.dtype} into {merge.output.dtype}")
    size = "units" if first.layer.cls is Dense else "filters"
    changes: dict[str, Any] = {
        size: merge.output.shape[axis],
        "kernel": np.concatenate([each.kernel for each in linear], axis=-1),
        "use_bias": any(each.use_bias for each in linear),
    }
    if changes["use_bias"]:
        for each in linear:
            check_bias(each, axis)
        check_bias(merge, axis)
        biases = [
            each.bias if each.use_bias else np.zeros(each.kernel.shape[-1]) for each in linear
        ]
        changes["bias"] = np.concatenate(biases)
    return first.evolve(**changes)(first.input)


def _check_siblings(first: Node, other: Node) -> None:
    names = f"{first.name} and {other.name}"
    if other.input != first.input:
        raise Decline(f"{names} read different tensors")
    if other.layer.cls is not first.layer.cls:
        raise Decline(f"{names} are layers of different classes")
    for entry in (*GEOMETRY, "dtype"):
        if other.layer.config.get(entry) != first.layer.config.get(entry):
            raise Decline(f"{names} differ in their {entry}")
    for each in (first, other):
        if each.layer.config.get("groups", 1) > 1:
            raise Decline(f"{each.name} has groups")
        if each.activation not in ELEMENTWISE:
            raise Decline(f"the activation of {each.name}, {each.activation}, is not elementwise")
