"""Two calls that compute the same of the same tensors: one call.

Two calls give equal tensors if they have equal arguments, and their layers have one class, equal
configurations and equal weights, and no state besides. So one of them is enough (common
subexpression elimination).

Of equal calls the one stays that gives an output of the model its name, or else the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from kito.definition import Graph, Layer, Match, Node, Ref, rule
from kito.operations import DETERMINISTIC_OPERATIONS

# Layers of Keras' own that compute, at inference, a function of their arguments and their weights.
DETERMINISTIC_LAYERS: tuple[type[keras.Layer], ...] = (
    layers.Activation,
    layers.Add,
    layers.Average,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.BatchNormalization,
    layers.Concatenate,
    layers.Conv1D,
    layers.Conv1DTranspose,
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.Conv3D,
    layers.Conv3DTranspose,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Dense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.ELU,
    layers.EinsumDense,
    layers.Embedding,
    layers.Flatten,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.LeakyReLU,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.PReLU,
    layers.Permute,
    layers.RMSNormalization,
    layers.ReLU,
    layers.RepeatVector,
    layers.Rescaling,
    layers.Reshape,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.Softmax,
    layers.Subtract,
    layers.UnitNormalization,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)


@dataclass(frozen=True)
class Duplicate:
    """A call, and another one that computes the same and stays."""

    names: tuple[str, ...] = ("kept", "duplicate")
    anchors: tuple[type[keras.Operation], ...] = (*DETERMINISTIC_LAYERS, *DETERMINISTIC_OPERATIONS)

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match whose duplicate is `node`, or None."""
        if not node.refs or len(node.outputs) > 1:
            return None

        def order(call: Node) -> tuple[bool, int]:
            # Calls that read the same can be made in any order: that of their numbers.
            return call.id not in graph.output_ids, call.id

        for kept in sorted(graph.alike(node), key=order):
            if order(kept) >= order(node):
                return None
            if _same_call(kept, node):
                return Match({"kept": kept, "duplicate": node}, context=frozenset({"kept"}))
        return None

    def __str__(self) -> str:
        return "a call -> the same call"


@rule(Duplicate(), opens=False)
def duplicates(kept: Node, duplicate: Node) -> Ref:
    """Use the result of one call for all calls that compute the same."""
    return Ref(kept.id)


def _same_call(one: Node, other: Node) -> bool:
    return (
        one.layer.cls is other.layer.cls
        and _same_arguments((one.args, one.kwargs), (other.args, other.kwargs))
        and (one.layer is other.layer or _same_layer(one.layer, other.layer))
    )


def _same_arguments(one: Any, other: Any) -> bool:
    leaves = keras.tree.flatten(one), keras.tree.flatten(other)
    return (
        # What is not a tensor or a constant, such as the names in `kwargs`, is structure.
        repr(keras.tree.map_structure(lambda leaf: None, one))
        == repr(keras.tree.map_structure(lambda leaf: None, other))
        and all(map(_same_leaf, *leaves))
    )


def _same_leaf(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    # Of other types it is not known what their `repr` says.
    plain = (Ref, bool, int, float, str, slice, type(None), type(...))
    return isinstance(one, plain) and repr(one) == repr(other)


def _same_layer(one: Layer, other: Layer) -> bool:
    sources = one.source, other.source
    return (
        # A configuration has the name of an activation only, which two functions may share.
        len({getattr(source, "activation", None) for source in sources}) == 1
        # A user may put a function in the place of the class's `call`.
        and not any("call" in vars(source) for source in sources if source is not None)
        and _same_config(one, other)
        and _same_weights(one, other)
    )


def _same_config(one: Layer, other: Layer) -> bool:
    try:
        return bool(one.behaviour == other.behaviour)
    except (NotImplementedError, ValueError):
        return False  # an operation that can't say what it is, or arrays


def _same_weights(one: Layer, other: Layer) -> bool:
    # In their order: a weight that a layer gives no name has another one in each layer.
    pairs = zip(one.weights.values(), other.weights.values(), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
