"""The built-in engines: one file each, registered through the hook that plugins use.

None of these files imports the package of its engine, or Keras, before it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from kito.engines import jax, keras, litert, onnxruntime, openvino, tensorflow, torch
from kito.engines.engine import Engine
from kito.hookspecs import hookimpl


@hookimpl
def register_engines() -> Sequence[Engine]:
    """Every engine that kito brings."""
    return [
        jax.JaxEngine(),
        keras.KerasEngine(),
        litert.LiteRTEngine(),
        onnxruntime.OnnxRuntimeEngine(),
        openvino.OpenVINOEngine(),
        tensorflow.TensorFlowEngine(),
        torch.TorchEngine(),
    ]
