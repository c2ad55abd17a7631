"""Layers that an affine map per channel may change places with.

    layer(scale * x + shift) = scale' * layer(x) + shift'

where scale' and shift' are scale and shift, in another order if the layer moves the channels:

| layers                                                  | condition                          |
|:--------------------------------------------------------|:-----------------------------------|
| Dropout and others that return what they are given      |                                    |
| Cropping, UpSampling (nearest, bilinear), Permute       |                                    |
| Flatten, Reshape, `ops.reshape`                         | the sizes are known                |
| `ops.transpose`, and `ops.mean` of other axes           | the batch stays the first axis     |
| AveragePooling                                          | shift = 0 or padding='valid'       |
| GlobalAveragePooling                                    |                                    |
| MaxPooling                                              | scale > 0, and the same            |
| GlobalMaxPooling                                        | scale > 0                          |
| ReLU and LeakyReLU, without a threshold or largest value | scale > 0, shift = 0              |
| ZeroPadding                                             | shift = 0                          |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import layers

from kito.definition import Call, Decline, Node, Ref
from kito.operations import (
    TRANSPARENT,
    MeanOperation,
    ReshapeOperation,
    TransposeOperation,
)
from kito.rules.affine import Affine
from kito.rules.batchnorm import Float64

Shape = tuple[int | None, ...]


def through(path: tuple[Node, ...], affine: Affine, before: Node) -> Affine:
    """The map behind a row of calls that does what the given map does in front of it.

    Args:
        before: the call that the first one of the row reads.

    Raises:
        Decline: they do not commute.
    """
    for node in path:
        if node.output.dtype != before.output.dtype:
            raise Decline(f"{node.name} turns {before.output.dtype} into {node.output.dtype}")
        affine = COMMUTING[node.layer.cls](node, before.output.shape, affine)
        before = node
    return affine


def called(path: tuple[Node, ...], tensor: Ref | Call) -> Ref | Call:
    """The same calls, in a row, on another tensor."""
    for node in path:
        tensor = node.layer(tensor, **node.kwargs)
    return tensor


def _identity(node: Node, shape: Shape, affine: Affine) -> Affine:
    return affine


def _activation(node: Node, shape: Shape, affine: Affine) -> Affine:
    if node.layer.cls is layers.Activation:
        function = keras.activations.get(node.activation)
        if function is keras.activations.linear:
            return affine
        if function not in (keras.activations.relu, keras.activations.leaky_relu):
            raise Decline(f"{node.name} ({node.activation}) is not linear")
    elif node.layer.config.get("threshold") or node.layer.config.get("max_value") is not None:
        raise Decline(f"{node.name} has a threshold or a largest value")
    _check_no_shift(node, affine, "is not linear")
    _check_positive(node, affine)
    return affine


def _spatial(node: Node, shape: Shape, affine: Affine) -> Affine:
    _check_channels(node, shape, affine)
    return affine


def _upsampling(node: Node, shape: Shape, affine: Affine) -> Affine:
    interpolation = node.layer.config.get("interpolation", "nearest")
    if interpolation not in ("nearest", "bilinear"):
        raise Decline(f"{node.name} has the interpolation {interpolation}")
    return _spatial(node, shape, affine)


def _zero_padding(node: Node, shape: Shape, affine: Affine) -> Affine:
    _check_no_shift(node, affine, "adds zeros")
    return _spatial(node, shape, affine)


def _average_pooling(node: Node, shape: Shape, affine: Affine) -> Affine:
    if node.output.dtype == "float16":
        raise Decline(f"{node.name} adds up in float16, whose range other numbers could leave")
    if node.padding != "valid":
        _check_no_shift(node, affine, "pads")
    return _spatial(node, shape, affine)


def _max_pooling(node: Node, shape: Shape, affine: Affine) -> Affine:
    _check_positive(node, affine)
    if node.padding != "valid":
        _check_no_shift(node, affine, "pads")
    return _spatial(node, shape, affine)


def _global_average_pooling(node: Node, shape: Shape, affine: Affine) -> Affine:
    if node.output.dtype == "float16":
        raise Decline(f"{node.name} adds up in float16, whose range other numbers could leave")
    return _global_pooling(node, shape, affine)


def _global_max_pooling(node: Node, shape: Shape, affine: Affine) -> Affine:
    _check_positive(node, affine)
    return _global_pooling(node, shape, affine)


def _global_pooling(node: Node, shape: Shape, affine: Affine) -> Affine:
    _check_channels(node, shape, affine)
    if affine.axis is None or node.keepdims:
        return affine
    return Affine(affine.name, affine.scale, affine.shift, 1)


def _permute(node: Node, shape: Shape, affine: Affine) -> Affine:
    if affine.axis is None:
        return affine
    axis = [*node.dims].index(affine.axis) + 1
    return Affine(affine.name, affine.scale, affine.shift, axis)


def _reshape(node: Node, shape: Shape, affine: Affine) -> Affine:
    if affine.axis is None:
        return affine
    sizes = tuple(size for size in shape[1:] if size is not None)
    if len(sizes) < len(shape) - 1 or None in node.output.shape[1:]:
        raise Decline(f"the sizes that {node.name} reshapes are not known")
    along = [1] * len(sizes)
    along[affine.axis - 1] = -1
    full = np.stack(
        [np.broadcast_to(each.reshape(along), sizes) for each in (affine.scale, affine.shift)]
    )
    if node.layer.cls is layers.Flatten and node.data_format == "channels_first":
        full = np.moveaxis(full, 1, -1)
    return _by_channel(node, affine, full.reshape(2, *node.output.shape[1:]))


def _reshape_operation(node: Node, shape: Shape, affine: Affine) -> Affine:
    first, *sizes = node.output.shape
    inside, outside = (math.prod(size or 1 for size in each) for each in (shape[1:], sizes))
    if affine.axis is not None and (first != shape[0] or inside != outside):
        raise Decline(f"{node.name} moves samples, and {affine.name} varies along an axis")
    return _reshape(node, shape, affine)


def _transpose(node: Node, shape: Shape, affine: Affine) -> Affine:
    if affine.axis is None:
        return affine
    axes = [axis % len(shape) for axis in node.axes or reversed(range(len(shape)))]
    if axes[0] != 0:
        raise Decline(f"{node.name} moves samples, and {affine.name} varies along an axis")
    return Affine(affine.name, affine.scale, affine.shift, axes.index(affine.axis))


def _mean(node: Node, shape: Shape, affine: Affine) -> Affine:
    if node.output.dtype == "float16":
        raise Decline(f"{node.name} adds up in float16, whose range other numbers could leave")
    given = range(len(shape)) if node.axis is None else np.atleast_1d(node.axis).tolist()
    axes = [axis % len(shape) for axis in given]
    if affine.axis is None:
        return affine
    if affine.axis in axes or 0 in axes:
        raise Decline(f"{node.name} is a mean of axes {axes}, {affine.name} varies along one")
    axis = affine.axis if node.keepdims else affine.axis - sum(each < affine.axis for each in axes)
    return Affine(affine.name, affine.scale, affine.shift, axis)


def _by_channel(node: Node, affine: Affine, full: Float64) -> Affine:
    """The map of a scale and a shift for each element, given as an array (2, *sizes)."""
    first = [full.take([0], axis) for axis in range(full.ndim)]
    axes = [axis for axis in range(1, full.ndim) if (full != first[axis]).any()]
    if len(axes) > 1:
        raise Decline(f"{node.name} spreads the channels of {affine.name} over several axes")
    axis = axes[0] if axes else full.ndim - 1
    scale, shift = np.moveaxis(full, axis, -1).reshape(2, -1, full.shape[axis])[:, 0]
    return Affine(affine.name, scale, shift, axis)


def _check_channels(node: Node, shape: Shape, affine: Affine) -> None:
    first = node.layer.config.get("data_format") == "channels_first"
    axis = 1 if first else len(shape) - 1
    if affine.axis not in (axis, None):
        raise Decline(
            f"{affine.name} varies along axis {affine.axis}, the channels of {node.name} are axis "
            f"{axis}"
        )


def _check_no_shift(node: Node, affine: Affine, because: str) -> None:
    if affine.shift.any():
        raise Decline(f"{node.name} {because}, and {affine.name} shifts")


def _check_positive(node: Node, affine: Affine) -> None:
    if not (affine.scale > 0).all():
        raise Decline(f"{affine.name} scales a channel by a number <= 0 before {node.name}")


Commute = Callable[[Node, Shape, Affine], Affine]
# Those that do something, and those that return what they are given.
ACTING: Mapping[type[keras.Operation], Commute] = {
    layers.Activation: _activation,
    layers.AveragePooling1D: _average_pooling,
    layers.AveragePooling2D: _average_pooling,
    layers.AveragePooling3D: _average_pooling,
    layers.Cropping1D: _spatial,
    layers.Cropping2D: _spatial,
    layers.Cropping3D: _spatial,
    layers.Flatten: _reshape,
    layers.GlobalAveragePooling1D: _global_average_pooling,
    layers.GlobalAveragePooling2D: _global_average_pooling,
    layers.GlobalAveragePooling3D: _global_average_pooling,
    layers.GlobalMaxPooling1D: _global_max_pooling,
    layers.GlobalMaxPooling2D: _global_max_pooling,
    layers.GlobalMaxPooling3D: _global_max_pooling,
    layers.LeakyReLU: _activation,
    layers.MaxPooling1D: _max_pooling,
    layers.MaxPooling2D: _max_pooling,
    layers.MaxPooling3D: _max_pooling,
    layers.Permute: _permute,
    layers.ReLU: _activation,
    layers.Reshape: _reshape,
    layers.UpSampling1D: _upsampling,
    layers.UpSampling2D: _upsampling,
    layers.UpSampling3D: _upsampling,
    layers.ZeroPadding1D: _zero_padding,
    layers.ZeroPadding2D: _zero_padding,
    layers.ZeroPadding3D: _zero_padding,
    MeanOperation: _mean,
    ReshapeOperation: _reshape_operation,
    TransposeOperation: _transpose,
}
COMMUTING = {**ACTING, **dict.fromkeys(TRANSPARENT, _identity)}
