"""Convolutions of one tensor, added -> one convolution.

A convolution is linear in its kernel, so convolutions of one tensor with the same stride add up to
the convolution with the sum of the kernels and biases. A smaller kernel is a larger one with zeros
around it, where its window stood in the larger one's window:

    offset = what the larger one pads in front - what the smaller one pads in front

The tensor itself, added, is a convolution with a 1x1 kernel that is 1 from each channel to itself;
a BatchNormalization of it is one with the scale instead of the 1, and the shift for a bias (Ding et
al. 2021, https://arxiv.org/abs/2101.03697).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from keras.layers import (
    Add,
    BatchNormalization,
    Conv1D,
    Conv2D,
    Conv3D,
    DepthwiseConv1D,
    DepthwiseConv2D,
)

from kito.definition import Call, Decline, Graph, Match, Node, Ref, rule
from kito.operations import AddOperation
from kito.rules.activation import is_linear
from kito.rules.batchnorm import Float64, bias_of, channel_axis, check_bias, foldable
from kito.rules.padding import same_padding

CONVOLUTIONS = (Conv1D, Conv2D, Conv3D, DepthwiseConv1D, DepthwiseConv2D)
# What convolutions must have in common.
SAME = (
    "strides",
    "dilation_rate",
    "groups",
    "data_format",
    "padding",
    "filters",
    "depth_multiplier",
)
# What makes no difference to a window of one.
BETWEEN_TAPS = ("dilation_rate", "padding")


@dataclass(frozen=True)
class SharedInput:
    """An addition, and the convolutions and normalizations in front of it that read one tensor."""

    names = ("source", "branches", "add")
    anchors = (Add, AddOperation)

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The tensor that most branches read, if one of them is a convolution."""
        if node.layer.cls not in self.anchors:
            return None
        branches = [
            maker
            for maker in (graph.producer(ref) for ref in node.refs)
            if maker.layer.cls is BatchNormalization
            or (maker.layer.cls in CONVOLUTIONS and is_linear(maker))
        ]
        read = Counter(branch.input for branch in branches)
        read.update(ref for ref in node.refs if ref in read)
        found = [
            ref
            for ref, count in read.items()
            if count > 1 and any(b.input == ref and b.layer.cls in CONVOLUTIONS for b in branches)
        ]
        if not found:
            return None
        shared = max(found, key=read.__getitem__)
        return Match(
            {
                "source": graph.producer(shared),
                "branches": tuple(branch for branch in branches if branch.input == shared),
                "add": node,
            },
            context=frozenset({"source"}),
        )

    def __str__(self) -> str:
        return "[Conv | BatchNormalization | identity, ...] -> Add"


@rule(SharedInput())
def parallel_branches(source: Node, branches: tuple[Node, ...], add: Node) -> Call:
    """Add up the convolutions of one tensor in one convolution."""
    shared = branches[0].input
    convs = [branch for branch in branches if branch.layer.cls in CONVOLUTIONS]
    base = max(convs, key=lambda conv: conv.kernel_size)
    axis = channel_axis(base)
    identities = add.refs.count(shared)
    if add.output.dtype != base.output.dtype:
        raise Decline(f"{add.name} turns {base.output.dtype} into {add.output.dtype}")
    size = source.outputs[shared.index].shape
    spatial = size[1:-1] if axis == -1 else size[2:]
    kernel: Float64 = np.zeros(base.kernel.shape)
    bias: Float64 = np.zeros(base.output.shape[axis] or 0)
    for conv in convs:
        _check_same(base, conv)
        kernel[_place(base, conv.kernel_size, conv.name, spatial)] += conv.kernel
        bias = bias + bias_of(conv)
    for bn in branches:
        if bn.layer.cls is BatchNormalization:
            if bn.output.dtype != base.output.dtype:
                raise Decline(f"{bn.name} gives {bn.output.dtype}, {base.name} {base.output.dtype}")
            scale, shift = foldable(bn, replace(bn, layer=base.layer), axis)
            kernel[_center(base, bn.name, spatial)] += _diagonal(base, scale)
            bias = bias + shift
    if identities:
        one = np.full(bias.shape, float(identities))
        kernel[_center(base, "the identity", spatial)] += _diagonal(base, one)
    use_bias = len(convs) < len(branches) or any(conv.use_bias for conv in convs)
    if use_bias and not base.use_bias:
        check_bias(base, axis)
    weights = {"kernel": kernel, "bias": bias} if use_bias else {"kernel": kernel}
    merged = base.evolve(use_bias=use_bias, **weights)(shared)
    others = [ref for ref in add.refs if ref != shared and ref not in _outputs(branches)]
    return add.layer([merged, *others]) if others else merged


