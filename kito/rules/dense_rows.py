"""Dense with gelu on more than two axes -> the same on rows.

A Dense layer acts on the last axis alone, so the other axes may as well be one:

    dense(x) = reshape(dense(reshape(x, (-1, channels))), (-1, *sizes, units))

TensorFlow fuses a matrix product, a bias and gelu into one operation; on tensors of more than two
axes Keras puts a reshape between product and bias, and nothing is fused.
"""

from __future__ import annotations

from dataclasses import replace

from keras import activations
from keras.layers import Dense

from kito.definition import Call, Decline, Layer, Node, chain, rule, where
from kito.operations import ReshapeOperation
from kito.rules.activation import function_of


def _is_spread(dense: Node) -> bool:
    """Whether a Dense layer with gelu acts on more than rows."""
    return len(dense.output.shape) > 2 and function_of(dense) is activations.gelu


@rule(chain(dense=where(Dense, _is_spread)), default=("tensorflow",), opens=False, late=True)
def dense_rows(dense: Node) -> Call:
    """Run a Dense layer with gelu on rows, where TensorFlow fuses it."""
    _, *sizes, units = dense.output.shape
    if None in sizes:
        raise Decline(f"the sizes of {dense.name}'s output are not known")
    if 0 in sizes:
        raise Decline(f"the output of {dense.name} is empty")
    if dense.output.dtype != "float32":
        raise Decline(f"{dense.name} computes in {dense.output.dtype}")
    channels, name = dense.kernel.shape[0], dense.name
    rows = Layer.of(ReshapeOperation((-1, channels), name=f"{name}_in"))(dense.input)
    product = replace(dense.evolve(), name=f"{name}_rows")(rows)
    return Layer.of(ReshapeOperation((-1, *sizes, units), name=name))(product)
