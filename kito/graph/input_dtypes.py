"""The dtypes of a subclassed model's inputs, of which Keras keeps no record: it is asked.

A Functional model casts what it is given to the dtypes of its inputs. What the model computes of
1.4 as of 1, an Embedding reads or the like: it is an integer, and would be rounded as a float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from kito.graph.faithful import SIZES_OF_A_MODEL, uncompiled
from kito.graph.keras_internals import sublayers, untouched
from kito.graph.layer import to_numpy
from kito.graph.record import UntraceableError, only_untraceable, with_sizes

INTEGER = "int64"
READERS = (
    keras.layers.CategoryEncoding,
    keras.layers.Embedding,
    keras.layers.HashedCrossing,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
)
# Below this, all fractions in float32, and some in 16 bits, stay fractions.
SMALL = 64
# So many draws tell what an input is from what happens to make no difference.
DRAWS = 3


def with_integers(model: keras.Model, inputs: Any) -> Any:
    """The inputs of a model, a structure of `Tensor`, with an integer dtype where it reads one."""
    held = sublayers(model)
    # What sorts numbers into ranges may have whole numbers for their borders.
    if not any(isinstance(part, READERS) for part in held) or any(
        isinstance(part, keras.layers.Discretization) for part in held
    ):
        return inputs
    leaves = keras.tree.flatten(inputs)
    found = [
        replace(leaf, dtype=INTEGER) if _is_integer(model, inputs, index) else leaf
        for index, leaf in enumerate(leaves)
    ]
    return keras.tree.pack_sequence_as(inputs, found)


def answers_integers_alike(model: keras.Model, inputs: Any) -> bool:
    """Whether it makes no difference that integers become the floats that the inputs are."""
    whole = _whole(model, inputs)
    try:
        integers = _answers(model, inputs, [each.astype(INTEGER) for each in whole])
    except UntraceableError:  # it takes floats only
        return True
    try:
        return _same(integers, _answers(model, inputs, whole))
    except UntraceableError:
        return False


def _is_integer(model: keras.Model, inputs: Any, index: int) -> bool:
    """Whether the model reads one of its inputs as an integer, whatever it is given."""
    rng = np.random.default_rng(0)
    depends = False
    try:
        for seed in range(DRAWS):
            whole = _whole(model, inputs, seed, SMALL)
            expected = _answers(model, inputs, whole)
            other = list(whole)
            other[index] = whole[index] + 0.9 * rng.random(whole[index].shape)
            if not _same(expected, _answers(model, inputs, other)):
                return False
            other[index] = np.roll(whole[index], 1)
            depends = depends or not _same(expected, _answers(model, inputs, other))
    except UntraceableError:
        return False
    return depends


def _whole(
    model: keras.Model, inputs: Any, seed: int = 0, below: float = np.inf
) -> list[np.ndarray]:
    """Zeros and ones, as floats, and the numbers that the model looks up."""
    rng = np.random.default_rng(seed)
    values = {0, 1}
    for part in sublayers(model):
        if isinstance(part, keras.layers.IntegerLookup):
            values.update(each for each in part.get_vocabulary() if 0 <= each < below)
    sized = with_sizes(inputs, batch=2, others=SIZES_OF_A_MODEL[0])
    return [
        rng.choice(sorted(values), [size or 1 for size in leaf.shape]).astype(np.float64)
        for leaf in keras.tree.flatten(sized)
    ]


def _answers(model: keras.Model, inputs: Any, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    given = keras.tree.pack_sequence_as(inputs, list(map(keras.ops.convert_to_tensor, arrays)))
    with only_untraceable(), untouched(model), uncompiled(), keras.StatelessScope():
        return list(map(to_numpy, keras.tree.flatten(model(given, training=False))))


def _same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(one, other, strict=True)
    )
