"""Linear layer -> linear layer, with nothing in between: one linear layer.

A layer that mixes the channels of each position and looks no farther is a matrix: a Dense layer, or
a convolution with a window and strides of 1. What comes before such a layer takes it in. With i, m
and o for the channels that go in, lie in the middle and come out:

    linear(x, kernel[..., i, m]) @ matrix[m, o] = linear(x, sum over m of kernel * matrix)

and a convolution after it takes it in, if it adds no padding to a bias:

    conv(x @ matrix[i, m], kernel[..., m, o]) = conv(x, sum over m of matrix * kernel)

One layer need not be faster: a matrix (512, 8) and a matrix (8, 512) have 8,192 entries, and their
product has 262,144. The measure is the number of multiplications.
"""

import math
from typing import Any

import numpy as np
from keras.layers import Conv1D, Conv2D, Conv3D, Dense, DepthwiseConv1D, DepthwiseConv2D

from kito.definition import Decline, Graph, Layer, Match, Node, Provided, chain, rule, where
from kito.rules.activation import is_linear
from kito.rules.batchnorm import FLOAT16_RANGE, Float64, bias_of, channel_axis, check_bias

LINEAR = (Conv1D, Conv2D, Conv3D, Dense)
DEPTHWISE = {DepthwiseConv1D: Conv1D, DepthwiseConv2D: Conv2D}


def _saves(_graph: Graph, match: Match) -> bool:
    """Whether two layers are one, and that takes fewer multiplications."""
    first, second = match.nodes
    if not _is_matrix(first) and not _is_matrix(second):
        return False
    one, two = (each.layer.shapes["kernel"] for each in (first, second))
    merged = math.prod(one[:-1]) * math.prod(two[:-2]) * two[-1]
    now = _positions(first) * math.prod(one) + _positions(second) * math.prod(two)
    return _positions(second) * merged < now


@rule(Provided(chain(first=where((*LINEAR, *DEPTHWISE), is_linear), second=LINEAR), _saves))
def linear_linear(first: Node, second: Node) -> Layer:
    """Merge two linear layers, if one takes fewer multiplications."""
    _check_tensors(first, second)
    after = _is_matrix(second)
    with np.errstate(invalid="ignore", over="ignore"):
        kernel, bias = _matrix_after(first, second) if after else _matrix_before(first, second)
    _check_numbers(first, second, kernel, bias)
    changes = {"kernel": kernel, "use_bias": first.use_bias or second.use_bias}
    if changes["use_bias"]:
        changes["bias"] = bias
    return _like_first(first, second, changes) if after else second.evolve(**changes)


def _check_tensors(first: Node, second: Node) -> None:
    if second.output.dtype != first.output.dtype:
        raise Decline(f"{second.name} turns {first.output.dtype} into {second.output.dtype}")
    if channel_axis(first) != channel_axis(second):
        raise Decline(f"{first.name} and {second.name} have their channels on different axes")
    for each in (first, second):
        if each.layer.config.get("groups", 1) > 1:
            raise Decline(f"{each.name} has groups, and a merged kernel would mix these")
        if each.use_bias:
            check_bias(each, channel_axis(each))


def _positions(layer: Node) -> int:
    """How often the kernel is applied to a sample; a size that is not known counts as 1."""
    sizes = list(layer.output.shape[1:])
    sizes.pop(0 if channel_axis(layer) == 1 else -1)
    return math.prod(size or 1 for size in sizes)


def _is_matrix(layer: Node) -> bool:
    if layer.layer.cls is Dense:
        return True
    return layer.layer.cls in LINEAR and {*layer.kernel_size, *layer.strides} == {1}


def _matrix_of(layer: Node) -> Float64:
    kernel: Float64 = layer.kernel.astype(np.float64)
    return kernel.reshape(kernel.shape[-2:])


def _matrix_after(first: Node, second: Node) -> tuple[Float64, Float64]:
    kernel, matrix = first.kernel.astype(np.float64), _matrix_of(second)
    bias = (bias_of(first) + np.zeros(len(matrix))) @ matrix + bias_of(second)
    if first.layer.cls in DEPTHWISE:
        channels, multiplier = kernel.shape[-2:]
        by_channel = matrix.reshape(channels, multiplier, -1)
        return np.einsum("...im,imo->...io", kernel, by_channel), bias
    return kernel @ matrix, bias


def _matrix_before(first: Node, second: Node) -> tuple[Float64, Float64]:
    kernel, matrix = second.kernel.astype(np.float64), _matrix_of(first)
    shift = bias_of(first) + np.zeros(matrix.shape[1])
    if shift.any() and second.padding != "valid":
        raise Decline(f"{second.name} pads with zeros, to which {first.name} adds no bias")
    bias = (shift @ kernel).reshape(-1, kernel.shape[-1]).sum(axis=0) + bias_of(second)
    return matrix @ kernel, bias


def _check_numbers(first: Node, second: Node, kernel: Float64, bias: Float64) -> None:
    names = f"{first.name} and {second.name}"
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise Decline(f"the product of the weights of {names} is not finite")
    if first.output.dtype != "float16":
        return
    largest = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)
    largest = largest[largest != 0]
    precise = (largest <= FLOAT16_RANGE) & (largest >= 1 / FLOAT16_RANGE)
    if not precise.all() or np.abs(bias).max() > np.finfo(np.float16).max:
        raise Decline(f"the product of the weights of {names} could leave the range of float16")


def _like_first(first: Node, second: Node, changes: dict[str, Any]) -> Layer:
    """The first layer, with as many outputs and the activation of the second one."""
    size = "units" if first.layer.cls is Dense else "filters"
    changes |= {"activation": second.activation, size: changes["kernel"].shape[-1]}
    if first.layer.cls not in DEPTHWISE:
        return first.evolve(**changes)
    weights = {str(name): changes.pop(name) for name in ("kernel", "bias") if name in changes}
    geometry = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "dtype")
    changes |= {name: first.layer.config[name] for name in geometry}
    return Layer.new(DEPTHWISE[first.layer.cls], weights, name=second.name, **changes)
