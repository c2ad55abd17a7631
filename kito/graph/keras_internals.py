"""All that kito needs of Keras and Keras does not export. Nothing else touches private names."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional as Functional


def is_graph_model(model: keras.Model) -> bool:
    """Whether running the model is running its graph: built, and `call` not overridden."""
    if isinstance(model, keras.Sequential):
        return type(model).call is keras.Sequential.call and model._functional is not None
    return isinstance(model, Functional) and type(model).call is Functional.call


def structures(model: keras.Model) -> tuple[Any, Any]:
    """The model's inputs and outputs, nested as it takes and returns them, as KerasTensors."""
    functional = _functional(model)
    return functional.input, functional.output


def _functional(model: keras.Model) -> Any:
    return model._functional if isinstance(model, keras.Sequential) else model


def calls_in_order(model: keras.Model) -> list[Any]:
    """The calls that a model makes (keras.src.ops.node.Node), inputs first."""
    by_depth = _functional(model)._nodes_by_depth
    return [call for depth in sorted(by_depth, reverse=True) for call in by_depth[depth]]


def shell(operation: keras.Operation) -> keras.Operation:
    """A second handle on an operation: same variables and state, no record of any call.

    Calling the handle leaves no trace in the model that the operation came from.
    """
    handle = copy.copy(operation)
    vars(handle)["_inbound_nodes"] = []
    vars(handle)["_outbound_nodes"] = []
    return handle


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layer and all layers inside it, in the order in which Keras tracks them."""
    return list(layer._flatten_layers())


@contextlib.contextmanager
def no_initializers(layers: Iterable[keras.Operation]) -> Iterator[None]:
    """Let layers be built without drawing the random numbers that are overwritten next.

    On large models the initializers are most of the time that building takes.
    """
    zeros = keras.initializers.Zeros()
    replaced: list[tuple[keras.Layer, str, Any]] = []
    for layer in layers:
        if not isinstance(layer, keras.Layer):
            continue
        for part in sublayers(layer):
            for name, value in vars(part).items():
                if isinstance(value, keras.initializers.Initializer):
                    replaced.append((part, name, value))
    for part, name, _ in replaced:
        vars(part)[name] = zeros  # not setattr: the layer need not notice
    try:
        yield
    finally:
        for part, name, value in replaced:
            vars(part)[name] = value
