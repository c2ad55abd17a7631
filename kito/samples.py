"""Random inputs that a model can take."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kito.graph.keras_internals import input_structure, is_graph_model, sublayers

# What an unknown dimension becomes. Large enough for five poolings by two.
UNKNOWN_SIZE = 64
WORDS = ("convolution", "normalization", "kernel", "bias", "tensor")


def random_inputs(
    model: keras.Model,
    batch_size: int = 2,
    seed: int = 0,
    unknown_size: int = UNKNOWN_SIZE,
    shapes_of: Any = None,
) -> Any:
    """Inputs that fit the model's signature, in the structure that it takes.

    Floats are drawn from the standard normal distribution, integers below the smallest vocabulary
    of the model's Embedding layers, strings from a few words. Unknown dimensions become
    `unknown_size`; a fixed batch size stays as it is.

    Args:
        shapes_of: arrays in the structure that the model takes, whose shapes these then have.

    Returns:
        numpy arrays with the dtypes of the model's inputs.
    """
    rng = np.random.default_rng(seed)
    vocabularies = [
        layer.input_dim for layer in sublayers(model) if isinstance(layer, keras.layers.Embedding)
    ]

    def array(tensor: keras.KerasTensor, like: Any = None) -> np.ndarray:
        batch, *rest = tensor.shape or (1,)
        shape = (batch or batch_size, *(size or unknown_size for size in rest))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        shape = shape if like is None else np.shape(like)
        return draw(rng, shape, dtype, below=min(vocabularies, default=2))

    inputs = input_structure(model)
    if shapes_of is None:
        return keras.tree.map_structure(array, inputs)
    leaves = map(array, keras.tree.flatten(inputs), keras.tree.flatten(shapes_of))
    return keras.tree.pack_sequence_as(inputs, list(leaves))


def with_known_inputs(*models: keras.Model) -> keras.Model:
    """Of models that take the same inputs, one of which Keras knows the dtypes, if there is any."""
    return next(filter(is_graph_model, models), models[0])


def draw(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, below: int = 2
) -> np.ndarray:
    """Random values of a Keras dtype; integers are from 0 to `below`, exclusive."""
    if dtype == "string":
        return rng.choice(WORDS, shape).astype(object)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if "int" in dtype:
        return rng.integers(0, below, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
