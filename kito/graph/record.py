"""What a layer's `call` does on symbolic tensors, as a graph of calls.

Keras has None for the size of a batch. What computes with that size is recorded with a number in
its place, which is taken out again.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from kito.errors import first_line
from kito.graph.ir import Tensor
from kito.graph.keras_internals import (
    READING,
    Functional,
    ReshapeOperation,
    arguments,
    at_inference,
    calls_in_order,
    entry,
    numpy_defers,
    settings,
    structures,
    sublayers,
)
from kito.graph.lambdas import lambdas_opened
from kito.graph.layer import to_numpy
from kito.graph.size_reads import Reads, watched
from kito.graph.tensorflow_functions import tensorflow_as_keras, uncompiled
from kito.graph.untouched import StatefulCallError

# A batch size of which no other number in a model is a multiple.
BATCH_SIZE = 7919
# By how much a size is larger than others, where that is tried.
LONGER = 8
# Of so many numbers in a tensor, each may be made of it.
FEW = 16
FAILS = "its call fails on"
DATA = "random data"
FAILS_ON_DATA = f"{FAILS} {DATA}"
IN_A_RESHAPE = "computes with the batch size, which kito can replace in a reshape only"


class UntraceableError(Exception):
    """The layer can't be replaced by a record of its calls; the message says why."""


@contextlib.contextmanager
def only_untraceable(data: str = DATA, remedy: str = "") -> Iterator[None]:
    """Whatever the user's code raises here, on data that it did not expect, is one error."""
    try:
        yield
    except UntraceableError:
        raise
    except StatefulCallError as error:
        raise UntraceableError(str(error)) from error
    except Exception as error:
        if "`add_loss()`" in first_line(error):  # of which Keras says that it is called elsewhere
            raise UntraceableError("its call adds a loss, and the layers inside do not") from error
        said = f"{type(error).__name__}: {first_line(error)}"
        raise UntraceableError(f"{FAILS} {data} ({said}){remedy}") from error


def record(layer: keras.Layer, args: Any, kwargs: Any, reads: Reads | None = None) -> Functional:
    """The calls that a layer's `call` makes at inference.

    Args:
        args, kwargs: the arguments of the call, with a `Tensor` where the layer gets a tensor.
        reads: is told which sizes the call reads.

    Raises:
        UntraceableError: it needs a size that is not known.
        Exception: whatever else `call` raises on symbolic tensors.
    """
    reads = Reads() if reads is None else reads
    try:
        function = _recorded(layer, args, kwargs, reads)
        check_reshapes(function)
    except Exception:
        function = _of_any_batch_size(layer, args, kwargs, reads)
    return function


