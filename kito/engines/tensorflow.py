"""TensorFlow: the model as a graph in which the weights are constants.

TensorFlow folds what depends on weights alone, and lays them out for the processor once. Of the
ways in which Python can run a graph, a session's callable costs least: it takes and gives arrays.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from kito.engines.engine import Engine, Run, Settings
from kito.engines.freezing import frozen

if TYPE_CHECKING:
    import keras

GRAPH, NAMES = "graph.pb", "names.json"


class TensorFlowEngine(Engine):
    """A frozen graph in TensorFlow."""

    name = "tensorflow"
    target = "tensorflow"
    loads_with = ("tensorflow",)
    backends = ("tensorflow",)

    def save(self, model: keras.Model, folder: str, precision: str | None) -> None:
        """Write the graph, and the names of its inputs and outputs."""
        graph = frozen(model)
        with open(os.path.join(folder, GRAPH), "wb") as file:
            file.write(graph.graph_def.SerializeToString())
        with open(os.path.join(folder, NAMES), "w", encoding="utf-8") as file:
            json.dump([graph.inputs, graph.outputs], file)

    def load(self, folder: str, settings: Settings) -> Run:
        """Import the graph into a session of its own."""
        import tensorflow as tf

        graph_def = tf.compat.v1.GraphDef()
        with open(os.path.join(folder, GRAPH), "rb") as file:
            graph_def.ParseFromString(file.read())
        with open(os.path.join(folder, NAMES), encoding="utf-8") as file:
            inputs, outputs = json.load(file)
        config = tf.compat.v1.ConfigProto()
        if settings.threads is not None:
            config.intra_op_parallelism_threads = settings.threads
            config.inter_op_parallelism_threads = settings.threads
            config.use_per_session_threads = True
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(graph_def, name="")
        call = tf.compat.v1.Session(graph=graph, config=config).make_callable(outputs, inputs)
        return lambda arrays: list(call(*arrays))
