"""The ways to a second model that are compared: kito's, with and without verification, and Keras'
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np

import kito


def clone(model: keras.Model) -> keras.Model:
    """Keras' own way to a second model with the same weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def verified(model: keras.Model) -> keras.Model:
    """Optimize, and verify the result."""
    return kito.optimize(model, verify=True)


WAYS: dict[str, Callable[[keras.Model], keras.Model]] = {
    "optimize": kito.optimize,
    "verify": verified,
    "clone": clone,
}


def weight_bytes(model: keras.Model) -> int:
    """What the weights of a model take."""
    return sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in model.weights)
