"""A model in an engine: saved by it, and loaded from there."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from shutil import copytree, rmtree
from typing import Any

import keras

from kito.choice import Choice
from kito.engines.engine import Engine, Settings
from kito.graph.keras_internals import mark_called, structures
from kito.prediction import Predictor
from kito.signature import Signature, Tensor


def signature_of(model: keras.Model) -> Signature:
    """What the model takes and returns."""
    inputs, outputs = structures(model)
    names = getattr(model, "output_names", None) or []
    given, made = keras.tree.flatten(inputs), keras.tree.flatten(outputs)
    return Signature(
        tuple(_tensor(each, each.name) for each in given),
        tuple(
            _tensor(each, names[index] if index < len(names) else f"output {index}")
            for index, each in enumerate(made)
        ),
        keras.tree.pack_sequence_as(inputs, range(len(given))),
        keras.tree.pack_sequence_as(outputs, range(len(made))),
    )


def converted(model: keras.Model, inputs: Any) -> Any:
    """The inputs as arrays of the model's dtypes, in its structure.

    Raises:
        InputError: they do not fit the model.
    """
    return keras.tree.pack_sequence_as(structures(model)[0], signature_of(model).flatten(inputs))


def _tensor(tensor: keras.KerasTensor, name: str) -> Tensor:
    return Tensor(name, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))


def prepare(model: keras.Model, engine: Engine, settings: Settings) -> Predictor:
    """The model as it is in an engine, as it would be after `save` and `kito.load_predictor`.

    Args:
        model: computes in the precision of the settings, if that is none of the engine's own.

    Raises:
        Exception: whatever says why the engine can't take the model.
    """
    signature = signature_of(model)
    flat = _flat(model, signature)
    folder = tempfile.mkdtemp(prefix="kito-")
    try:
        with _quiet():
            run = engine.open(flat, folder, settings)
    except BaseException:
        rmtree(folder, ignore_errors=True)
        raise
    write: Callable[[str], object] = partial(copytree, folder)
    if engine.holds_model:
        write = partial(_save, engine, flat, settings.precision)
    choice = Choice(engine.name)
    predictor = Predictor(run, engine.name, settings.precision, signature, choice, write)
    weakref.finalize(predictor, rmtree, folder, ignore_errors=True)
    return predictor


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what exporters warn of, and log: it concerns what they do themselves."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow", "tf2onnx")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _save(engine: Engine, model: keras.Model, precision: str | None, folder: str) -> None:
    os.mkdir(folder)
    engine.save(model, folder, precision)


def _flat(model: keras.Model, signature: Signature) -> keras.Model:
    """The model with lists for its structures: engines know no others."""
    inputs: list[Any] = [
        keras.Input(batch_shape=each.shape, dtype=each.dtype, name=f"input_{index}")
        for index, each in enumerate(signature.inputs)
    ]
    outputs = model(keras.tree.pack_sequence_as(structures(model)[0], inputs))
    flat = keras.Model(inputs, keras.tree.flatten(outputs))
    mark_called(flat)
    return flat
