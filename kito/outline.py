"""A model in a few lines that read like the program that builds it."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kito.graph.keras_internals import calls_in_order
from kito.graph.layer import TRAINING_ONLY

# What says nothing about the answers of a layer whose weights are given.
LEFT_OUT = ("name", "trainable", "seed", *TRAINING_ONLY, "_initializer")


def outline(model: keras.Model) -> tuple[str, ...]:
    """The calls of a model in their order, a line each.

    Arguments that are Keras' defaults are left out, and so is the dtype policy if it is the one in
    force.
    """
    names: dict[int, str] = {}
    lines = []
    for call in calls_in_order(model):
        operation = call.operation
        for index, tensor in enumerate(call.outputs):
            names[id(tensor)] = operation.name + (f"[{index}]" if index else "")
        if isinstance(operation, keras.layers.InputLayer):
            [tensor] = call.outputs
            lines.append(f"{operation.name} = Input{tensor.shape} {tensor.dtype}")
            continue
        made = _layer(operation) if isinstance(operation, keras.Layer) else _operation(operation)
        args = [_argument(value, names) for value in call.arguments.args]
        args += [
            f"{name}={_argument(value, names)}"
            for name, value in call.arguments.kwargs.items()
            if value is not None and not isinstance(value, dict)
        ]
        lines.append(f"{operation.name} = {made}({', '.join(args)})")
    return (*lines, f"outputs: {', '.join(names[id(tensor)] for tensor in model.outputs)}")


def _operation(operation: keras.Operation) -> str:
    return f"ops.{type(operation).__name__}"


def _layer(layer: keras.Layer) -> str:
    shown = [f"{name}={_value(value)}" for name, value in _arguments(layer).items()]
    return f"{type(layer).__name__}({', '.join(shown)})"


def _arguments(layer: keras.Layer) -> dict[str, Any]:
    """The arguments of a layer that are not the defaults of its class."""
    config = layer.get_config()
    parameters = inspect.signature(type(layer).__init__).parameters
    required = {
        name: config[name]
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name in config
    }
    config = {name: value for name, value in config.items() if not name.endswith(LEFT_OUT)}
    shown = _unusual(config, required, _usual_config(type(layer), required))
    # What is usual may depend on the rest: the strides of a pooling are the size of its window.
    return _unusual(config, shown, _usual_config(type(layer), shown) or config)


def _unusual(
    config: dict[str, Any], shown: dict[str, Any], usual: dict[str, Any]
) -> dict[str, Any]:
    """The entries that are shown already, and those that are not usual."""
    return {
        name: value
        for name, value in config.items()
        if name in shown or name not in usual or usual[name] != value
    }


def _usual_config(cls: Any, required: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a layer that is given no more than it asks for; nothing if that is not
    known.
    """
    builds: tuple[Callable[[], Any], ...] = (
        lambda: cls(**required),
        lambda: cls.from_config(copy.deepcopy(required)),
    )
    for build in builds:
        with contextlib.suppress(Exception):
            usual: dict[str, Any] = build().get_config()
            return usual
    return {}


def _value(value: Any) -> str:
    described = isinstance(value, dict) and "class_name" in value
    if described and value["class_name"] == "DTypePolicy":
        return repr(value["config"]["name"])
    if described and "dtype" in value["config"]:
        return _layer(keras.saving.deserialize_keras_object(value))
    return _plain(value)


def _argument(value: Any, names: dict[int, str]) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_argument(each, names) for each in value)}]"
    return names.get(id(value)) or _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array{value.shape}"
    return repr(value)
