"""The dtypes of a subclassed model's inputs, of which Keras keeps no record.

A Functional model casts what it is given to the dtypes of its inputs. An input that an Embedding or
the like reads, and nothing else, is an integer, which as a float would be rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from kito.graph.faithful import answer, sizes_to_try
from kito.graph.ir import Graph, Node, Ref, Tensor, Trace
from kito.graph.keras_internals import (
    COMPARING_OPERATIONS,
    RESHAPING_OPERATIONS,
    UNREADING_OPERATIONS,
    sublayers,
)
from kito.graph.layer import to_numpy
from kito.graph.record import UntraceableError, with_sizes

INTEGER = "int64"
READERS = (
    keras.layers.CategoryEncoding,
    keras.layers.Embedding,
    keras.layers.HashedCrossing,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
)
RESHAPING = (
    *RESHAPING_OPERATIONS,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Permute,
    keras.layers.Reshape,
)

# Of sequences of any length, so long are those that are tried.
LENGTH = 8
# What is inside a layer; None if nobody knows.
Opened = Callable[[Graph, Node], Graph | None]


def with_integers(graph: Graph, inputs: Any, opened: Opened) -> Any:
    """The inputs of a graph, a structure of `Tensor`, with an integer dtype where it reads one."""
    if not any(isinstance(part, READERS) for part in sublayers(graph.source)):
        return inputs  # and no layer has to be looked into
    refs = keras.tree.flatten(graph.inputs)
    leaves = [
        replace(leaf, dtype=INTEGER) if _is_integer(graph, ref, opened) else leaf
        for ref, leaf in zip(refs, keras.tree.flatten(inputs), strict=True)
    ]
    return keras.tree.pack_sequence_as(inputs, leaves)


def _is_integer(graph: Graph, ref: Ref, opened: Opened) -> bool:
    """Whether a tensor goes to layers that read integers, and nowhere else."""
    found = list(_reads_integers(graph, ref, opened))
    return bool(found) and all(found)


def _reads_integers(graph: Graph, ref: Ref, opened: Opened) -> Iterator[bool]:
    """Of each layer that a tensor goes to in the end, or output that it is, whether that reads
    integers. What compares it, for a mask, may get either.
    """
    if ref in keras.tree.flatten(graph.outputs):
        yield False
    for node in graph.readers(ref.node):
        if ref not in node.refs or node.layer.cls in (*UNREADING_OPERATIONS, *COMPARING_OPERATIONS):
            continue
        inside = opened(graph, node)
        if node.layer.cls in RESHAPING:
            yield from _reads_integers(graph, Ref(node.id), opened)
        elif inside is None:
            yield node.layer.cls in READERS or _drops_fractions(graph, node)
        else:
            for given, inner in zip(node.refs, keras.tree.flatten(inside.inputs), strict=True):
                if given == ref:
                    yield from _reads_integers(inside, inner, opened)


def _drops_fractions(graph: Graph, node: Node) -> bool:
    """Whether a layer that nobody can look into, such as an embedding of words and their places,
    reads 1.9 as it reads 1.
    """
    source = node.layer.source
    if not isinstance(source, keras.Layer) or node.args != tuple(node.refs) or len(node.refs) > 1:
        return False
    held = sublayers(source)[1:]
    # What sorts numbers into ranges may have whole numbers for their borders.
    if not any(isinstance(part, READERS) for part in held) or any(
        isinstance(part, keras.layers.Discretization) for part in held
    ):
        return False
    rng = np.random.default_rng(0)
    tensor = graph.tensor(node.refs[0])
    shape = [2, *(size or LENGTH for size in tensor.shape[1:])]
    whole = rng.integers(0, 2, shape).astype("float32")
    fractions = rng.choice(np.array([0.05, 0.5, 0.95], "float32"), shape)
    try:
        expected, other, changed = (
            to_numpy(answer(Trace(source, (tensor,), {}), [keras.ops.convert_to_tensor(each)]))
            for each in (whole, whole + (1 - whole) * fractions, 1 - whole)
        )
    except UntraceableError:
        return False
    return _is_same(expected, other) and not _is_same(expected, changed)


def takes_floats(model: keras.Model, inputs: Any) -> bool:
    """Whether a model runs on numbers with fractions."""
    try:
        _answers(model, inputs, 0.5, "float32")
    except UntraceableError:
        return False
    return True


def answers_integers_alike(model: keras.Model, inputs: Any) -> bool:
    """Whether it makes no difference that integers become what the inputs are: words, pixels, and
    numbers that a float32 rounds.
    """
    for number, dtype in ((1, INTEGER), (255, "uint8"), (2**24 + 1, INTEGER)):
        try:
            integers = _answers(model, inputs, number, dtype)
        except UntraceableError:  # it does not take them
            continue
        try:
            others = _answers(model, inputs, number)
        except UntraceableError:
            return False
        if len(integers) != len(others) or not all(map(_is_same, integers, others)):
            return False
    return True


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _answers(
    model: keras.Model, inputs: Any, number: float, dtype: str | None = None
) -> list[np.ndarray]:
    """What the model answers to zeros and a number, in this dtype or in those of the inputs."""
    rng = np.random.default_rng(0)
    (size, *_), _ = sizes_to_try(model, keras.tree.flatten(inputs))
    sized = with_sizes(inputs, batch=2, others=size)

    def data(leaf: Tensor) -> Any:
        array = number * rng.integers(0, 2, [size or 1 for size in leaf.shape])
        return keras.ops.convert_to_tensor(array, dtype=dtype or leaf.dtype)

    data_of_all = [data(leaf) for leaf in keras.tree.flatten(sized)]
    return list(map(to_numpy, keras.tree.flatten(answer(Trace(model, (inputs,), {}), data_of_all))))
