"""What Keras says of a layer that no model has called yet."""

from __future__ import annotations

from typing import Any

import keras

from kito.graph.ir import Graph, Ref, Tensor
from kito.graph.keras_internals import shell
from kito.graph.layer import Layer


def supports_masking(layer: Layer) -> bool:
    """Whether a layer hands the mask of its tensor on."""
    return bool(getattr(operation_of(layer), "supports_masking", False))


def operation_of(layer: Layer) -> keras.Operation:
    """A layer, without weights if a rule made it, that no model has called."""
    return layer.cls.from_config(dict(layer.config)) if layer.is_new else shell(layer.source)


def placeholder(tensor: Tensor) -> keras.KerasTensor:
    """A symbolic tensor of the shape and dtype."""
    return keras.KerasTensor(tensor.shape, tensor.dtype)


def infer_outputs(graph: Graph, layer: Layer, args: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """What a layer that no model has called yet would return, as Keras infers it."""
    operation = operation_of(layer)
    autocast = isinstance(operation, keras.Layer) and operation.autocast

    def cast(tensor: Tensor) -> keras.KerasTensor:
        floating = keras.backend.is_float_dtype(tensor.dtype)
        dtype = operation.input_dtype if autocast and floating else tensor.dtype
        return keras.KerasTensor(tensor.shape, dtype)

    given = [
        graph.tensor(leaf) for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Ref)
    ]
    args, kwargs = keras.tree.map_structure(
        lambda leaf: cast(graph.tensor(leaf)) if isinstance(leaf, Ref) else leaf, (args, kwargs)
    )
    passes = getattr(operation, "supports_masking", False)  # operations of keras.ops do not
    masked = passes and any(tensor.masked for tensor in given)
    # What Keras records besides is not for every class: mask=None, training=False.
    kwargs = {name: value for name, value in kwargs.items() if value not in (None, False)}
    outputs = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
    return tuple(Tensor(tuple(output.shape), str(output.dtype), masked) for output in outputs)
