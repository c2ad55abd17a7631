"""Linear layer -> activation layer: the layer with that activation."""

from __future__ import annotations

from typing import Any

import keras
from keras.layers import Activation, EinsumDense, ReLU

from kito.definition import Decline, Layer, Node, chain, rule, where
from kito.rules import linear as linear_layers

LINEAR = (*linear_layers.LINEAR, EinsumDense)


def function_of(layer: Node) -> Any:
    """The function that a layer applies to its output, also one that Keras could not load."""
    if layer.layer.source is None or "activation" in layer.layer.overrides:
        return keras.activations.get(layer.layer.config["activation"])
    function = layer.layer.source.activation
    # What TensorFlow has of the same name, such as tf.nn.gelu, Keras saves as its own.
    if str(getattr(function, "__module__", "")).startswith("tensorflow."):
        return getattr(keras.activations, function.__name__, function)
    return function


def is_linear(layer: Node) -> bool:
    """Whether a layer applies no activation."""
    return function_of(layer) is keras.activations.linear


@rule(chain(linear=where(LINEAR, is_linear), activation=(Activation, ReLU)), opens=False)
def linear_activation(linear: Node, activation: Node) -> Layer:
    """Let a linear layer apply the activation that follows it."""
    if linear.output.dtype != activation.output.dtype:
        raise Decline(
            f"{activation.name} turns {linear.output.dtype} into {activation.output.dtype}"
        )
    return linear.evolve(activation=_function(activation))


def _function(activation: Node) -> Any:
    """The name, or Keras' description, of the function that an activation layer applies."""
    if activation.layer.cls is Activation:
        return activation.activation
    if activation.negative_slope or activation.threshold:
        raise Decline(f"{activation.name} has a slope or a threshold, which no activation has")
    if activation.max_value not in (None, 6):
        raise Decline(f"{activation.name} ends at {activation.max_value}, which no activation does")
    return "relu" if activation.max_value is None else "relu6"
