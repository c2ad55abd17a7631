"""Activations of TensorFlow, by the names that Keras knows."""

from __future__ import annotations

from typing import Any


def activation_name(function: Any) -> str | None:
    """What Keras calls an activation of TensorFlow that it would save under a name that it does not
    know; None for others.
    """
    if not str(getattr(function, "__module__", "")).startswith("tensorflow."):
        return None
    import tensorflow as tf  # noqa: PLC0415 (Keras may run on another backend)

    names = {tf.nn.silu: "silu", tf.nn.softmax: "softmax", tf.nn.log_softmax: "log_softmax"}
    return names.get(function)
