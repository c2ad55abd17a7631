"""LiteRT, with its XNNPACK delegate: the model as a `.tflite` file."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from kito.engines.engine import Arrays, Engine, Run, Settings, position

if TYPE_CHECKING:
    import keras

FILE = "model.tflite"


class LiteRTEngine(Engine):
    """LiteRT on processors."""

    name = "litert"
    target = "litert"
    loads_with = ("ai_edge_litert",)
    backends = ("tensorflow",)
    install = "pip install 'kito[litert]'"

    def save(self, model: keras.Model, folder: str, precision: str | None) -> None:
        """Write what Keras exports."""
        model.export(os.path.join(folder, FILE), format="litert", verbose=False)

    def load(self, folder: str, settings: Settings) -> Run:
        """Read the file, and give each thread an interpreter of its own."""
        from ai_edge_litert.interpreter import Interpreter

        with open(os.path.join(folder, FILE), "rb") as file:
            content = file.read()
        own = threading.local()

        def run(arrays: Arrays) -> Arrays:
            if not hasattr(own, "run"):
                number = settings.threads or os.cpu_count()
                own.interpreter = Interpreter(model_content=content, num_threads=number)
                own.run = own.interpreter.get_signature_runner()
            given = own.run.get_input_details()
            outputs: dict[str, Any] = own.run(**{name: arrays[position(name)] for name in given})
            return [outputs[name] for name in sorted(outputs, key=position)]

        return run
