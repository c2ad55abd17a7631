"""TimeDistributed(Dense) -> Dense.

A Dense layer acts on the last axis, whatever the others are, so it may as well be called on all
steps at once:

    TimeDistributed(dense)(x)[:, t] = dense(x[:, t]) = dense(x)[:, t]

Keras calls the layer of a TimeDistributed once for each step, if it knows how many there are. And
what folds into a Dense layer folds into this one then.
"""

from keras.layers import Dense, TimeDistributed

from kito.definition import Decline, Layer, Node, chain, rule, where
from kito.rules.linear import ELEMENTWISE
from kito.rules.time_distributed import check_casts

# Functions of one number, or of all along the last axis. Others may tell the steps apart.
ACTIVATIONS = (*ELEMENTWISE, "softmax", "log_softmax")


def _holds_dense(steps: Node) -> bool:
    return steps.layer.graph is None and steps.wrapped.cls is Dense


@rule(chain(steps=where(TimeDistributed, _holds_dense)))
def time_distributed_dense(steps: Node) -> Layer:
    """Call a Dense layer on all steps at once."""
    dense = steps.wrapped
    check_casts(steps)
    if dense.activation not in ACTIVATIONS:
        raise Decline(f"the activation of {dense.name} in {steps.name} may tell the steps apart")
    return dense.evolve()
