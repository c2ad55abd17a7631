"""Computing in 16 bits: faster, and not exact, so only where it is asked for by name.

The layers that do the work, and those between them that only pass numbers on, get a mixed policy:
their weights stay in float32, they compute in 16 bits. The model's inputs and outputs keep their
dtypes. All else stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import keras
from keras import layers

from kito.errors import InputError
from kito.graph.ir import Graph, walk
from kito.graph.layer import Layer

POLICIES: Mapping[str, str] = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}

LAYERS = (
    layers.Activation,
    layers.Add,
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
    layers.Dense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.EinsumDense,
    layers.Flatten,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.Multiply,
    layers.ReLU,
    layers.Reshape,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.UpSampling2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)


def lower(graph: Graph, precision: str) -> int:
    """Let the layers of a graph and its nested graphs compute in 16 bits, in place.

    Layers that compute in float32 only, and none that gives an output of its graph its dtype.

    Args:
        precision: "bfloat16" or "float16".

    Returns:
        The number of calls that changed.

    Raises:
        InputError: there is no such precision.
    """
    if precision not in POLICIES:
        raise InputError(f"there is no precision '{precision}'; there are {', '.join(POLICIES)}")
    graphs = [nested for _, nested in walk(graph)]
    # Of a shared layer all calls.
    kept = {layer for nested in graphs for layer in _giving_outputs(nested)}
    lowered: dict[Layer, Layer] = {}
    count = 0
    for nested in graphs:
        for node in list(nested):
            if node.layer.cls not in LAYERS or node.layer in kept or not _is_float32(node.layer):
                continue
            if any(output.dtype != "float32" for output in node.outputs):
                continue
            if node.layer not in lowered:
                lowered[node.layer] = node.layer.evolve(dtype=POLICIES[precision])
            outputs = tuple(replace(output, dtype=precision) for output in node.outputs)
            nested.put(replace(node, layer=lowered[node.layer], outputs=outputs))
            nested.rewritten = True
            count += 1
    return count


def _giving_outputs(graph: Graph) -> Iterator[Layer]:
    """The layers whose dtype the outputs have: an operation hands on that of what it reads."""
    waiting, seen = list(graph.output_ids), set()
    while waiting:
        node = graph[waiting.pop()]
        if node.id in seen:
            continue
        seen.add(node.id)
        yield node.layer
        if not issubclass(node.layer.cls, keras.Layer):
            waiting += [ref.node for ref in node.refs]


def _is_float32(layer: Layer) -> bool:
    policy = keras.dtype_policies.get(layer.config["dtype"])
    quantized = getattr(policy, "quantization_mode", None) is not None
    return policy.compute_dtype == "float32" and not quantized
