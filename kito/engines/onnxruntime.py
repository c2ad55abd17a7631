"""ONNX Runtime, on processors: the model as an ONNX file.

The file is made of a graph in which all is constant. What Keras exports has an input more for each
array that a layer keeps outside of its weights, such as the mean of a Normalization.

The engine's threads wait in a loop after a run, which makes the next run start sooner by
microseconds, and takes the processors from all else that runs meanwhile, such as reading the next
batch. That is switched off.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kito.engines.engine import Arrays, Engine, Run, Settings
from kito.engines.freezing import frozen

if TYPE_CHECKING:
    import keras

FILE = "model.onnx"
ERRORS_ONLY = 3


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime with the processor as its only provider."""

    name = "onnxruntime"
    target = "onnx"
    loads_with = ("onnxruntime",)
    saves_with = ("tf2onnx",)
    backends = ("tensorflow",)
    install = "pip install 'kito[onnxruntime]'"

    def save(self, model: keras.Model, folder: str, precision: str | None) -> None:
        """Write what tf2onnx makes of the frozen graph."""
        import tf2onnx

        graph = frozen(model)
        tf2onnx.convert.from_graph_def(
            graph.graph_def,
            input_names=graph.inputs,
            output_names=graph.outputs,
            output_path=os.path.join(folder, FILE),
        )

    def load(self, folder: str, settings: Settings) -> Run:
        """Open a session, which several threads may use."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if settings.threads is not None:
            options.intra_op_num_threads = settings.threads
        session = onnxruntime.InferenceSession(
            os.path.join(folder, FILE), options, providers=["CPUExecutionProvider"]
        )
        names = [each.name for each in session.get_inputs()]

        def run(arrays: Arrays) -> Arrays:
            if len(arrays) != len(names):
                raise ValueError(
                    f"the file has {len(names)} inputs ({', '.join(names)}), the model has "
                    f"{len(arrays)}"
                )
            return list(session.run(None, dict(zip(names, arrays, strict=True))))

        return run
