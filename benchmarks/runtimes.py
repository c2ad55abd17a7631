"""What may run a Keras model: one function each, from a model to a function of one batch.

Every runtime gets the model's own precision, float32, and as many threads as the machine has
processors. ONNX Runtime's threads must not spin after a run, for they slow down what is timed next;
OpenVINO must not fall back to bfloat16.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import keras
import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


def in_keras(model: keras.Model, batch: int) -> Run:
    """`predict_on_batch`, on the running backend."""
    return lambda pictures: np.asarray(model.predict_on_batch(pictures))


def in_onnx(model: keras.Model, batch: int) -> Run:
    """The model's ONNX export in ONNX Runtime."""
    import onnxruntime  # noqa: PLC0415 (a runtime that is not asked for need not be installed)

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.onnx"))
        model.export(path, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda pictures: session.run(None, {given.name: pictures})[0]


def in_openvino(model: keras.Model, batch: int) -> Run:
    """The model's OpenVINO export in OpenVINO, compiled for the batch size."""
    import openvino  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.xml"))
        model.export(path, format="openvino", verbose=False)
        network = openvino.Core().read_model(path)
        network.reshape([batch, *model.input_shape[1:]])
        compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pictures: np.asarray(compiled(pictures)[0])


def in_litert(model: keras.Model, batch: int) -> Run:
    """The model's LiteRT export in LiteRT, with its XNNPACK delegate."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.tflite"))
        model.export(path, format="litert", verbose=False)
        interpreter = Interpreter(path, num_threads=os.cpu_count())
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], [batch, *model.input_shape[1:]])
    interpreter.allocate_tensors()
    (made,) = interpreter.get_output_details()

    def run(pictures: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], pictures)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(made["index"]))

    return run


RUNTIMES: dict[str, Callable[[keras.Model, int], Run]] = {
    "tensorflow": in_keras,
    "jax": in_keras,
    "torch": in_keras,
    "onnx": in_onnx,
    "openvino": in_openvino,
    "litert": in_litert,
}


def check_backend(target: str) -> None:
    """Whether Keras runs on the backend that the target is.

    Raises:
        UsageError: it does not.
    """
    if RUNTIMES[target] is in_keras and keras.backend.backend() != target:
        raise click.UsageError(f"set KERAS_BACKEND={target}")
