"""keras.Model -> Graph.

A Functional model is already a graph of calls; this module copies that graph out of Keras, with
Refs where Keras has KerasTensors. Layers and nested models that are called more than once are
lifted once, so that sharing survives.
"""

from __future__ import annotations

from typing import Any

import keras

from kito.errors import InputError
from kito.graph.ir import Graph, Layer, Node, Ref, Tensor
from kito.graph.keras_internals import Functional, calls_in_order, is_graph_model, structures


def lift(model: keras.Model) -> Graph:
    """Copy the structure of a model out of Keras; weights are not read.

    Raises:
        InputError: the object is not a Keras 3 model, or it is not built.
    """
    check_model(model)
    return _Lifter().graph(model)


def check_model(model: object) -> None:
    """Refuse what can't be optimized, with the reason and the remedy.

    Raises:
        InputError: the object is not a Keras 3 model, or it is not built.
    """
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        if type(model).__module__.startswith(("tf_keras", "tensorflow.python.keras")) or any(
            base.__module__.startswith("tf_keras") for base in type(model).__mro__
        ):
            raise InputError(
                f"this is a tf_keras (Keras 2) model ({kind}). Save it as `.h5`, load that file "
                "with Keras 3 (`keras.saving.load_model`), and optimize the result."
            )
        raise InputError(f"expected a keras.Model, got {kind}")
    if not model.built:
        raise InputError(
            f"the model '{model.name}' is not built: its input shapes are not known. Give it an "
            "`Input`, call `model.build(input_shape)`, or call it once on data."
        )
    if not is_graph_model(model):
        raise InputError(
            f"the model '{model.name}' is a subclassed model ({type(model).__qualname__}): it has "
            "no graph of layers. Rebuild it with the functional API."
        )


class _Lifter:
    """Remembers what was lifted, so that a shared layer stays one layer."""

    def __init__(self) -> None:
        self._layers: dict[int, Layer] = {}

    def graph(self, model: keras.Model) -> Graph:
        graph = Graph(
            model.name,
            sequential=isinstance(model, keras.Sequential),
            trainable=model.trainable,
        )
        refs: dict[int, Ref] = {}

        def to_ref(leaf: Any) -> Any:
            return refs[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

        for call in calls_in_order(model):
            node_id = graph.new_id()
            for index, tensor in enumerate(call.outputs):
                refs[id(tensor)] = Ref(node_id, index)
            graph.put(
                Node(
                    id=node_id,
                    layer=self.layer(call.operation),
                    args=keras.tree.map_structure(to_ref, tuple(call.arguments.args)),
                    kwargs=keras.tree.map_structure(to_ref, dict(call.arguments.kwargs)),
                    outputs=tuple(_tensor(tensor) for tensor in call.outputs),
                )
            )
        inputs, outputs = structures(model)
        graph.inputs = keras.tree.map_structure(to_ref, inputs)
        graph.outputs = keras.tree.map_structure(to_ref, outputs)
        graph.verify()
        return graph

    def layer(self, operation: keras.Operation) -> Layer:
        if id(operation) not in self._layers:
            nested = isinstance(operation, Functional | keras.Sequential)
            self._layers[id(operation)] = Layer(
                cls=type(operation),
                name=operation.name,
                source=operation,
                graph=self.graph(operation) if nested and is_graph_model(operation) else None,
            )
        return self._layers[id(operation)]


def _tensor(tensor: keras.KerasTensor) -> Tensor:
    return Tensor(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype),
        masked=keras_mask(tensor) is not None,
    )


def keras_mask(tensor: keras.KerasTensor) -> Any:
    """The mask that Keras attached to a symbolic tensor, or None."""
    return getattr(tensor, "_keras_mask", None)
