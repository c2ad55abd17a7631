"""TimeDistributed(Dense) -> Dense.

A Dense layer acts on the last axis, whatever the others are, so it may as well be called on all
steps at once:

    TimeDistributed(dense)(x)[:, t] = dense(x[:, t]) = dense(x)[:, t]

Keras calls the layer of a TimeDistributed once for each step, if it knows how many there are. And
what folds into a Dense layer folds into this one then.
"""

from keras.layers import Dense, TimeDistributed

from kito.definition import Decline, Layer, Node, chain, rule, where


def _holds_dense(steps: Node) -> bool:
    return steps.layer.graph is None and steps.wrapped.cls is Dense


@rule(chain(steps=where(TimeDistributed, _holds_dense)))
def time_distributed_dense(steps: Node) -> Layer:
    """Call a Dense layer on all steps at once."""
    dense = steps.wrapped
    # A TimeDistributed casts what it reads, and the layer inside, of which it runs the `call`, not.
    casts = [(each.autocast, each.compute_dtype) for each in (steps.source, dense.source)]
    if casts[0] != casts[1]:
        raise Decline(f"{dense.name} in {steps.name} computes in another dtype, without a cast")
    return dense.evolve()
