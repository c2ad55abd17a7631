"""What rules need to know of Keras' operations, and Keras does not export.

`AddOperation`, `ConcatenateOperation`, `DivideOperation`, `ErfOperation`, `MeanOperation`,
`MultiplyOperation`, `ReshapeOperation`, `SplitOperation`, `SubtractOperation`, `TransposeOperation`
and `TrueDivideOperation` are the classes of the calls that `keras.ops.add(x, y)`, `x + y` and the
like put into a model. `LayerScale` and `StochasticDepth` are layers of networks of
`keras.applications`. In a pattern they stand as other layers do. They are here as long as Keras has
them.

Attributes:
    DETERMINISTIC_OPERATIONS: the classes of operations that are functions of their arguments alone.
    TRANSPARENT: the classes of layers that return, at inference, what they are given.
    EQUATION: a regular expression of the equation of an EinsumDense layer, such as "abc,cd->abd",
        with the groups `kernel` and `output`.
    ELLIPSIS: what may stand in such an equation for any number of axes.
"""

from kito.graph.einsum import ELLIPSIS, EQUATION
from kito.graph.hazards import TRANSPARENT
from kito.graph.keras_internals import (
    DETERMINISTIC_OPERATIONS,
    AddOperation,
    ConcatenateOperation,
    DivideOperation,
    ErfOperation,
    LayerScale,
    MeanOperation,
    MultiplyOperation,
    ReshapeOperation,
    SplitOperation,
    StochasticDepth,
    SubtractOperation,
    TransposeOperation,
    TrueDivideOperation,
)

__all__ = [
    "DETERMINISTIC_OPERATIONS",
    "ELLIPSIS",
    "EQUATION",
    "TRANSPARENT",
    "AddOperation",
    "ConcatenateOperation",
    "DivideOperation",
    "ErfOperation",
    "LayerScale",
    "MeanOperation",
    "MultiplyOperation",
    "ReshapeOperation",
    "SplitOperation",
    "StochasticDepth",
    "SubtractOperation",
    "TransposeOperation",
    "TrueDivideOperation",
]
