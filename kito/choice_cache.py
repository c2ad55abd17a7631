"""Choices of engines in a file, for the same kind of model, shapes and machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import keras

from kito.choice import Choice
from kito.discovery import engines
from kito.errors import InputError
from kito.graph.keras_internals import calls_in_order, sublayers
from kito.outline import LEFT_OUT
from kito.writing import FilePath, whole_file


def key_of(model: keras.Model, shapes: Sequence[Any], options: Sequence[Any]) -> str:
    """What a choice depends on, as one short text: all but names and the values of weights.

    Args:
        shapes: of the inputs that are timed.
        options: what else was asked for.
    """
    calls = [
        (type(each.operation).__name__, [(tuple(out.shape), out.dtype) for out in each.outputs])
        for each in calls_in_order(model)
    ]
    inner = [
        (type(each).__name__, each.compute_dtype, [tuple(one.shape) for one in each.weights])
        for each in sublayers(model)
    ]
    configs = [_config(each) for each in sublayers(model) if not isinstance(each, keras.Model)]
    parts = [calls, inner, configs, shapes, options, _machine(), _versions()]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def _config(layer: keras.Layer) -> Any:
    try:
        return _nameless(layer.get_config())
    except NotImplementedError:  # a layer of one's own that can't be saved
        return None


def _nameless(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _nameless(value) for key, value in config.items() if not key.endswith(LEFT_OUT)
        }
    return [_nameless(each) for each in config] if isinstance(config, list | tuple) else config


def look_up(path: FilePath, key: str) -> Choice | None:
    """The choice that is kept under a key.

    Raises:
        InputError: the file is no such cache.
    """
    written = _read(path).get(key)
    return None if written is None else Choice.from_dict(written)


def keep(path: FilePath, key: str, choice: Choice) -> None:
    """Add a choice to the file, or replace it there.

    Raises:
        InputError: the file is no such cache, or can't be written.
    """
    content = _read(path) | {key: choice.to_dict()}
    with whole_file(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)


def _read(path: FilePath) -> dict[str, Any]:
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if isinstance(content, dict):
            return content
    except (OSError, ValueError):
        pass
    raise InputError(f"'{os.fspath(path)}' is no cache of engines. Remove it, or name another.")


def _machine() -> tuple[str, str, int | None]:
    return platform.machine(), _processor(), os.cpu_count()


def _processor() -> str:
    """The model of the processor, which the standard library does not know on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line.partition(":") for line in file]
    except OSError:
        return platform.processor()
    return next((value.strip() for name, _, value in lines if name.strip() == "model name"), "")


def _versions() -> list[tuple[str, str]]:
    """Of all packages that decide about times."""
    modules = {"kito", "keras"}
    modules |= {each for known in engines().values() for each in known.engine.loads_with}
    distributions = metadata.packages_distributions()
    names = sorted({name for module in modules for name in distributions.get(module, ())})
    return [(name, metadata.version(name)) for name in names]
