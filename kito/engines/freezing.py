"""A Keras model on TensorFlow as a graph in which the weights are constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Frozen:
    """A GraphDef, and the names of the tensors that go in and come out, in their order."""

    graph_def: Any
    inputs: list[str]
    outputs: list[str]


def frozen(model: keras.Model) -> Frozen:
    """The graph of a model that takes a list of tensors."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = [tf.TensorSpec(each.shape, each.dtype, each.name) for each in model.inputs]
    function = tf.function(lambda *inputs: model(list(inputs), training=False))
    constant = convert_variables_to_constants_v2(function.get_concrete_function(*signature))
    return Frozen(
        constant.graph.as_graph_def(),
        [each.name for each in constant.inputs],
        [each.name for each in constant.outputs],
    )
