"""Linear layers -> Concatenate -> BatchNormalization: each takes its part of the map in.

A BatchNormalization treats each channel by itself, and Concatenate along the axis of the channels
moves none into another:

    bn(concatenate([f(x), g(y)])) = concatenate([bn_f(f(x)), bn_g(g(y))])

where bn_f has the first entries of scale and shift, as many as f has channels, and bn_g the rest.
"""

from dataclasses import dataclass

import numpy as np
from keras.layers import BatchNormalization, Concatenate

from kito.definition import (
    Branches,
    Call,
    Chain,
    Decline,
    Graph,
    Match,
    Node,
    branches,
    chain,
    rule,
)
from kito.operations import ConcatenateOperation
from kito.rules.batchnorm import channel_axis, check_axis, check_dtype, scale_and_shift
from kito.rules.linear import LINEAR, check_tensors, folded


@dataclass(frozen=True)
class Joined:
    """Branches, and a chain that begins with the call that merges them."""

    branches: Branches
    chain: Chain

    @property
    def names(self) -> tuple[str, ...]:
        return (self.branches.names[0], *self.chain.names)

    @property
    def anchors(self) -> tuple[type, ...]:
        return self.chain.anchors

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        end = self.chain.match(graph, node)
        start = self.branches.match(graph, end.head) if end else None
        return Match({**start.captures, **end.captures}) if start and end else None

    def __str__(self) -> str:
        return f"{self.branches} -> {self.chain}"


CONCATENATE = (Concatenate, ConcatenateOperation)


@rule(
    Joined(
        branches(linears=LINEAR, concatenate=CONCATENATE, every=True),
        chain(concatenate=CONCATENATE, bn=BatchNormalization),
    )
)
def concatenate_batchnorm(linears: tuple[Node, ...], concatenate: Node, bn: Node) -> Call:
    """Fold a BatchNormalization into the linear layers whose outputs are concatenated before it."""
    check_tensors(concatenate, "joins")
    rank = len(bn.output.shape)
    axis = bn.axis % rank
    if concatenate.axis % rank != axis:
        raise Decline(
            f"{bn.name} normalizes axis {axis}, {concatenate.name} joins axis "
            f"{concatenate.axis % rank}"
        )
    for node in (concatenate, *linears):
        check_dtype(bn, node)
    for linear in linears:
        check_axis(bn, linear, channel_axis(linear))
    if len({linear.layer for linear in linears}) < len(linears):
        raise Decline(f"{concatenate.name} joins several outputs of one layer, which would differ")
    ends = np.cumsum([linear.output.shape[axis] for linear in linears])[:-1]
    parts = zip(linears, *(np.split(each, ends) for each in scale_and_shift(bn)), strict=True)
    return concatenate.layer(
        [
            folded(linear, bn, scale, shift)(*linear.args, **linear.kwargs)
            for linear, scale, shift in parts
        ],
        **concatenate.kwargs,
    )
