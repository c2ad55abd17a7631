"""Why a layer stays that one would expect to go, where no rule even matched.

A rule that matches and declines says why. Of a normalization behind an addition no rule says
anything, so what stands around it is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import keras
from keras import layers

from kito.graph.ir import Graph, Node
from kito.graph.keras_internals import is_users, sublayers
from kito.report import Declined

# What one would expect to be taken away or replaced, and the rule that would most likely do it.
NEAREST = {
    layers.BatchNormalization: "conv_batchnorm",
    layers.Conv1D: "grouped_depthwise",
    layers.Conv2D: "grouped_depthwise",
    layers.Conv3D: "grouped_blocks",
    layers.GroupNormalization: "conv_batchnorm",
    layers.LayerNormalization: "layer_normalization_dense",
    layers.Normalization: "affine_linear",
    layers.Rescaling: "affine_linear",
    layers.RMSNormalization: "conv_batchnorm",
    layers.SpectralNormalization: "spectral_normalization",
    layers.UnitNormalization: "conv_batchnorm",
    layers.ZeroPadding1D: "padding_conv",
    layers.ZeroPadding2D: "padding_conv",
    layers.ZeroPadding3D: "padding_conv",
}
# Those that are worth a word wherever they stay.
EXPECTED_TO_GO = NEAREST.keys() - {layers.Conv1D, layers.Conv2D, layers.Conv3D}
# Those whose scale depends on what they read.
BY_INPUT = (layers.GroupNormalization, layers.RMSNormalization, layers.UnitNormalization)


def unexplained(
    graph: Graph, path: tuple[str, ...], rules: Collection[str], explained: Collection[str]
) -> Iterator[Declined]:
    """An entry for each layer of a rewritten graph that stays without a word of a rule.

    Args:
        rules: the names of those that were used.
        explained: the names of the layers of which a rule said why it declined.
    """
    for node in graph:
        yield from _held(node, path, rules)
        cls = node.layer.cls
        base = next((each for each in cls.__mro__ if each in NEAREST), None)
        rule = NEAREST.get(base)
        if rule is None or rule not in rules or node.layer.name in explained:
            continue
        if base is not cls:
            if base in EXPECTED_TO_GO:
                reason = f"{_called(node)} may compute something else"
                yield Declined(rule, (node.layer.name,), path, reason)
        elif _would_go(node):
            reason = _by_input(node) if node.layer.cls in BY_INPUT else _surroundings(graph, node)
            yield Declined(rule, (node.layer.name,), path, reason)


def _held(node: Node, path: tuple[str, ...], rules: Collection[str]) -> Iterator[Declined]:
    """An entry for each BatchNormalization inside one of Keras' own layers, such as in the cell of
    an RNN. Of layers that people write, a note says why they are kept whole.
    """
    source, rule = node.layer.source, NEAREST[layers.BatchNormalization]
    own = isinstance(source, keras.Layer) and not is_users(type(source))
    if rule not in rules or not own or node.layer.graph is not None:
        return
    for part in sublayers(source)[1:]:
        if isinstance(part, layers.BatchNormalization):
            reason = f"{part.name} stands inside {_called(node)}, into which no rule looks"
            yield Declined(rule, (f"{node.layer.name}/{part.name}",), path, reason)


def _would_go(node: Node) -> bool:
    cls, config = node.layer.cls, node.layer.config
    if cls in (layers.Conv1D, layers.Conv2D, layers.Conv3D):
        return bool(config["groups"] > 1)
    return cls is not layers.LayerNormalization or bool(config["scale"] or config["center"])


def _by_input(node: Node) -> str:
    return (
        f"{node.layer.name} ({node.layer.cls.__name__}) divides by a statistic of each input, so "
        "it is no constant scale and shift that another layer could take in"
    )


def _surroundings(graph: Graph, node: Node) -> str:
    before = ", ".join(_called(graph.producer(ref)) for ref in dict.fromkeys(node.refs))
    readers = {reader.id: reader for reader in graph.consumers(node.id)}
    behind = [_called(reader) for reader in readers.values()]
    if node.id in graph.output_ids:
        behind.append("an output")
    return (
        f"{node.layer.name} follows {before} and feeds {', '.join(behind)}: no rule matches there"
    )


def _called(node: Node) -> str:
    cls = node.layer.cls if node.layer.is_new else type(node.layer.source)
    bases = (each for each in cls.__mro__[1:] if each.__module__.startswith("keras.src.layers."))
    base = next(bases, keras.Layer)
    of_a_user = is_users(cls) and base is not keras.Layer
    kind = f"{cls.__name__}, a subclass of {base.__name__}" if of_a_user else cls.__name__
    return f"{node.layer.name} ({kind})"
