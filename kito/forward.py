"""What a model answers when it is called, whatever its class makes of that in `predict`.

A class may have a `predict_step` of its own: a detector turns scores into boxes there, after all
the layers that kito rewrites. The result of a rewrite is a plain Keras model, which has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

PREDICTING = ("predict", "predict_on_batch", "predict_step", "make_predict_function")
EVALUATING = (
    "evaluate",
    "test_on_batch",
    "test_step",
    "make_test_function",
    "compute_loss",
    "compute_metrics",
)


def as_called(model: keras.Model) -> keras.Model:
    """A model with the same layers whose `predict` gives what the model gives when it is called.

    The model itself, if it is such a one.
    """
    return _Called(model) if own_methods(model, PREDICTING) else model


class _Called(keras.Model):  # type: ignore[misc]
    """Calls a model."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name=model.name)
        self.model = model
        self.output_names = list(getattr(model, "output_names", None) or ())
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.model(inputs, training=False)


def own_methods(model: keras.Model, names: Iterable[str]) -> list[str]:
    """Which of these methods of a model are not those of every Keras model."""
    return [
        name
        for name in names
        if name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name)
    ]
