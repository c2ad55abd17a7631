"""The ways to run a model: as it is and optimized, in all that is installed here.

As it is means what a user has without kito: Keras, TensorFlow's compiler XLA, a frozen graph, and
what Keras exports, in the engine that reads it. Optimized means what `kito.predictor` chooses from.
Engines that compute in 16 bits if nobody forbids it run both ways.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kito.discovery import engines
from kito.engines import onnxruntime, openvino
from kito.engines.engine import Engine, Settings
from kito.engines.engine import Run as ArraysRun
from kito.errors import InputError
from kito.forward import as_called
from kito.preparation import prepare
from kito.reference import Reference
from kito.selection import Fast, attempt

# From a batch in the structure that the model takes to its answers.
Run = Callable[[Any], Any]

KERAS, PREDICT, XLA = "keras", "keras predict", "xla"
# The format of an engine in `model.export`, and the file that the engine reads. LiteRT's engine
# itself writes what Keras exports.
EXPORTS = {
    "onnxruntime": ("onnx", onnxruntime.FILE),
    "openvino": ("openvino", openvino.FILE),
}
# Engines that compute in 16 bits unless somebody forbids it.
SIXTEEN_BITS = {"openvino": "bfloat16"}


@dataclass(frozen=True)
class Way:
    """A way to run a model.

    Attributes:
        name: what runs it.
        optimized: whether it runs kito's model.
        exact: whether it computes in the model's own precision.
        prepare: makes the function that runs it; raises what says why that can't be.
    """

    name: str
    optimized: bool
    exact: bool
    prepare: Callable[[], Run]


class AsExported(Engine):
    """An engine that gets what Keras itself exports for it."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.engine = engine

    def save(self, model: keras.Model, folder: str, precision: str | None) -> None:
        """Write what `model.export` writes."""
        kind, file = EXPORTS[self.name]
        model.export(os.path.join(folder, file), format=kind, verbose=False)

    def load(self, folder: str, settings: Settings) -> ArraysRun:
        """As the engine does."""
        return self.engine.load(folder, settings)


def ways(model: keras.Model, fast: Fast, reference: Reference) -> list[Way]:
    """All ways that the installed packages allow.

    Args:
        reference: what the answers of kito's model in an engine are checked with.
    """
    called = as_called(model)
    found = [
        Way(KERAS, False, True, lambda: called.predict_on_batch),
        Way(PREDICT, False, True, lambda: partial(called.predict, verbose=0)),
    ]
    if keras.backend.backend() == "tensorflow":
        found.append(Way(XLA, False, True, partial(compiled, model)))
    for name, registered in engines().items():
        engine = registered.engine
        if engine.lacks_to_save():
            continue
        source = AsExported(engine) if name in EXPORTS else engine
        if name != KERAS:
            found.append(Way(name, False, True, partial(prepare, model, source, Settings())))
        found.append(Way(name, True, True, partial(checked, fast, engine, reference)))
        if bits := SIXTEEN_BITS.get(name):
            label = f"{name} {bits}"
            found += [
                Way(label, False, False, partial(prepare, model, source, Settings(bits))),
                Way(label, True, False, partial(_coarse, fast, engine, bits)),
            ]
    return found


def checked(fast: Fast, engine: Engine, reference: Reference) -> Run:
    """The optimized model in an engine.

    Raises:
        InputError: the engine can't take it, or answers otherwise than the model.
    """
    tried = attempt(fast, engine, reference, Settings())
    if tried.predictor is None:
        raise InputError(str(tried.candidate.reason))
    return tried.predictor


def _coarse(fast: Fast, engine: Engine, precision: str) -> Run:
    return prepare(fast(engine.target, None), engine, Settings(precision))


def compiled(model: keras.Model) -> Run:
    """The model compiled by XLA, once for each shape."""
    import tensorflow as tf  # noqa: PLC0415 (Keras may run on another backend)

    function = tf.function(lambda inputs: model(inputs, training=False), jit_compile=True)

    def run(inputs: Any) -> Any:
        tensors = keras.tree.map_structure(tf.convert_to_tensor, inputs)
        return keras.tree.map_structure(lambda each: each.numpy(), function(tensors))

    return run
