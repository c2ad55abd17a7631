"""OpenVINO, on processors: the model in OpenVINO's own format."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from kito.engines.engine import Arrays, Engine, Run, Settings, position
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

    def load(self, folder: str, settings: Settings) -> Run:
        """Compile the model for the shapes that matter, and for all others when they come.

        Where it knows the shapes, OpenVINO finds faster ways: up to 1.15 times for ConvNeXtTiny.
        """
        openvino = package()
        core = openvino.Core()
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[settings.precision]}
        if settings.threads is not None:
            options["INFERENCE_NUM_THREADS"] = settings.threads

        network = core.read_model(os.path.join(folder, FILE))
        # In any order, and without those that no output depends on.
        order = [position(" ".join(each.names)) for each in network.inputs]

        @cache
        def of_any_shape() -> Run:
            return _in_threads(core.compile_model(network, "CPU", options), order)

        if not settings.shapes:
            return of_any_shape()
        fixed = network.clone()
        shapes = [settings.shapes[index] for index in order]
        try:
            fixed.reshape(dict(zip(fixed.inputs, shapes, strict=True)))
        except RuntimeError:  # what it infers of these shapes contradicts what the model says
            return of_any_shape()
        of_these_shapes = _in_threads(core.compile_model(fixed, "CPU", options), order)

        def run(arrays: Arrays) -> Arrays:
            if tuple(array.shape for array in arrays) == settings.shapes:
                return of_these_shapes(arrays)
            return of_any_shape()(arrays)

        return run


def _in_threads(compiled: Any, order: list[int]) -> Run:
    """A compiled model as a function, with a request for each thread."""
    own = threading.local()

    def run(arrays: Arrays) -> Arrays:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        results = own.request.infer([arrays[index] for index in order])
        return [results[index] for index in range(len(results))]

    return run
