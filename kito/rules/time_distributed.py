"""TimeDistributed(linear) -> BatchNormalization: one TimeDistributed linear layer.

TimeDistributed applies one layer to each step of axis 1. A BatchNormalization of the channels does
not tell the steps apart, so it may as well stand inside, wrapped or not, and there the rule of the
wrapped layer folds it:

    bn(TimeDistributed(linear)(x)) = TimeDistributed(bn(linear))(x)
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import keras
from keras.layers import BatchNormalization, TimeDistributed

from kito.definition import Chain, Decline, Layer, Node, Tensor, chain, rule
from kito.rules.conv import conv_batchnorm
from kito.rules.conv_transpose import conv_transpose_batchnorm
from kito.rules.dense import dense_batchnorm
from kito.rules.depthwise import depthwise_conv_batchnorm
from kito.rules.separable import separable_conv_batchnorm

FOLDS: dict[type[keras.Operation], Callable[..., Any]] = {
    cls: fold.function
    for fold in (
        conv_batchnorm,
        conv_transpose_batchnorm,
        dense_batchnorm,
        depthwise_conv_batchnorm,
        separable_conv_batchnorm,
    )
    for cls in cast(Chain, fold.pattern).links[fold.pattern.names[0]].classes
}


@rule(chain(linear=TimeDistributed, bn=(BatchNormalization, TimeDistributed)))
def time_distributed_batchnorm(linear: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the layer that a TimeDistributed before it wraps."""
    for each in (linear, bn):
        if each.layer.cls is TimeDistributed:
            check_casts(each)
    inner = linear.wrapped
    fold = FOLDS.get(inner.cls)
    if fold is None:
        raise Decline(f"{linear.name} wraps a {inner.cls.__name__}, which is not a linear layer")
    return linear.wrap(fold(_step(linear, inner), _step(bn, _normalization(bn))))


def check_casts(steps: Node) -> None:
    """A TimeDistributed casts what it reads. The layer inside, of which it runs the `call`, does
    not.

    Raises:
        Decline: by itself, the layer inside would compute in another dtype.
    """
    outer, inner = steps.source, steps.source.layer
    if (outer.autocast, outer.compute_dtype) != (inner.autocast, inner.compute_dtype):
        raise Decline(f"{inner.name} in {steps.name} computes in another dtype, without a cast")


def _normalization(bn: Node) -> Layer:
    """The BatchNormalization of one step: its axes are one less."""
    if bn.layer.cls is BatchNormalization:
        axis = bn.axis % len(bn.output.shape)
        if axis < 2:
            raise Decline(f"{bn.name} normalizes axis {axis}: it tells the steps apart")
        return replace(bn.layer, overrides={**bn.layer.overrides, "axis": axis - 1})
    if bn.wrapped.cls is not BatchNormalization:
        raise Decline(f"{bn.name} wraps a {bn.wrapped.cls.__name__}, not a BatchNormalization")
    return bn.wrapped


def _step(node: Node, layer: Layer) -> Node:
    """The call of a wrapped layer on one step: axis 1 is missing."""
    outputs = tuple(
        Tensor((tensor.shape[0], *tensor.shape[2:]), tensor.dtype) for tensor in node.outputs
    )
    return replace(node, layer=layer, outputs=outputs)