def with_sizes(
    arguments: Any,
    *,
    batch: int | None = None,
    others: int | None = None,
    scales: Iterable[int] = (),
    longer: tuple[int | None, int] | None = None,
    times: float = LONGER,
) -> Any:
    """Arguments of a call, with numbers for the sizes that are not known, that of the batch and the
    others; None leaves them as they are.

    Args:
        scales: how many times the others, for each tensor; once if there is none.
        longer: the tensor, or None for all, and the axis of which the size is some times that.
        times: how many.
    """
    factors = itertools.chain(scales, itertools.repeat(1))
    numbers = itertools.count()

    def sized(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        factor, number = next(factors), next(numbers)

        def of(axis: int) -> int | None:
            stretch = times if longer in ((None, axis), (number, axis)) else 1
            return (others and int(others * factor * stretch)) if axis else batch

        sizes = (of(axis) if size is None else size for axis, size in enumerate(leaf.shape))
        return replace(leaf, shape=tuple(sizes))

    return keras.tree.map_structure(sized, arguments)


def _recorded(layer: keras.Layer, args: Any, kwargs: Any, reads: Reads) -> Functional:
    inputs: list[keras.KerasTensor] = []
    reads.shapes.clear()

    def symbolic(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        dtype = leaf.dtype
        if layer.autocast and keras.backend.is_float_dtype(dtype):
            dtype = layer.input_dtype  # as Layer.__call__ does
        inputs.append(entry(leaf.shape or (None,), dtype))
        return inputs[-1]

    args, kwargs = keras.tree.map_structure(symbolic, (args, kwargs))
    if "training" in inspect.signature(layer.call).parameters:
        kwargs = {**kwargs, "training": False}
    with (
        READING,
        watched(reads),
        at_inference(layer),
        tensorflow_as_keras(),
        uncompiled(layer),
        numpy_defers(),
        lambdas_opened(layer),
    ):
        outputs = layer.call(*args, **kwargs)
    if not all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(outputs)):
        raise UntraceableError("its call returns something that is not a tensor")
    return _function(layer, inputs if len(inputs) > 1 else inputs[0], outputs)


def _function(layer: keras.Layer, inputs: Any, outputs: Any) -> Functional:
    """The graph between tensors. In one graph Keras has no two layers of one name, while a layer
    written in Python may hold such: they have other names meanwhile.
    """
    try:
        return keras.Function(inputs, outputs)
    except ValueError:
        with _numbered(sublayers(layer)[1:]):
            return keras.Function(inputs, outputs)


@contextlib.contextmanager
def _numbered(layers: list[keras.Layer]) -> Iterator[None]:
    """Give each layer a name of its own."""
    names = [layer.name for layer in layers]
    for number, layer in enumerate(layers):
        vars(layer)["name"] = f"{layer.name}_{number}"
    try:
        yield
    finally:
        for layer, name in zip(layers, names, strict=True):
            vars(layer)["name"] = name


def _of_any_batch_size(layer: keras.Layer, args: Any, kwargs: Any, reads: Reads) -> Functional:
    """The record of a call that computes with its batch size, `ops.shape(x)[0]`.

    On a symbolic batch that is None. So the call is recorded with a number, and that is taken out
    again where it is known how: a reshape infers one dimension.

    Raises:
        UntraceableError: the batch size is used in another way.
    """
    args, kwargs = with_sizes((args, kwargs), batch=BATCH_SIZE)
    fixed = _recorded(layer, args, kwargs, reads)
    check_reshapes(fixed)
    tensors = {
        id(tensor): entry(
            [None if size == BATCH_SIZE else size for size in tensor.shape], tensor.dtype
        )
        for tensor in fixed.inputs
    }
    for call in calls_in_order(fixed):
        args, kwargs = keras.tree.map_structure(
            lambda leaf: tensors.get(id(leaf), leaf), arguments(call)
        )
        if any(map(_holds_batch_size, keras.tree.flatten((args, kwargs)))):
            raise UntraceableError(f"{call.operation.name} {IN_A_RESHAPE}")
        outputs = _operation_of_any_batch_size(call)(*args, **kwargs)
        for old, new in zip(call.outputs, keras.tree.flatten(outputs), strict=True):
            tensors[id(old)] = new
    inputs, outputs = keras.tree.map_structure(
        lambda tensor: tensors[id(tensor)], structures(fixed)
    )
    return _function(layer, inputs, outputs)


def _operation_of_any_batch_size(call: Any) -> keras.Operation:
    operation: keras.Operation = call.operation
    if isinstance(operation, keras.Layer):
        return operation
    held = [name for name, value in vars(operation).items() if _holds_batch_size(value)]
    if not held:
        return operation
    if isinstance(operation, ReshapeOperation):
        shape = [-1 if _holds_batch_size(size) else size for size in operation.newshape]
        if shape.count(-1) == 1:
            return ReshapeOperation(tuple(shape))
        sizes = operation.newshape[0], call.arguments.args[0].shape[0]
        if shape.count(-1) == 2 and sizes == (BATCH_SIZE, BATCH_SIZE):
            return keras.layers.Reshape(shape[1:])  # which leaves the batch as it is
    raise UntraceableError(f"{operation.name} {IN_A_RESHAPE}")


def with_plain_sizes(operation: keras.Operation) -> keras.Operation:
    """A reshape to sizes that numpy or the backend computed, with numbers for them: others Keras
    can't save.
    """
    sizes = operation.newshape if isinstance(operation, ReshapeOperation) else ()
    if not isinstance(sizes, (tuple, list)) or all(isinstance(size, int) for size in sizes):
        return operation
    try:
        numbered = ReshapeOperation(tuple(map(int, sizes)))
    except (TypeError, ValueError):
        return operation
    numbered.name = operation.name
    return numbered


def _holds_batch_size(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_batch_size, value))
    if isinstance(value, (int, float)):
        return value != 0 and value % BATCH_SIZE == 0
    held = isinstance(value, np.ndarray) or (
        keras.ops.is_tensor(value) and not isinstance(value, keras.KerasTensor)
    )
    if not held:
        return False
    if _holds_batch_size(tuple(value.shape)):
        return True
    few = to_numpy(value) if math.prod(value.shape) <= FEW else np.zeros(0)
    return few.dtype.kind in "iuf" and _holds_batch_size(few.ravel().tolist())


def check_reshapes(function: Functional) -> None:
    """Keras records a reshape to sizes that are not known, but can't compute it.

    Raises:
        UntraceableError: there is one.
    """
    for call in calls_in_order(function):
        for value in (
            () if isinstance(call.operation, keras.Layer) else vars(call.operation).values()
        ):
            if isinstance(value, (tuple, list)) and None in value:
                raise UntraceableError(f"{call.operation.name} needs a size that is not known")


def are_alike(one: Functional, other: Functional) -> bool:
    """Whether two records have the same calls, of the same layers, with the same arguments."""
    numbers: dict[int, str] = {}
    for each in (one, other):
        numbers |= {id(tensor): str(number) for number, tensor in enumerate(each.inputs)}
    calls, others = calls_in_order(one), calls_in_order(other)
    if len(calls) != len(others):
        return False
    for number, pair in enumerate(zip(calls, others, strict=True)):
        for call in pair:
            for index, tensor in enumerate(call.outputs):
                numbers[id(tensor)] = f"{number}.{index}"
        operations = [call.operation for call in pair]
        if not _is_same_operation(*operations):
            return False
        made = [
            (arguments(call), None if isinstance(each, keras.Layer) else settings(each))
            for call, each in zip(pair, operations, strict=True)
        ]
        leaves, other_leaves = map(keras.tree.flatten, made)
        if len(leaves) != len(other_leaves) or not all(
            _is_same(numbers.get(id(a), a), numbers.get(id(b), b))
            for a, b in zip(leaves, other_leaves, strict=True)
        ):
            return False
    outputs = [
        [numbers[id(tensor)] for tensor in keras.tree.flatten(structures(each)[1])]
        for each in (one, other)
    ]
    return outputs[0] == outputs[1]


def _is_same_operation(one: keras.Operation, other: keras.Operation) -> bool:
    """Whether two calls are of one layer, or of two without weights that a call makes anew, or of
    operations of one class.
    """
    if one is other or type(one) is not type(other):
        return one is other
    if not isinstance(one, keras.Layer):
        return True
    configs = [each.get_config() | {"name": None} for each in (one, other)]
    return not (one.weights or other.weights) and bool(configs[0] == configs[1])


def _is_same(one: Any, other: Any) -> bool:
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, np.ndarray) or keras.ops.is_tensor(one):
        return np.array_equal(to_numpy(one), to_numpy(other))
    return bool(one == other)
