"""EinsumDense, with what scales and shifts its output, or its input: one EinsumDense layer.

    y = einsum(equation, x, kernel) + bias

Each product that the einsum adds up has one entry of the kernel as a factor. Where an axis of the
output is an axis of the kernel too, that entry and the sum have the same index along it, so a
factor for each index can move into the kernel:

    scale * y + shift = einsum(equation, x, kernel * scale) + (bias * scale + shift)

The bias has the axes of the output that `bias_axes` names, and the size 1 between them. It gets the
axis of the scale, if it did not have it.

Along an axis of the input that is an axis of the kernel it is the same, and what the shift adds is
a sum of the kernel: with the axes of the kernel that the output has.

    einsum(equation, scale * x + shift, kernel)
        = einsum(equation, x, kernel * scale) + sum(kernel * shift)
"""

import re
from typing import Any

import numpy as np
from keras.layers import BatchNormalization, EinsumDense

from kito.definition import Decline, Layer, Node, chain, rule
from kito.operations import ELLIPSIS, EQUATION
from kito.rules.affine import Affine
from kito.rules.batchnorm import Float64, foldable, scaled


@rule(chain(einsum=EinsumDense, bn=BatchNormalization))
def einsum_dense_batchnorm(einsum: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the EinsumDense layer before it."""
    rank = len(bn.output.shape)
    axis = bn.axis % rank - rank  # negative: no axis here is that of a channels_first layout
    scale, shift = foldable(bn, einsum, axis)
    return scaled_and_shifted(einsum, axis, scale, shift)


def scaled_and_shifted(
    einsum: Node, axis: int, scale: Float64, shift: Float64 | None = None
) -> Layer:
    """The EinsumDense layer that computes `scale * y + shift` along one axis of its output `y`.

    Args:
        axis: counted from the end, negative.
        scale, shift: vectors as long as the axis; no shift asks for no bias.

    Raises:
        Decline: the kernel does not have the axis, or Keras would misread the bias.
    """
    equation = _equation_of(einsum)
    rank = len(einsum.output.shape)
    label = _labels(equation["output"], rank)[axis]
    if label not in equation["kernel"]:
        raise Decline(
            f"the kernel of {einsum.name}, {einsum.equation}, does not have axis {axis % rank} of "
            "the output"
        )
    kernel = scaled(einsum.kernel, _along_kernel(equation, label, scale))
    if shift is None and not einsum.bias_axes:
        return einsum.evolve(kernel=kernel)
    along_bias = (-1, *[1] * (-axis - 1))
    new_bias = _bias_of(einsum) * scale.reshape(along_bias)
    if shift is not None:
        new_bias = new_bias + shift.reshape(along_bias)
    return einsum.evolve(kernel=kernel, **_bias(einsum, new_bias, label))


def absorbed(einsum: Node, affine: Affine, rank: int) -> Layer:
    """The EinsumDense layer that does to `x` what the given one does to `scale * x + shift`.

    Args:
        rank: of the input.

    Raises:
        Decline: the kernel does not have the axis, what the shift adds is no sum of the kernel, or
            Keras would misread the bias.
    """
    equation = _equation_of(einsum)
    labels = _labels(equation["input"], rank)
    label = "" if affine.axis is None else labels[affine.axis]
    if label and label not in equation["kernel"]:
        raise Decline(
            f"the kernel of {einsum.name}, {einsum.equation}, does not have axis {affine.axis} of "
            f"the input, along which {affine.name} varies"
        )
    changes = {"kernel": scaled(einsum.kernel, _along_kernel(equation, label, affine.scale))}
    if affine.shift.any():
        stays = "".join(letter for letter in equation["output"] if letter in equation["kernel"])
        elsewhere = equation["kernel"] + equation["output"]
        if not stays or any(each not in elsewhere for each in labels):
            raise Decline(
                f"{einsum.name}, {einsum.equation}, adds up more than its kernel does, or has no "
                f"axis for a bias, and {affine.name} shifts"
            )
        shifts = einsum.kernel * _along_kernel(equation, label, affine.shift)
        total = np.einsum(f"{equation['kernel']}->{stays}", shifts)
        sizes = dict(zip(stays, total.shape, strict=True))
        output = _labels(equation["output"], len(einsum.output.shape))
        along_bias = [sizes.get(each, 1) for each in output[output.index(stays[0]) :]]
        changes |= _bias(einsum, _bias_of(einsum) + total.reshape(along_bias), stays)
    return einsum.evolve(**changes)


def _equation_of(einsum: Node) -> re.Match[str]:
    equation = EQUATION.fullmatch(einsum.equation)
    # A letter that stands twice in the kernel takes its diagonal.
    if equation is None or len({*equation["kernel"]}) < len(equation["kernel"]):
        raise Decline(f"{einsum.name} has the equation {einsum.equation}, which kito can't read")
    return equation


def _labels(axes: str, rank: int) -> str:
    """One character for each axis of a tensor: a letter, or a dot for one in an ellipsis."""
    letters = axes.replace(ELLIPSIS, "")
    return axes.replace(ELLIPSIS, "." * (rank - len(letters)))


def _along_kernel(equation: re.Match[str], label: str, vector: Float64) -> Float64:
    """A vector in the shape in which it multiplies the kernel; a number, if there is no label."""
    return vector.reshape([-1 if letter == label else 1 for letter in equation["kernel"]])


def _bias_of(einsum: Node) -> Float64:
    bias: Float64 = einsum.bias.astype(np.float64) if einsum.bias_axes else np.zeros(1)
    return bias


def _bias(einsum: Node, bias: Float64, labels: str) -> dict[str, Any]:
    """The entries of an EinsumDense layer that has this bias, along the axes of its own and others.

    Raises:
        Decline: Keras would misread the bias, or misreads the one that the layer has.
    """
    if any(is_misread(each.shape, einsum.output.shape) for each in (_bias_of(einsum), bias)):
        raise Decline(
            f"the bias of {einsum.name} is a vector along an axis of {einsum.output.shape}, and "
            "Keras on TensorFlow could add it along another axis that is as long"
        )
    axes = {*labels, *(einsum.bias_axes or "")}
    letters = einsum.equation.split("->")[1].replace(ELLIPSIS, "")
    return {"bias_axes": "".join(letter for letter in letters if letter in axes), "bias": bias}


def is_misread(bias: tuple[int, ...], output: tuple[int | None, ...]) -> bool:
    """Whether Keras 3.15 on TensorFlow may add a bias that is a vector along a wrong axis.

    It asks for no more than that the last axis, or else axis 1, is as long as the vector.
    """
    axes = [axis - len(bias) for axis, size in enumerate(bias) if size > 1]
    if len(axes) != 1:
        return False
    [axis] = axes
    for tried in (len(output) - 1, 1):
        if tried == len(output) + axis:
            return False
        if output[tried] in (None, bias[axis]):
            return True
    return False
