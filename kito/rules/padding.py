"""Zero padding -> a layer that pads itself.

A convolution with padding="same" pads with zeros so that each of `ceil(size / stride)` outputs has
its window: in all

    total = max((ceil(size / stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)

of which the smaller half comes first. A padding of exactly this size in front of a convolution that
does not pad can be left to the convolution. Max pooling pads with -inf, which is the same as zero
where nothing is negative.
"""

from __future__ import annotations

import itertools

from keras.layers import (
    Activation,
    Conv1D,
    Conv2D,
    Conv3D,
    DepthwiseConv1D,
    DepthwiseConv2D,
    MaxPooling1D,
    MaxPooling2D,
    MaxPooling3D,
    ReLU,
    SeparableConv1D,
    SeparableConv2D,
    ZeroPadding1D,
    ZeroPadding2D,
    ZeroPadding3D,
)

from kito.definition import Decline, Layer, Node, chain, rule

PADDING = (ZeroPadding1D, ZeroPadding2D, ZeroPadding3D)
CONVOLUTIONS = (
    Conv1D,
    Conv2D,
    Conv3D,
    DepthwiseConv1D,
    DepthwiseConv2D,
    SeparableConv1D,
    SeparableConv2D,
)
POOLING = (MaxPooling1D, MaxPooling2D, MaxPooling3D)
NOT_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softplus", "softmax", "exponential")


@rule(chain(pad=PADDING, conv=CONVOLUTIONS), opens=False)
def padding_conv(pad: Node, conv: Node) -> Layer:
    """Let a convolution pad its input itself."""
    _check_same(pad, conv, conv.kernel_size, conv.dilation_rate)
    return conv.evolve(padding="same")


@rule(chain(source=(ReLU, Activation, *CONVOLUTIONS), pad=PADDING, pool=POOLING), opens=False)
def padding_max_pooling(source: Node, pad: Node, pool: Node) -> list[Layer]:
    """Let a max pooling pad its input itself, where that is never negative."""
    activation = "relu" if source.layer.cls is ReLU else source.layer.config["activation"]
    if activation not in NOT_NEGATIVE or source.layer.config.get("negative_slope"):
        raise Decline(f"{source.name} may give {pool.name} negative values")
    _check_same(pad, pool, pool.pool_size, (1,) * len(pool.pool_size))
    return [source.layer, pool.evolve(padding="same")]


@rule(chain(first=PADDING, second=PADDING), opens=False)
def padding_padding(first: Node, second: Node) -> Layer:
    """Pad once instead of twice."""
    if first.data_format != second.data_format:
        raise Decline(f"{first.name} pads other axes than {second.name}")
    if first.output.dtype != second.output.dtype:
        raise Decline(f"{second.name} turns {first.output.dtype} into {second.output.dtype}")
    sums = [
        (one[0] + other[0], one[1] + other[1])
        for one, other in zip(pads(first), pads(second), strict=True)
    ]
    return first.evolve(padding=sums[0] if len(sums) == 1 else sums)


def pads(pad: Node) -> list[tuple[int, int]]:
    """How much a ZeroPadding layer adds before and after, axis by axis."""
    padding = pad.padding
    return [tuple(padding)] if isinstance(padding[0], int) else [tuple(each) for each in padding]


def _check_same(pad: Node, window: Node, size: tuple[int, ...], dilation: tuple[int, ...]) -> None:
    """Whether a ZeroPadding is the one of padding="same".

    Raises:
        Decline: it is not, or that can't be known.
    """
    if window.padding != "valid":
        raise Decline(f"{window.name} pads already ({window.padding})")
    if pad.data_format != window.data_format:
        raise Decline(f"{pad.name} pads other axes than {window.name} has")
    if pad.output.dtype != window.output.dtype:
        raise Decline(f"{window.name} turns {pad.output.dtype} into {window.output.dtype}")
    first = 2 if pad.data_format == "channels_first" else 1
    padded = itertools.islice(pad.output.shape, first, first + len(size))
    for axis, (sides, whole, *sizes) in enumerate(
        zip(pads(pad), padded, size, window.strides, dilation, strict=True)
    ):
        inner = None if whole is None else whole - sum(sides)
        wanted = same_padding(inner, *sizes)
        if wanted is None:
            raise Decline(
                f"the size of axis {first + axis} of {pad.name} is not known; in a model of one "
                "input size it is"
            )
        if sides != wanted:
            raise Decline(
                f"{pad.name} adds {sides} to axis {first + axis}, {window.name} would add {wanted}"
            )


def same_padding(
    size: int | None, window: int, stride: int, dilation: int
) -> tuple[int, int] | None:
    """What padding="same" adds before and after an axis; None if that depends on a size that is
    not known.
    """
    reach = (window - 1) * dilation + 1
    if stride == 1:
        total = reach - 1
    elif size is None:
        return None
    else:
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2
