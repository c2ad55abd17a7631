"""BatchNormalization at inference is an affine map per channel.

    scale = gamma / sqrt(moving_variance + epsilon)
    shift = beta - moving_mean * scale
    BatchNormalization(x) = scale * x + shift

(Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 2.) What precedes it and is
linear in its kernel can take the scale into the kernel and the shift into the bias.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kito.definition import Decline, Node

Float64 = NDArray[np.float64]

# The largest entries of a filter are some 0.01 to 1; float16 is precise from 6e-5 to 65504.
FLOAT16_RANGE = 128
# Of scales up to this, no kernel that was trained leaves its range.
LARGE = 1e6


def scale_and_shift(bn: Node) -> tuple[Float64, Float64]:
    """The affine map that a BatchNormalization is at inference: two float64 vectors (channels,).

    Raises:
        Decline: the statistics don't give finite numbers.
    """
    mean = bn.moving_mean.astype(np.float64)
    variance = bn.moving_variance.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1 / np.sqrt(variance + bn.epsilon)
    if bn.layer.config["scale"]:
        scale = scale * bn.gamma.astype(np.float64)
    shift = -mean * scale
    if bn.center:
        shift = shift + bn.beta.astype(np.float64)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise Decline(f"the statistics of {bn.name} give a scale or shift that is not finite")
    return scale, shift


def foldable(bn: Node, after: Node, channel_axis: int) -> tuple[Float64, Float64]:
    """The affine map of a BatchNormalization that the linear layer before it can take in.

    Args:
        channel_axis: the axis of the linear layer's output along which its filters lie.

    Raises:
        Decline: something not linear stands between, or the normalized axis is another one.
    """
    check_activation(bn, after)
    check_axis(bn, after, channel_axis)
    check_bias(after, channel_axis)
    check_dtype(bn, after)
    scale, shift = scale_and_shift(bn)
    check_range(bn, after, scale)
    return scale, shift


def check_axis(bn: Node, linear: Node, channel_axis: int) -> None:
    """Whether a BatchNormalization normalizes the channels of a linear layer, of the same rank.

    Raises:
        Decline: it normalizes another axis.
    """
    rank = len(bn.output.shape)
    if bn.axis % rank != channel_axis % rank:
        raise Decline(
            f"{bn.name} normalizes axis {bn.axis % rank}, the channels of {linear.name} are axis "
            f"{channel_axis % rank}"
        )


def check_dtype(bn: Node, before: Node) -> None:
    """Whether a BatchNormalization computes in the dtype of what it reads, or what makes that.

    Raises:
        Decline: it casts.
    """
    if bn.output.dtype != before.output.dtype:
        raise Decline(f"{bn.name} turns {before.output.dtype} into {bn.output.dtype}")


def check_activation(bn: Node, after: Node) -> None:
    """Whether the output of a linear layer is linear.

    Raises:
        Decline: the layer has an activation.
    """
    activation = after.layer.config.get("activation")
    if keras.activations.get(activation) is not keras.activations.linear:
        raise Decline(f"{after.name} applies its activation ({activation}) before {bn.name}")


def check_bias(linear: Node, channel_axis: int, filters: int | None = None) -> None:
    """Whether the bias of a linear layer can do the work of a shift.

    Args:
        filters: how many the layer will have, if not as many as now.

    Raises:
        Decline: Keras might add it along another axis.
    """
    last = linear.output.shape[-1]
    if channel_axis == 1 and last in (None, filters or linear.output.shape[1]):
        # Keras 3.15 on TensorFlow adds a bias along the last axis if that is as long as the bias,
        # also to channels_first tensors: there the bias can't do the work of the shift.
        raise Decline(
            f"{linear.name} is channels_first and its last axis may be as long as its channels "
            "are many; Keras on TensorFlow adds a bias along the wrong axis then"
        )


def check_range(bn: Node, linear: Node, scale: Float64) -> None:
    """Whether a kernel stays in the range of its dtype when it is scaled.

    Raises:
        Decline: it is float16 and may not.
    """
    if linear.output.dtype == "float16" and not _keeps_float16_precise(scale):
        raise Decline(
            f"{bn.name} scales a channel by less than 1/{FLOAT16_RANGE} or more than "
            f"{FLOAT16_RANGE}: the kernel of {linear.name} could leave the range of float16"
        )


def _keeps_float16_precise(scale: Float64) -> bool:
    magnitude = np.abs(scale[scale != 0])
    return bool(((magnitude <= FLOAT16_RANGE) & (magnitude >= 1 / FLOAT16_RANGE)).all())


def scaled(kernel: NDArray[Any], scale: Float64) -> NDArray[Any]:
    """The product, computed in float64 and rounded once, without a float64 copy of the kernel.

    Raises:
        Decline: it leaves the range of the dtype.
    """
    product = np.empty_like(kernel)
    with np.errstate(over="ignore"):
        np.multiply(kernel, scale, dtype=np.float64, out=product, casting="unsafe")
    if np.abs(scale).max(initial=0) > LARGE and not np.isfinite(product).all():
        raise Decline(f"a kernel scaled by {np.abs(scale).max():.0e} leaves the range of its dtype")
    return product


def channel_axis(conv: Node) -> int:
    """The axis of the channels of a linear layer, in the layout that it was given, if any."""
    return 1 if conv.layer.config.get("data_format") == "channels_first" else -1


def bias_of(linear: Node) -> Float64 | float:
    """The bias of a linear layer, 0 if it has none."""
    return linear.bias.astype(np.float64) if linear.use_bias else 0.0


def shifted(linear: Node, scale: Float64 | float, shift: Float64) -> dict[str, Any]:
    """The entries of a linear layer whose bias is `bias * scale + shift`.

    A layer that has no bias, and needs none, gets none.
    """
    if not linear.use_bias and not shift.any():
        return {}
    return {"use_bias": True, "bias": bias_of(linear) * scale + shift}
