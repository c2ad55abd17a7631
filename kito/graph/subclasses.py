"""A subclass of one of Keras' layers that computes what that does at inference.

Rules match classes exactly, for a subclass may compute something else. Many do not: they have
arguments of their own, or a `call` that hands on what it gets, such as the BatchNormalizations of
detectors, which do not train where they are frozen. If the calls that such a layer makes are those
that the class of Keras would make, on the same weights, it is taken for one of that class.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kito.graph.copying import build
from kito.graph.faithful import answer, drawn
from kito.graph.ir import Tensor, Trace
from kito.graph.keras_internals import (
    casts_as_its_class,
    complete_config,
    has_its_weights,
    is_users,
    shell,
    sublayers,
)
from kito.graph.layer import to_numpy
from kito.graph.record import are_alike, record, with_sizes
from kito.graph.size_reads import Reads
from kito.graph.untouched import untouched

# What a subclass may have of its own.
ALLOWED = {"__init__", "call", "get_config", "from_config"}
# What an Identity of a user may have, too.
SAYS_THE_SHAPE = {"build", "compute_output_shape", "compute_output_spec"}


# The positional arguments of a call and the others, with a KerasTensor for each tensor.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def class_of(operation: keras.Operation, calls: Iterable[Arguments]) -> type[keras.Operation]:
    """The class of Keras that an operation is of, or computes what that does; else its own.

    Args:
        calls: those that are known of it.
    """
    cls = type(operation)
    base = next((each for each in cls.__mro__ if not is_users(each)), cls)
    if base is keras.Layer and cls is not base:
        return keras.layers.Identity if _is_identity(operation, calls) else cls
    if base is cls or not base.__module__.startswith("keras.src.layers."):
        return cls
    own = _overridden(cls, base)
    if len(sublayers(operation)) > 1 or own - ALLOWED:
        return cls
    plain = shell(operation, base)
    with contextlib.suppress(Exception):  # it does not take what stands for data
        if (
            has_its_weights(plain)
            and casts_as_its_class(plain)
            and _has_the_same_weights(operation, plain)
            and ("call" not in own or _calls_do_the_same(operation, plain, calls))
        ):
            return base
    return cls


def _overridden(cls: type[keras.Layer], base: type[keras.Layer]) -> set[str]:
    """What a class has in the place of what one above it has."""
    return {
        name
        for each in cls.__mro__[: cls.__mro__.index(base)]
        for name, value in vars(each).items()
        if name in dir(base)
        if callable(value) or not name.startswith("__")  # not its module or docstring
    }


def _is_identity(layer: keras.Layer, calls: Iterable[Arguments]) -> bool:
    """Whether a layer that is called in all these ways acts in training only."""
    if (
        "training" not in inspect.signature(layer.call).parameters
        or layer.weights
        or len(sublayers(layer)) > 1
        or _overridden(type(layer), keras.Layer) - ALLOWED - SAYS_THE_SHAPE
    ):
        return False
    identity = keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy)
    with contextlib.suppress(Exception):  # it does not take what stands for data
        return _calls_do_the_same(layer, identity, calls)
    return False


def _has_the_same_weights(layer: keras.Layer, plain: keras.Layer) -> bool:
    new = type(plain).from_config(complete_config(plain))
    build(new, layer.get_build_config())
    weights, others = ([(w.name, w.shape) for w in each.weights] for each in (layer, new))
    return weights == others


def _calls_do_the_same(layer: keras.Layer, plain: keras.Layer, calls: Iterable[Arguments]) -> bool:
    """Whether a layer computes, in all these calls, what it would as one of Keras' class."""
    known = {*inspect.signature(type(plain).call).parameters, "training"}
    different: dict[str, Any] = {}
    for args, kwargs in calls:
        if len(args) != 1 or not kwargs.keys() <= known:
            return False
        if any(x.sparse for x in keras.tree.flatten(args[:1])):
            return False  # what stands for data is not
        given = keras.tree.map_structure(lambda x: Tensor(tuple(x.shape), str(x.dtype)), args[0])
        # What does not read its sizes does the same at all.
        kinds = keras.tree.map_structure(lambda x: (len(x.shape), x.dtype), given)
        different.setdefault(str(kinds), given)
    takes_mask = "mask" in inspect.signature(type(layer).call).parameters
    return all(
        _computes_the_same(layer, plain, given, kwargs)
        for given in different.values()
        for kwargs in ({}, *([{"mask": _mask_of(given)}] if takes_mask else []))
    )


def _mask_of(given: Any) -> Any:
    return keras.tree.map_structure(lambda x: Tensor(x.shape[:-1], "bool"), given)


def _computes_the_same(
    layer: keras.Layer, plain: keras.Layer, given: Any, kwargs: dict[str, Any]
) -> bool:
    reads = Reads()
    with untouched(layer):
        records = record(layer, (given,), kwargs, reads), record(plain, (given,), kwargs)
        # What it does may depend on a size that it reads; that of a mask Keras reads itself.
        if (reads.shapes and not kwargs) or not are_alike(*records):
            return False
    leaves = keras.tree.flatten(((given,), kwargs))
    data = drawn(np.random.default_rng(0), with_sizes(leaves, batch=2, others=8))
    one, other = (answer(Trace(each, (given,), kwargs), data) for each in (layer, plain))
    return np.array_equal(to_numpy(one), to_numpy(other))
