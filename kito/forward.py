"""What a model answers when it is called, whatever its class makes of that in `predict`.

A class may have a `predict_step` of its own: a detector turns scores into boxes there, after all
the layers that kito rewrites. The result of a rewrite is a plain Keras model, which has none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from inspect import Parameter
from typing import Any

import keras
import numpy as np

from kito.graph.keras_internals import (
    Functional,
    arguments_of_call,
    is_graph_model,
    states_between_batches,
    structures,
    sublayers,
)
from kito.graph.layer import to_numpy

PREDICTING = ("predict", "predict_on_batch", "predict_step", "make_predict_function")
EVALUATING = (
    "evaluate",
    "test_on_batch",
    "test_step",
    "make_test_function",
    "compute_loss",
    "compute_metrics",
)
TRAINING = ("fit", "train_on_batch", "train_step", "make_train_function")


def as_called(model: keras.Model) -> keras.Model:
    """A model with the same layers whose `predict` gives what the model gives when it is called.

    The model itself, if it is such a one.
    """
    if not own_methods(model, PREDICTING):
        return model
    called = Functional(*structures(model)) if is_graph_model(model) else _Called(model)
    called.name = model.name
    if names := getattr(model, "output_names", None):
        called.output_names = list(names)
    called.run_eagerly, called.jit_compile = model.run_eagerly, model.jit_compile
    return called


class _Called(keras.Model):  # type: ignore[misc]
    """Calls a model that has no graph."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(dtype=model.dtype_policy, autocast=False)
        self.model = model
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.model(inputs, training=False)


@contextlib.contextmanager
def states_kept(*models: keras.Model) -> Iterator[None]:
    """Let recurrent layers that go on from one batch to the next have the states afterwards that
    they had before.
    """
    parts = [part for model in models for part in sublayers(model)]
    states = [state for part in parts for state in states_between_batches(part)]
    before = [np.array(to_numpy(state)) for state in states]
    try:
        yield
    finally:
        for state, value in zip(states, before, strict=True):
            state.assign(value)


def answers(model: keras.Model, inputs: Any) -> Any:
    """What `predict_on_batch` gives, see `states_kept`."""
    with states_kept(model):
        return model.predict_on_batch(inputs)


def optional_arguments(model: keras.Model) -> list[str]:
    """What the call of a model takes besides its inputs, `training` and `mask`."""
    given = [] if is_graph_model(model) else arguments_of_call(model)
    stars: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
    return [stars.get(each.kind, "") + each.name for each in given[1:]]


def own_methods(model: keras.Model, names: Iterable[str]) -> list[str]:
    """Which of these methods of a model are not those of every Keras model."""
    return [
        name
        for name in names
        if name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name)
    ]
