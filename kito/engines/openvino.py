"""OpenVINO, on processors: the model in OpenVINO's own format."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from kito.engines.engine import Arrays, Engine, Run, position
from kito.engines.freezing import frozen

if TYPE_CHECKING:
    import keras

FILE = "model.xml"
# What it computes in by itself would be bfloat16 on processors that have it.
PRECISIONS = {None: "f32", "bfloat16": "bf16", "float16": "f16"}
TELEMETRY = "openvino_telemetry"


def package() -> Any:
    """OpenVINO without its telemetry, unless this process has imported that already.

    For each message to its makers the telemetry forks the process, whatever threads TensorFlow runs
    in it. The copies may crash or hang, and where nothing can be reached, the process waits for
    them at its end. OpenVINO takes a stand-in that does nothing where the package is missing.
    """
    known = TELEMETRY in sys.modules
    if not known:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        import openvino
    finally:
        if not known:
            del sys.modules[TELEMETRY]
    return openvino


class OpenVINOEngine(Engine):
    """OpenVINO with the processor as its device."""

    name = "openvino"
    target = "openvino"
    loads_with = ("openvino",)
    backends = ("tensorflow",)
    install = "pip install 'kito[openvino]'"
    precisions = ("bfloat16", "float16")

    def save(self, model: keras.Model, folder: str, precision: str | None) -> None:
        """Write what OpenVINO makes of the frozen graph."""
        openvino = package()
        graph = frozen(model)
        with tempfile.TemporaryDirectory() as temporary:
            # Of a file, OpenVINO reads the functions in the graph as well.
            path = os.path.join(temporary, "graph.pb")
            with open(path, "wb") as file:
                file.write(graph.graph_def.SerializeToString())
            # Without the names, an input that no output depends on would become an output.
            network = openvino.convert_model(path, output=graph.outputs)
            openvino.serialize(network, os.path.join(folder, FILE))

    def load(self, folder: str, precision: str | None, threads: int | None) -> Run:
        """Compile the model, and give each thread a request of its own."""
        openvino = package()
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        compiled = openvino.compile_model(os.path.join(folder, FILE), "CPU", settings)
        # In any order, and without those that no output depends on.
        order = [position(" ".join(each.names)) for each in compiled.inputs]
        own = threading.local()

        def run(arrays: Arrays) -> Arrays:
            if not hasattr(own, "request"):
                own.request = compiled.create_infer_request()
            results = own.request.infer([arrays[index] for index in order])
            return [results[index] for index in range(len(results))]

        return run