def _outputs(branches: tuple[Node, ...]) -> set[Ref]:
    return {Ref(branch.id) for branch in branches}


def _check_same(base: Node, conv: Node) -> None:
    if conv.layer.cls is not base.layer.cls:
        raise Decline(f"{conv.name} is a {conv.layer.cls.__name__}, {base.name} is not")
    for entry in SAME:
        one, other = (node.layer.config.get(entry) for node in (base, conv))
        if one != other and not (entry in BETWEEN_TAPS and {*conv.kernel_size} == {1}):
            raise Decline(f"{conv.name} has the {entry} {other}, {base.name} has {one}")
    if conv.output.dtype != base.output.dtype:
        raise Decline(f"{conv.name} gives {conv.output.dtype}, {base.name} {base.output.dtype}")


def _place(
    base: Node, window: tuple[int, ...], name: str, sizes: tuple[int | None, ...]
) -> tuple[slice, ...]:
    """Where in the kernel of `base` the window of a smaller kernel lies.

    Raises:
        Decline: it is not wholly inside.
    """
    if base.padding != "same" and tuple(window) != tuple(base.kernel_size):
        raise Decline(f"{name} and {base.name} have windows of other sizes, and do not pad")
    place = []
    for size, wide, narrow, stride, dilation in zip(
        sizes, base.kernel_size, window, base.strides, base.dilation_rate, strict=True
    ):
        one, other = (same_padding(size, each, stride, dilation) for each in (wide, narrow))
        if wide == narrow:
            offset = 0
        elif one is None or other is None:
            raise Decline(f"{name} has a stride, and the sizes that it is for are not known")
        else:
            offset = one[0] - other[0]
        if offset % dilation or not 0 <= offset // dilation <= wide - narrow:
            raise Decline(f"the window of {name} is not inside that of {base.name}")
        place.append(slice(offset // dilation, offset // dilation + narrow))
    return tuple(place)


def _center(base: Node, name: str, sizes: tuple[int | None, ...]) -> tuple[slice, ...]:
    """Where the kernel of `base` takes the value that stands where its output will stand."""
    if {*base.strides} != {1}:
        raise Decline(f"{base.name} has the strides {base.strides}, {name} has none")
    return _place(base, (1,) * len(base.kernel_size), name, sizes)


def _diagonal(base: Node, scale: Float64) -> Float64:
    """The kernel with a window of one that multiplies each channel by its scale."""
    ones = (1,) * len(base.kernel_size)
    *_, inputs, filters = base.kernel.shape
    if base.layer.cls in (DepthwiseConv1D, DepthwiseConv2D):
        if filters != 1:
            raise Decline(f"{base.name} makes {filters} channels of each")
        return scale.reshape(*ones, inputs, 1)
    if filters != inputs * base.groups:
        raise Decline(f"{base.name} makes {filters} channels of {inputs * base.groups}")
    # Filter number o belongs to input channel o, which is number o % inputs of its group.
    diagonal: Float64 = scale * (np.arange(filters) % inputs == np.arange(inputs)[:, None])
    return diagonal.reshape(*ones, inputs, filters)
