"""EinsumDense -> BatchNormalization: one EinsumDense layer.

    y = einsum(equation, x, kernel) + bias

Each product that the einsum adds up has one entry of the kernel as a factor. Where an axis of the
output is an axis of the kernel too, that entry and the sum have the same index along it, so a
factor for each index can move into the kernel:

    scale * y + shift = einsum(equation, x, kernel * scale) + (bias * scale + shift)

The bias has the axes of the output that `bias_axes` names, and the size 1 between them. It gets the
axis of the scale, if it did not have it.
"""

import numpy as np
from keras.layers import BatchNormalization, EinsumDense

from kito.definition import Decline, Layer, Node, chain, rule
from kito.operations import ELLIPSIS, EQUATION
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
    equation = EQUATION.fullmatch(einsum.equation)
    # A letter that stands twice in the kernel takes its diagonal.
    if equation is None or len({*equation["kernel"]}) < len(equation["kernel"]):
        raise Decline(f"{einsum.name} has the equation {einsum.equation}, which kito can't read")
    rank = len(einsum.output.shape)
    letters = equation["output"].replace(ELLIPSIS, "")
    label = equation["output"].replace(ELLIPSIS, "." * (rank - len(letters)))[axis]
    if label not in equation["kernel"]:
        raise Decline(
            f"the kernel of {einsum.name}, {einsum.equation}, does not have axis {axis % rank} of "
            "the output"
        )
    along_kernel = [-1 if letter == label else 1 for letter in equation["kernel"]]
    kernel = scaled(einsum.kernel, scale.reshape(along_kernel))
    if shift is None and not einsum.bias_axes:
        return einsum.evolve(kernel=kernel)
    along_bias = (-1, *[1] * (-axis - 1))
    bias_axes = einsum.bias_axes or ""
    bias = einsum.bias.astype(np.float64) if bias_axes else np.zeros(1)
    new_bias = bias * scale.reshape(along_bias)
    if shift is not None:
        new_bias = new_bias + shift.reshape(along_bias)
    if any(_is_misread(shape, einsum.output.shape) for shape in (bias.shape, new_bias.shape)):
        raise Decline(
            f"the bias of {einsum.name} is a vector along an axis of {einsum.output.shape}, and "
            "Keras on TensorFlow could add it along another axis that is as long"
        )
    return einsum.evolve(
        bias_axes="".join(letter for letter in letters if letter in bias_axes + label),
        kernel=kernel,
        bias=new_bias,
    )


def _is_misread(bias: tuple[int, ...], output: tuple[int | None, ...]) -> bool:
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
