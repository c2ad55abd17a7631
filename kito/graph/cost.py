"""What a call costs, as far as shapes tell: its multiply-adds, and whether it passes over data.

A multiply-add is one product that is added up: two floating-point operations. Each entry of a
kernel makes one for each position that it is applied to:

    convolution              every position of the output
    transposed convolution   every position of the input
    Dense                    every row
    EinsumDense              every index of the output that the kernel does not have

for one sample, and with 1 for each size that is not known. What other layers multiply, such as
recurrent ones and attention, is not counted.

A reshape may make several rows of each sample, of which the shapes behind it say nothing; their
number goes along.
"""

from __future__ import annotations

import math
from fractions import Fraction

from keras import layers

from kito.graph.einsum import ELLIPSIS, EQUATION
from kito.graph.ir import Graph, Node
from kito.graph.keras_internals import ReshapeOperation

CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
COUNTED = (*CONVOLUTIONS, *TRANSPOSED, layers.Dense, layers.EinsumDense)
# What gives its input another shape, or nothing to do at inference: no number is touched.
FREE = (
    layers.ActivityRegularization,
    layers.Dropout,
    layers.Flatten,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.InputLayer,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)


def multiply_adds(graph: Graph) -> dict[int, int]:
    """The products that each call of a graph adds up, for one sample."""
    rows: dict[int, Fraction] = {}
    found = {}
    for node in graph:
        given = graph.tensor(node.input).shape if node.refs else ()
        several = rows[node.input.node] if node.refs else Fraction(1)
        if node.layer.cls is ReshapeOperation:
            several *= Fraction(_product(given[1:]), _product(node.output.shape[1:]) or 1)
        rows[node.id] = several
        found[node.id] = int(_of_one_row(node, given) * several)
    return found


def _of_one_row(node: Node, given: tuple[int | None, ...]) -> int:
    layer = node.layer
    if layer.cls not in COUNTED:
        return 0
    entries = sum(math.prod(shape) for name, shape in layer.shapes.items() if "kernel" in name)
    if layer.cls in CONVOLUTIONS:
        return entries * _positions(node, node.output.shape)
    if layer.cls in TRANSPOSED:
        return entries * _positions(node, given)
    if layer.cls is layers.Dense:
        return entries * _product(node.output.shape[1:-1])
    if layer.cls is layers.EinsumDense and layer.has_config:
        equation = EQUATION.fullmatch(node.equation)
        if equation and ELLIPSIS not in equation["output"]:
            # Not strict: Keras believes an `output_shape` that has more sizes than the equation.
            letters = zip(equation["output"][1:], node.output.shape[1:], strict=False)
            others = (size for letter, size in letters if letter not in equation["kernel"])
            return entries * _product(tuple(others))
    return 0


def is_pass(node: Node) -> bool:
    """Whether a call that multiplies nothing reads and writes numbers."""
    return node.layer.graph is None and node.layer.cls not in FREE


def _positions(node: Node, shape: tuple[int | None, ...]) -> int:
    return _product(shape[2:] if node.data_format == "channels_first" else shape[1:-1])


def _product(sizes: tuple[int | None, ...]) -> int:
    return math.prod(size or 1 for size in sizes)
