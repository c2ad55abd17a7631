"""Linear layers of one input: one wider layer.

The filters of a convolution, or the units of a Dense layer, don't know of each other. So layers
that read one tensor in the same way are one layer with the filters of all:

    [conv(x, kernel_1), conv(x, kernel_2)] = split(conv(x, concatenate([kernel_1, kernel_2])))

if the activation is applied to each number by itself. Where a Concatenate puts the tensors together
along the axis of the filters, there is nothing to split.
"""

from typing import Any

import numpy as np
from keras.layers import Concatenate, Conv1D, Conv2D, Conv3D, Dense

from kito.definition import Call, Decline, Layer, Node, Output, branches, readers, rule
from kito.operations import SplitOperation
from kito.rules.batchnorm import channel_axis, check_bias
from kito.rules.linear import ELEMENTWISE, check_tensors

GEOMETRY = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "activation")


LINEAR = (Conv1D, Conv2D, Conv3D, Dense)


@rule(branches(linear=LINEAR, merge=Concatenate, every=True), default=False)
def concatenated_siblings(linear: tuple[Node, ...], merge: Node) -> Call:
    """Merge linear layers of one input whose outputs are concatenated."""
    check_tensors(merge, "joins")
    first = linear[0]
    for other in linear[1:]:
        _check_siblings(first, other)
    axis = channel_axis(first)
    rank = len(merge.output.shape)
    if merge.axis % rank != axis % rank:
        raise Decline(
            f"{merge.name} puts tensors together along axis {merge.axis}, not the filters"
        )
    if merge.output.dtype != first.output.dtype:
        raise Decline(f"{merge.name} turns {first.output.dtype} into {merge.output.dtype}")
    return _merged(linear)(first.input)


@rule(readers(linear=LINEAR), default=False)
def parallel_siblings(linear: tuple[Node, ...]) -> list[Output]:
    """Merge linear layers of one input, such as queries, keys and values, and split the output."""
    first = linear[0]
    for other in linear[1:]:
        _check_siblings(first, other)
    *borders, _ = np.cumsum([each.kernel.shape[-1] for each in linear]).tolist()
    split = SplitOperation(borders, axis=channel_axis(first), name=f"{first.name}_split")
    parts = Layer.of(split)(_merged(linear)(first.input))
    return [parts[index] for index in range(len(linear))]


def _merged(linear: tuple[Node, ...]) -> Layer:
    first = linear[0]
    filters = sum(each.kernel.shape[-1] for each in linear)
    changes: dict[str, Any] = {
        "units" if first.layer.cls is Dense else "filters": filters,
        "kernel": np.concatenate([each.kernel for each in linear], axis=-1),
        "use_bias": any(each.use_bias for each in linear),
    }
    if changes["use_bias"]:
        for each in linear:
            check_bias(each, channel_axis(each))
        check_bias(first, channel_axis(first), filters)
        biases = [
            each.bias if each.use_bias else np.zeros(each.kernel.shape[-1]) for each in linear
        ]
        changes["bias"] = np.concatenate(biases)
    return first.evolve(**changes)


def _check_siblings(first: Node, other: Node) -> None:
    names = f"{first.name} and {other.name}"
    if other.layer is first.layer:
        raise Decline(f"{first.name} is called twice on one tensor")
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
