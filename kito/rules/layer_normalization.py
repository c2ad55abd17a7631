"""LayerNormalization -> linear layer: the LayerNormalization without its scale and shift.

    normalized = (x - mean) / sqrt(variance + epsilon)
    LayerNormalization(x) = normalized * gamma + beta

(Ba et al. 2016, https://arxiv.org/abs/1607.06450.) A Dense layer, or a convolution that does not
pad, takes both in. With i for the channel that a kernel's entry reads:

    linear(normalized * gamma + beta, kernel) + bias
        = linear(normalized, kernel * gamma[i]) + (bias + sum(kernel * beta[i]))

The sum is over all entries that make one output: its channels, and the window of a convolution.
Where that window reaches into padding it finds zeros and not beta.

The LayerNormalization stays, and has less to do. Keras 3.15 on TensorFlow computes x * a + b, where
a and b are numbers for each mean without gamma and beta, and tensors as large as x with them. JAX
compiles it into one pass either way, and PyTorch has one kernel for it: nothing is gained there.

All that read it must take gamma and beta in: one Dense layer, or those that make queries, keys and
values.
"""

from typing import Any

import numpy as np
from keras.layers import Conv1D, Conv2D, Conv3D, Dense, LayerNormalization

from kito.definition import Call, Decline, Layer, Node, readers, rule, where
from kito.rules.batchnorm import Float64, bias_of, check_range, scaled


def _has_weights(norm: Node) -> bool:
    return bool(norm.layer.config["scale"] or norm.center)


@rule(
    readers(
        norm=where(LayerNormalization, _has_weights),
        linear=(Conv1D, Conv2D, Conv3D, Dense),
    ),
    default=["tensorflow"],
    opens=False,
)
def layer_normalization_dense(norm: Node, linear: tuple[Node, ...]) -> list[Call]:
    """Move the scale and shift of a LayerNormalization into the linear layers after it."""
    for each in linear:
        _check(norm, each)
    gamma, beta = _scale_and_shift(norm)
    plain = Layer.new(
        LayerNormalization,
        name=norm.name,
        dtype=norm.config["dtype"],
        axis=norm.axis,
        epsilon=norm.epsilon,
        scale=False,
        center=False,
    )
    normalized = plain(norm.input)
    return [_taking_in(norm, each, gamma, beta)(normalized) for each in linear]


def _taking_in(norm: Node, linear: Node, gamma: Float64, beta: Float64) -> Layer:
    check_range(norm, linear, gamma)
    changes: dict[str, Any] = {"kernel": scaled(linear.kernel, _by_filter(gamma, linear))}
    if beta.any():
        if _pads(linear):
            raise Decline(f"{linear.name} pads {norm.name}'s output with zeros, not with its shift")
        shift = linear.kernel * _by_filter(beta, linear)
        shift = shift.reshape(-1, shift.shape[-1]).sum(axis=0)
        changes |= {"use_bias": True, "bias": bias_of(linear) + shift}
    return linear.evolve(**changes)


def _check(norm: Node, linear: Node) -> None:
    if norm.rms_scaling:
        raise Decline(f"{norm.name} has rms_scaling, and computes something else")
    rank = len(norm.output.shape)
    if [axis % rank for axis in norm.axis] != [rank - 1]:
        raise Decline(f"{norm.name} normalizes axes {norm.axis}, not the last one only")
    if linear.layer.config.get("data_format") == "channels_first":
        raise Decline(f"{norm.name} scales the last axis, the channels of {linear.name} are axis 1")
    if linear.output.dtype != norm.output.dtype:
        raise Decline(f"{linear.name} turns {norm.output.dtype} into {linear.output.dtype}")


def _scale_and_shift(norm: Node) -> tuple[Float64, Float64]:
    gamma = norm.gamma if norm.layer.config["scale"] else np.ones_like(norm.beta)
    beta = norm.beta if norm.center else np.zeros_like(gamma)
    if not (np.isfinite(gamma).all() and np.isfinite(beta).all()):
        raise Decline(f"a weight of {norm.name} is not finite")
    return gamma.astype(np.float64), beta.astype(np.float64)


def _by_filter(channels: Float64, linear: Node) -> Float64:
    """A vector of all channels as a matrix for the last two axes of the kernel: in, out.

    Filters see the channels of their group.
    """
    groups = linear.layer.config.get("groups", 1)
    filters = linear.kernel.shape[-1] // groups
    return np.repeat(channels.reshape(groups, -1).T, filters, axis=1)


def _pads(linear: Node) -> bool:
    """Whether the layer reads more than its input."""
    config = linear.layer.config
    return config.get("padding", "valid") != "valid" and any(
        size > 1 for size in linear.kernel_size
    )
