"""Affine map per channel -> layers that commute with it -> linear layers: the map folds forward.

A linear layer adds up its inputs, each times an entry of the kernel, and the bias:

    linear(scale * x + shift, kernel) = linear(x, scale * kernel) + sum(shift * kernel)

The scale lies along the axis of the kernel that the inputs have. In a convolution with groups,
filter `o` reads the channels of its group only. The sum runs over the inputs and the window, and
goes into the bias. It is the same everywhere if all windows see the shift everywhere: where a
window reaches into zeros that the layer pads with, only the scale can move. The windows of a
transposed convolution overlap more or less often, so there too.

Between the map and the linear layer may stand layers that let the map pass; see `commuting.py`.

All that read it must take the map in. Each rewrite takes an affine map away and adds none, so the
rule comes to an end.
"""

import keras
import numpy as np
from keras import layers

from kito.definition import Call, Decline, Layer, Node, Tensor, many, readers, rule, where
from kito.rules import einsum_dense
from kito.rules.affine import (
    AFFINE,
    Affine,
    Sourced,
    affine_of,
    as_cast,
    check_mask,
    check_shift,
    reads_one_tensor,
)
from kito.rules.batchnorm import (
    Float64,
    channel_axis,
    check_bias,
    check_range,
    scaled,
    shifted,
)
from kito.rules.commuting import COMMUTING, called, through
from kito.rules.linear import LINEAR, linear_axis
from kito.rules.padding import same_padding

BY_CHANNEL = (
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
# What can take in an affine map of its input.
READERS = (*LINEAR, layers.EinsumDense)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)


@rule(
    Sourced(
        readers(
            affine=where(AFFINE, reads_one_tensor),
            between=many(*COMMUTING),
            linear=READERS,
        )
    ),
    opens=[layers.BatchNormalization],
)
def affine_linear(
    source: Node, affine: Node, between: tuple[Node, ...], linear: tuple[Node, ...]
) -> list[Call]:
    """Fold a BatchNormalization, or another affine map, into the linear layers after it."""
    given = source.outputs[affine.input.index]
    check_mask(affine, given)
    if keras.backend.is_float_dtype(given.dtype):
        given = as_cast(affine, given)  # the layer behind it will cast this; integers it would not
    moved = through(between, affine_of(affine, given), affine)
    tensor = called(between, affine.input)
    folded = absorbed(linear, affine, moved, (affine, *between)[-1].output)
    return [layer(tensor, **each.kwargs) for each, layer in zip(linear, folded, strict=True)]


def absorbed(linear: tuple[Node, ...], affine: Node, moved: Affine, read: Tensor) -> list[Layer]:
    """The linear layers that do to `x` what the given ones do to `scale * x + shift`.

    Args:
        affine: the call that scales and shifts now.
        read: the tensor that the linear layers read now.

    Raises:
        Decline: one changes the dtype, pads, varies along another axis, or can't have such a bias
            or kernel.
    """
    found: dict[Layer, Layer] = {}
    for each in linear:
        if each.output.dtype != affine.output.dtype:
            raise Decline(f"{each.name} turns {affine.output.dtype} into {each.output.dtype}")
        if each.layer not in found:
            found[each.layer] = _absorbed(each, affine, moved, read)
    return [found[each.layer] for each in linear]


def _absorbed(linear: Node, affine: Node, moved: Affine, read: Tensor) -> Layer:
    if linear.layer.cls is layers.EinsumDense:
        check_range(affine, linear, moved.scale)
        check_shift(moved, linear.output.dtype)
        return einsum_dense.absorbed(linear, moved, len(read.shape))
    scale, shift = moved.along(linear_axis(linear), _inputs(linear))
    check_range(affine, linear, scale)
    name = "depthwise_kernel" if linear.layer.cls in SEPARABLE else "kernel"
    kernel = linear.weights[name]
    changes = {name: scaled(kernel, _along_inputs(linear, scale))}
    if shift.any():
        _check_shift(linear, moved, read)
        windows = tuple(range(kernel.ndim - 2))
        total = kernel.sum(windows, dtype=np.float64) * _along_inputs(linear, shift)
        changes |= shifted(linear, 1.0, _added(linear, total))
    return linear.evolve(**changes)


def _inputs(linear: Node) -> int:
    """How many channels a linear layer reads."""
    cls = linear.layer.cls
    if cls in SEPARABLE:
        return int(linear.depthwise_kernel.shape[-2])
    if cls in TRANSPOSED:
        return int(linear.kernel.shape[-1])
    return int(linear.kernel.shape[-2]) * int(linear.layer.config.get("groups") or 1)


def _along_inputs(linear: Node, vector: Float64) -> Float64:
    """A vector (inputs,) in the shape in which it multiplies the kernel."""
    cls = linear.layer.cls
    if cls in TRANSPOSED:
        return vector
    if cls in BY_CHANNEL or cls is layers.Dense:
        return vector[:, None]
    by_group = vector.reshape(linear.groups, -1)
    along: Float64 = np.repeat(by_group.T, linear.filters // linear.groups, axis=1)
    return along


def _added(linear: Node, total: Float64) -> Float64:
    """What the bias gains, given the sums over the window, (inputs, filters) as in the kernel."""
    if linear.layer.cls in SEPARABLE:
        pointwise = linear.pointwise_kernel.astype(np.float64)
        added: Float64 = total.reshape(-1) @ pointwise.reshape(total.size, -1)
        return added
    return total.reshape(-1) if linear.layer.cls in BY_CHANNEL else total.sum(axis=0)


def _check_shift(linear: Node, moved: Affine, read: Tensor) -> None:
    cls = linear.layer.cls
    if cls in TRANSPOSED:
        raise Decline(f"{linear.name} is transposed, and {moved.name} shifts")
    if cls is not layers.Dense:
        if linear.padding != "valid" and _pads(linear, read):
            raise Decline(f"{linear.name} pads with zeros, and {moved.name} shifts")
        check_bias(linear, channel_axis(linear))
    check_shift(moved, linear.output.dtype)


def _pads(linear: Node, read: Tensor) -> bool:
    """Whether a convolution that may pad what it reads does, or might: its size may not be known.

    With strides as long as the window, "same" pads only what they do not divide.
    """
    if linear.padding == "causal":
        return {*linear.kernel_size} != {1}
    first = 2 if linear.data_format == "channels_first" else 1
    sizes = read.shape[first : first + len(linear.kernel_size)]
    return any(
        window > 1 and same_padding(size, window, stride, dilation) != (0, 0)
        for size, window, stride, dilation in zip(
            sizes, linear.kernel_size, linear.strides, linear.dilation_rate, strict=True
        )
    )
