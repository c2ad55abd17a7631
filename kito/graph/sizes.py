"""Does a call make the same calls at every size? Record it again with others.

A branch on a size is not seen where the size is not known, nor maybe on random data. So the call is
recorded with a small and a large size, with one axis longer than others, and with the numbers that
it compares a size with.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kito.graph.faithful import possible_scales
from kito.graph.ir import Tensor, Trace, exactly
from kito.graph.keras_internals import (
    Functional,
    arguments,
    calls_in_order,
    settings,
    structures,
    sublayers,
)
from kito.graph.layer import Layer, to_numpy
from kito.graph.record import (
    BATCH_SIZE,
    UntraceableError,
    only_untraceable,
    record,
    with_sizes,
)
from kito.graph.size_reads import Reads
from kito.graph.trace import Outputs, inferred_once
from kito.graph.untouched import untouched

# With which sizes a call is recorded again that is to work with any; data have those in between. At
# an odd one, what was halved and doubled is smaller; some take none.
SMALLEST, ODD, LARGE = 1, 1023, 1024
# Where sizes are compared with each other, by how much one is longer besides.
LESS = (1.5, 3)
# Of the numbers that sizes are compared with. Each takes the time of a record.
MOST = 64


def check_sizes(trace: Trace, known: Outputs) -> None:
    """Whether the layer's `call` does the same at every size that its input may have.

    Args:
        known: what the composites inside it return, see `trace`; is added to.

    Raises:
        UntraceableError: it does not, or that can't be found out.
    """
    given = trace.args, trace.kwargs
    layer = trace.source
    shapes = [leaf.shape for leaf in keras.tree.flatten(given) if isinstance(leaf, Tensor)]
    unknown = [
        (number, axis)
        for number, shape in enumerate(shapes)
        for axis, size in enumerate(shape)
        if axis and size is None
    ]
    of_any_batch = bool(trace.reads) and any(shape[:1] == (None,) for shape in shapes)
    if not (unknown or of_any_batch or trace.calls):
        return
    held = set(map(id, sublayers(layer)))

    def outline(call: Any = given, reads: Reads | None = None, **sizes: Any) -> list[str] | None:
        """The calls that are made with these sizes."""
        args, kwargs = with_sizes(call, **{"scales": trace.scales, **sizes})
        try:
            return _outline(record(layer, args, kwargs, reads), held)
        except Exception:  # it takes no input of that size, or something no `Size`
            if reads is not None and reads.shapes and outline(call, **sizes) is not None:
                reads.uses.add("hands a size to what takes only integers")
            return None

    with only_untraceable(), inferred_once(layer, known), untouched(layer):
        expected = _outline(trace.record, held) if unknown or trace.calls else None
        for call in trace.calls:
            if outline((call.args, call.kwargs)) != expected:
                raise UntraceableError("its call does otherwise with tensors of another size")
        if unknown:
            _check_others(trace, unknown, expected, outline)
        if of_any_batch:
            reads = Reads(BATCH_SIZE, trace.reads)
            expected = outline(batch=BATCH_SIZE, reads=reads)
            for size in _compared(reads):
                if not _are_same(outline(batch=size), size, expected, BATCH_SIZE):
                    raise UntraceableError(f"its call does otherwise with a batch of {size}")


# The number of a tensor, and an axis of it.
Place = tuple[int, int]


def _check_others(
    trace: Trace, unknown: list[Place], expected: list[str] | None, outline: Callable[..., Any]
) -> None:
    """Whether the call does the same at every size of the axes that are not the batch.

    Raises:
        UntraceableError: it does not, or that can't be found out.
    """
    size, reads = ODD, Reads(ODD, trace.reads)
    found = outline(others=ODD, reads=reads)
    if found is None and not reads.uses:
        size, reads = LARGE, Reads(LARGE, trace.reads)
        found = outline(others=LARGE, reads=reads)
    tried = itertools.chain(
        [(size, found)], ((each, outline(others=each)) for each in (SMALLEST, *_compared(reads)))
    )
    for size, found in tried:
        if found not in (None, expected):
            raise UntraceableError(f"its call does otherwise where a size is {size}")
    unequal: list[dict[str, Any]] = []
    if len(unknown) > 1 and (trace.reads or reads.shapes):  # who reads no sizes compares none
        unequal += [{"longer": (None, axis)} for axis in sorted({axis for _, axis in unknown})]
    tensors = {number for number, _ in unknown}
    if len(tensors) > 1:
        unequal += [{"longer": place} for place in unknown]
    if reads.pairs:  # with which the other one may come to stand in the middle
        unequal += [{**each, "times": times} for times in LESS for each in list(unequal)]
    unequal += [
        {"scales": each}
        for each in possible_scales(trace)
        if each != (trace.scales or (1,) * len(each))
    ]
    for some in unequal:
        if outline(others=LARGE, **some) not in (None, expected):
            raise UntraceableError("its call does otherwise where sizes are not equal")


def _compared(reads: Reads) -> list[int]:
    """The sizes at which a call may do otherwise.

    Raises:
        UntraceableError: that can't be told.
    """
    if reads.uses:
        raise UntraceableError(f"its call {min(reads.uses)}, which may be another at another size")
    if len(reads.compared) > MOST:
        raise UntraceableError(f"its call compares sizes with more than {MOST} numbers")
    return sorted(reads.compared)


def _outline(function: Functional, held: set[int]) -> list[str]:
    """The calls of a record and their arguments: equal for records that compute the same.

    Args:
        held: the layers that are the same in all records; others the call may have made.
    """
    numbers = {id(tensor): str(number) for number, tensor in enumerate(function.inputs)}
    lines = []
    for number, call in enumerate(calls_in_order(function)):
        operation, given = call.operation, arguments(call)
        for index, tensor in enumerate(call.outputs):
            numbers[id(tensor)] = f"{number}.{index}"
        given = keras.tree.map_structure(lambda leaf: numbers.get(id(leaf), leaf), given)
        what = id(operation) if id(operation) in held else _described(operation)
        lines.append(f"{what} {exactly(given)}")
    outputs = keras.tree.map_structure(lambda leaf: numbers[id(leaf)], structures(function)[1])
    return [*lines, str(outputs)]


def _described(operation: keras.Operation) -> Any:
    try:
        return type(operation), Layer.of(operation).behaviour
    except NotImplementedError:  # it has no configuration, as one of numpy's numbers is in it
        return type(operation), exactly(keras.tree.map_structure(_plain, settings(operation)))


def _plain(value: Any) -> Any:
    """What is equal for equal settings of an operation."""
    if keras.ops.is_tensor(value) or isinstance(value, np.ndarray | np.generic):
        return to_numpy(value).tolist()
    return value if isinstance(value, bool | int | float | str | None) else type(value)


def _are_same(one: list[str] | None, size: int, other: list[str] | None, other_size: int) -> bool:
    """Whether two outlines differ in nothing but numbers that grow with the batch size."""
    if one is None or other is None:
        return True
    parts, other_parts = (re.split(r"(\d+)", "\n".join(each)) for each in (one, other))
    return len(parts) == len(other_parts) and all(
        part == other
        or (part.isdigit() and other.isdigit() and int(part) * other_size == int(other) * size)
        for part, other in zip(parts, other_parts, strict=True)
    )
