"""A composite layer, or a subclassed model -> the calls that its `call` makes.

Layers and models written in Python hide the layers that they hold. Called on symbolic tensors,
`call` records the layers and `keras.ops` that it uses, and that record is a graph like any other.
But it is the record of one run: a branch on data, a random number or a Python counter would be
frozen into it. So a trace that a rewrite makes use of must be faithful (doubt.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from kito.graph.keras_internals import Functional, calls_in_order, sublayers, untouched
from kito.graph.record import UntraceableError, only_untraceable, record

ONLY_KERAS = "; kito looks inside a call that uses layers and keras.ops alone"
# What is told apart in a string.
PLAIN = (keras.KerasTensor, bool, int, float, str, type(None))


# The outputs of composites, by the layer and by the arguments of its call.
Outputs = dict[tuple[int, str], Any]


@contextlib.contextmanager
def trace(layer: keras.Layer, args: Any, kwargs: Any, known: Outputs) -> Iterator[Functional]:
    """The graph that the layer's `call` is at inference, for as long as the context lasts.

    Args:
        args, kwargs: the arguments of the call, with a `Tensor` where the layer gets a tensor.
        known: what traces found out before; is added to.

    Yields:
        A Functional model of the tensors, in the order in which they stand in the arguments.

    Raises:
        UntraceableError: `call` does not run on symbolic tensors, or depends on something that
            they don't show.
    """
    with (
        only_untraceable("symbolic tensors, which have no values", ONLY_KERAS),
        inferred_once(layer, known),
        untouched(layer),
    ):
        function = record(layer, args, kwargs)
        _check_constants(function)
        _check_training(function)
        yield function


@contextlib.contextmanager
def inferred_once(layer: keras.Layer, known: Outputs) -> Iterator[None]:
    """Find out once what the composites inside a layer return, whatever is traced later.

    To find it out, Keras runs all that is inside. In a trace of each of n composites, one inside
    the other, that would be n ** 2 calls.
    """
    parts = [
        part
        for part in sublayers(layer)[1:]
        if is_written_in_python(part)
        and "compute_output_spec" not in vars(part)
        and type(part).compute_output_spec is keras.Layer.compute_output_spec
        and type(part).compute_output_shape is keras.Layer.compute_output_shape
    ]
    for part in parts:
        vars(part)["compute_output_spec"] = partial(_outputs, known, part)
    try:
        yield
    finally:
        for part in parts:
            del vars(part)["compute_output_spec"]


def _outputs(known: Outputs, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    """What `layer.compute_output_spec` returns."""
    if not all(isinstance(leaf, PLAIN) for leaf in keras.tree.flatten((args, kwargs))):
        return type(layer).compute_output_spec(layer, *args, **kwargs)
    call = keras.tree.map_structure(
        lambda leaf: (leaf.shape, leaf.dtype) if isinstance(leaf, keras.KerasTensor) else leaf,
        (args, kwargs),
    )
    key = id(layer), str(call)
    if key not in known:
        known[key] = keras.tree.map_structure(_alone, _infer(layer, args, kwargs))
    return keras.tree.map_structure(_alone, known[key])


def _alone(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """The tensor without the call that it belongs to."""
    return keras.KerasTensor(tensor.shape, tensor.dtype, sparse=tensor.sparse)


def _infer(layer: keras.Layer, args: Any, kwargs: Any) -> Any:
    """The outputs of a call on symbolic tensors, in which each composite inside is asked for its
    own; where that does not go, as Keras infers them.
    """
    with contextlib.suppress(Exception):
        outputs = layer.call(*args, **kwargs)
        if all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(outputs)):
            return outputs
    return type(layer).compute_output_spec(layer, *args, **kwargs)


def _check_constants(function: Functional) -> None:
    """Weights that `call` reads itself would be frozen into the record, and lost on saving; so
    would functions, and whatever they read.
    """
    plain = (bool, int, float, str, type(None), type(...), slice, np.ndarray, np.generic)
    for call in calls_in_order(function):
        leaves = keras.tree.flatten((call.arguments.args, call.arguments.kwargs))
        if not isinstance(call.operation, keras.Layer):
            leaves += filter(callable, vars(call.operation).values())
        for leaf in leaves:
            if not isinstance(leaf, (keras.KerasTensor, *plain)):
                made = "weight" if isinstance(leaf, keras.Variable) else type(leaf).__name__
                raise UntraceableError(
                    f"its call hands a {made} to {call.operation.name}, which kito can't take "
                    "over unless a layer holds it"
                )


def _check_training(function: Functional) -> None:
    """A Functional model hands the `training` that it is called with, False in `predict`, on to all
    its calls, whatever they were recorded with.
    """
    for call in calls_in_order(function):
        if call.arguments.kwargs.get("training"):
            raise UntraceableError(
                f"its call calls {call.operation.name} with training=True, and `predict` of a "
                "model with a graph of layers does not"
            )


def is_composite(layer: keras.Operation, anchors: frozenset[type]) -> bool:
    """Whether a layer written in Python holds layers at which a rule could match."""
    return is_written_in_python(layer) and any(
        type(part) in anchors for part in sublayers(layer)[1:]
    )


def is_written_in_python(layer: keras.Operation) -> bool:
    """Whether a layer is not one of Keras' own, and holds layers."""
    return (
        isinstance(layer, keras.Layer)
        and not type(layer).__module__.startswith("keras.src.layers.")
        and len(sublayers(layer)) > 1
    )
