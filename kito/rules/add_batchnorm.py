"""Linear layers -> Add -> BatchNormalization: each takes the scale in, one of them the shift.

A BatchNormalization treats each channel by itself, and so does an addition:

    scale * (f(x) + g(y)) + shift = (scale * f(x) + shift) + scale * g(y)

A layer that is called for several summands takes a part of the shift, as it is added several times.

Layers of one tensor that are added become one where that is possible, see `branches.py`; this is
for the others, such as the last convolution of a residual block and that of its shortcut.
"""

import keras
import numpy as np
from keras.layers import Add, BatchNormalization

from kito.definition import Call, Decline, Layer, Node, branches, chain, rule
from kito.operations import AddOperation
from kito.rules.batchnorm import channel_axis, check_axis, check_dtype, scale_and_shift
from kito.rules.concatenate_batchnorm import Joined
from kito.rules.linear import LINEAR, check_tensors, folded

ADD = (Add, AddOperation)


@rule(
    Joined(
        branches(linears=LINEAR, add=ADD, every=True),
        chain(add=ADD, bn=BatchNormalization),
    )
)
def add_batchnorm(linears: tuple[Node, ...], add: Node, bn: Node) -> Call:
    """Fold a BatchNormalization into the linear layers whose outputs are added before it."""
    check_tensors(add, "adds")
    axis = bn.axis % len(bn.output.shape)
    for node in (add, *linears):
        check_dtype(bn, node)
    for linear in linears:
        shape = linear.output.shape
        if len(shape) != len(bn.output.shape) or shape[axis] != bn.output.shape[axis]:
            raise Decline(f"{add.name} spreads {linear.name} over more channels or axes")
        check_axis(bn, linear, channel_axis(linear))
    scale, shift = scale_and_shift(bn)
    with_bias = next((each for each in linears if each.use_bias), linears[0]).layer
    times = sum(linear.layer is with_bias for linear in linears)
    folds: dict[Layer, Layer] = {}
    for linear in linears:
        if linear.layer not in folds:
            part = shift / times if linear.layer is with_bias else np.zeros_like(shift)
            folds[linear.layer] = folded(linear, bn, scale, part)
    calls = {each.id: folds[each.layer](*each.args, **each.kwargs) for each in linears}
    args, kwargs = keras.tree.map_structure(lambda ref: calls[ref.node], (add.args, add.kwargs))
    return add.layer(*args, **kwargs)
