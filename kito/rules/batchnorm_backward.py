"""Linear layer -> layers that commute with an affine map -> BatchNormalization: folded backwards.

A BatchNormalization may change places with pooling, cropping and other layers, if its scale and
shift meet the condition of each (see `commuting.py`). So it may as well stand directly behind the
linear layer, which takes it in:

    bn(pool(linear(x))) = pool(bn(linear(x)))

The channels must come through in their order. That is tested: the map of the BatchNormalization is
sent through the layers in between, and must come out as it went in. A Reshape may make positions of
channels, as the first one of a generator of pictures does; then each stands for several.
"""

import numpy as np
from keras.layers import BatchNormalization

from kito.definition import Call, Decline, Graph, Match, Node, Provided, chain, many, rule
from kito.rules.affine import Affine
from kito.rules.batchnorm import check_dtype, scale_and_shift
from kito.rules.commuting import ACTING, called, through
from kito.rules.linear import LINEAR, folded, linear_axis

MOVING = tuple(ACTING)


def _acts(graph: Graph, match: Match) -> bool:
    """Whether each layer in between changes the shape, or pools.

    Across one that does nothing, a backend could take the linear layer, which may get a bias, and
    what follows the BatchNormalization for one operation (see `hazards.py`).
    """
    _, *path, _ = match.nodes
    return all(
        node.output.shape != graph.tensor(node.input).shape or "pool_size" in node.layer.config
        for node in path
    )


@rule(
    Provided(chain(linear=LINEAR, between=many(*MOVING), last=MOVING, bn=BatchNormalization), _acts)
)
def linear_moves_batchnorm(linear: Node, between: tuple[Node, ...], last: Node, bn: Node) -> Call:
    """Fold a BatchNormalization into a linear layer, past the layers in between."""
    path = (*between, last)
    check_dtype(bn, last)
    scale, shift = scale_and_shift(bn)
    axis, bn_axis = linear_axis(linear), bn.axis % len(bn.output.shape)
    channels = linear.output.shape[axis]
    if channels is None or channels % len(scale):
        raise Decline(f"{bn.name} has {len(scale)} channels, {linear.name} has others")
    # Those of the last axis change first.
    spread = np.tile if bn_axis == len(bn.output.shape) - 1 else np.repeat
    all_scale, all_shift = (spread(each, channels // len(scale)) for each in (scale, shift))
    arrived = through(path, Affine(bn.name, all_scale, all_shift, axis), linear)
    there = arrived.along(bn_axis, len(scale))
    if not np.array_equal(there, (scale, shift)):
        raise Decline(f"the channels of {linear.name} come to {bn.name} in another order")
    new = folded(linear, bn, all_scale, all_shift)
    result = called(path, new(*linear.args, **linear.kwargs))
    assert isinstance(result, Call)
    return result
