"""LayerNormalization -> attention: the LayerNormalization without its scale and shift.

MultiHeadAttention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) and GroupQueryAttention
(Ainslie et al. 2023, https://arxiv.org/abs/2305.13245) begin with a projection of each tensor that
they read. These are linear, so they take the scale and the shift in:

    projection(normalized * gamma + beta) = normalized @ (gamma * kernel) + (beta @ kernel + bias)

with the kernel (channels, heads, size of a head) and the bias (heads, size of a head). The query
has a second projection if the layer has a gate. What else the layer reads, such as a mask, or keys
and values of another tensor, stays.

Why this is faster stands in `layer_normalization.py`. In Keras on TensorFlow the gain is lost
beside the attention: there it took as long with the rule as without.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import keras
import numpy as np
from keras.layers import GroupQueryAttention, LayerNormalization, MultiHeadAttention

from kito.definition import Call, Decline, Graph, Layer, Match, Node, Ref, rule
from kito.rules.affine import Affine, check_shift
from kito.rules.affine_linear import READERS, absorbed
from kito.rules.batchnorm import check_range, scaled
from kito.rules.einsum_dense import is_misread
from kito.rules.layer_normalization import affine_of, has_weights, without_weights

ATTENTIONS = (MultiHeadAttention, GroupQueryAttention)
# The layers inside that read each argument.
PROJECTIONS = {"query": ("query", "gate"), "key": ("key",), "value": ("value",)}


@dataclass(frozen=True)
class Attended:
    """A LayerNormalization, and what reads it: attentions, and maybe linear layers."""

    names = ("norm", "readers")
    anchors = ATTENTIONS

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match of which `node` is the last attention, or None."""
        for norm in (graph.producer(ref) for ref in dict.fromkeys(node.refs)):
            if norm.layer.cls is not LayerNormalization or not has_weights(norm):
                continue
            readers = graph.readers(norm.id)
            found = tuple(each for each in readers if each.layer.cls in (*ATTENTIONS, *READERS))
            if [each for each in found if each.layer.cls in ATTENTIONS][-1] is node:
                return Match({"norm": norm, "readers": found}, ends="readers")
        return None

    def __str__(self) -> str:
        names = " | ".join(cls.__name__ for cls in ATTENTIONS)
        return f"LayerNormalization -> [{names}, ...]"


@rule(Attended(), default=["onnx", "litert"], opens=False)
def layer_normalization_attention(norm: Node, readers: tuple[Node, ...]) -> list[Call]:
    """Move the scale and shift of a LayerNormalization into the attentions after it."""
    affine = affine_of(norm)
    linear = tuple(each for each in readers if each.layer.cls in READERS)
    folded = dict(zip(linear, absorbed(linear, norm, affine, norm.output), strict=True))
    attentions: dict[Layer, list[Node]] = {}
    for each in readers:
        if each.layer.cls in ATTENTIONS:
            attentions.setdefault(each.layer, []).append(each)
    for calls in attentions.values():
        if len({_read_as(each, norm) for each in calls}) > 1:
            raise Decline(f"{calls[0].name} reads {norm.name} as another argument in each call")
        folded |= dict.fromkeys(calls, _absorbed(calls[0], norm, affine))
    normalized = without_weights(norm)(norm.input)

    def called(node: Node) -> Call:
        args, kwargs = keras.tree.map_structure(
            lambda leaf: normalized if _is_output(leaf, norm) else leaf, (node.args, node.kwargs)
        )
        return folded[node](*args, **kwargs)

    return [called(each) for each in readers]


def _is_output(leaf: object, norm: Node) -> bool:
    return isinstance(leaf, Ref) and leaf.node == norm.id


def _read_as(attention: Node, norm: Node) -> frozenset[str]:
    """The arguments of an attention that are the normalized tensor.

    Raises:
        Decline: one of them is not projected.
    """
    call = inspect.signature(attention.layer.cls.call)
    given = call.bind(None, *attention.args, **attention.kwargs).arguments
    if given.get("key") is None:
        given["key"] = given["value"]
    names = frozenset(name for name, value in given.items() if _is_output(value, norm))
    if other := sorted(names - PROJECTIONS.keys()):
        raise Decline(f"{attention.name} reads {norm.name} as its {other[0]}")
    return names


def _absorbed(attention: Node, norm: Node, affine: Affine) -> Layer:
    """The attention that does to `x` what the given one does to `scale * x + shift`.

    Raises:
        Decline: it changes the dtype, or can't have such a bias or kernel.
    """
    if attention.output.dtype != norm.output.dtype:
        raise Decline(f"{attention.name} turns {norm.output.dtype} into {attention.output.dtype}")
    check_range(norm, attention, affine.scale)
    check_shift(affine, attention.output.dtype)
    weights = attention.weights
    if any("lora_kernel" in name for name in weights):
        raise Decline(f"the projections of {attention.name} have LoRA")
    changes = {}
    for argument in sorted(_read_as(attention, norm)):
        for projection in PROJECTIONS[argument]:
            kernel = weights.get(f"{projection}/kernel")
            if kernel is None:
                continue  # it has no gate
            changes[f"{projection}/kernel"] = scaled(kernel, affine.scale[:, None, None])
            if not affine.shift.any():
                continue
            bias = weights.get(f"{projection}/bias")
            if bias is None:
                raise Decline(f"{attention.name} has no bias, and {norm.name} shifts")
            if is_misread(bias.shape, (*norm.output.shape[:-1], *bias.shape)):
                raise Decline(
                    f"the heads of {attention.name} have size 1, and Keras on TensorFlow could "
                    "add their bias to positions instead"
                )
            added = np.tensordot(affine.shift, kernel.astype(np.float64), 1)
            changes[f"{projection}/bias"] = bias + added
    return attention.evolve(**changes)
