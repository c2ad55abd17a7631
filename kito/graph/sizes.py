"""Does a call make the same calls at every size? Record it again with others.

A branch on a size is not seen where the size is not known, nor maybe on random data. So a call that
reads sizes is recorded with a small and a large one, and with the numbers that its code compares
something with.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import re
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

import keras

from kito.graph.faithful import possible_scales
from kito.graph.ir import Tensor, Trace, exactly
from kito.graph.keras_internals import (
    Functional,
    arguments,
    calls_in_order,
    is_users,
    structures,
    sublayers,
    untouched,
)
from kito.graph.layer import Layer
from kito.graph.record import (
    BATCH_SIZE,
    UntraceableError,
    only_untraceable,
    record,
    with_sizes,
)
from kito.graph.size_reads import sizes_read
from kito.graph.trace import Outputs, inferred_once

# With which sizes a call is recorded again that is to work with any; data have those in between. At
# an odd one, what was halved and doubled is smaller; some take none.
SMALLEST, ODD, LARGE = 1, 1023, 1024
# Sizes that differ from axis to axis, and from tensor to tensor too.
UNEQUAL = ((32, 0), (32, 8))
# Of the numbers that are compared with. Each one more takes the time of a record.
MOST = 16
# By what inputs are larger than the tensors inside, of which a size may be compared with a number.
STEPS = (2, 4, 8, 16, 32)


def check_sizes(trace: Trace, known: Outputs) -> None:
    """Whether the layer's `call` does the same at every size that its input may have.

    Args:
        known: what the composites inside it return, see `trace`; is added to.

    Raises:
        UntraceableError: it does not.
    """
    given = trace.args, trace.kwargs
    layer = trace.source
    shapes = [leaf.shape for leaf in keras.tree.flatten(given) if isinstance(leaf, Tensor)]
    compared = sorted(_compared(layer))[:MOST]
    larger = [step * number for step in STEPS for number in compared][:MOST]
    dynamic = any(None in shape[1:] for shape in shapes)
    sizes = (SMALLEST, ODD, *compared, *larger) if dynamic else ()
    # Of one and two it is run.
    batches = [size for size in compared if size > 2] if (None,) in {s[:1] for s in shapes} else ()
    if not (sizes or batches or trace.calls):
        return
    held = set(map(id, sublayers(layer)))

    def outline(call: Any = given, **sizes: Any) -> list[str] | None:
        """The calls that are made with these sizes."""
        try:
            return _outline(
                record(layer, *with_sizes(call, **{"scales": trace.scales, **sizes})), held
            )
        except Exception:  # it takes no input of that size
            return None

    with only_untraceable(), inferred_once(layer, known), untouched(layer):
        with sizes_read() as readers:
            expected = outline()
        if expected is not None and not readers and not _catches_errors(layer):
            return
        for call in trace.calls:
            if outline((call.args, call.kwargs)) != expected:
                raise UntraceableError("its call does otherwise with tensors of another size")
        for size in dict.fromkeys(sizes):
            found = outline(others=size)
            if found is None and size == ODD:
                found = outline(others=LARGE)
            if found not in (None, expected):
                raise UntraceableError(f"its call does otherwise where a size is {size}")
        steps = UNEQUAL[: len(shapes)] if sizes else ()  # one tensor differs from no other
        unequal: list[dict[str, Any]] = [{"steps": each} for each in steps]
        tried = trace.scales or (1,) * len(shapes)
        unequal += [{"scales": each} for each in possible_scales(trace) if each != tried]
        for some in unequal:
            if outline(others=LARGE, **some) not in (None, expected):
                raise UntraceableError("its call does otherwise where sizes are not equal")
        expected = outline(batch=BATCH_SIZE) if batches else None
        for size in batches:
            if not _are_same(outline(batch=size), size, expected, BATCH_SIZE):
                raise UntraceableError(f"its call does otherwise with a batch of {size}")


def _catches_errors(layer: keras.Layer) -> bool:
    """Whether `call` may do something else where an operation does not take a size."""
    return any(code.co_exceptiontable for code, _ in _functions(type(layer), "call", set()))


def _compared(layer: keras.Layer) -> set[int]:
    """The numbers, and those after them, with which `call` may compare a size."""
    found = set()
    functions = list(_functions(type(layer), "call", set()))
    if not any("shape" in code.co_names for code, _ in functions):
        return set()
    for code, known in functions:
        if any(each.opname in ("COMPARE_OP", "CONTAINS_OP") for each in dis.get_instructions(code)):
            names = (*code.co_names, *code.co_freevars)
            attributes = (inspect.getattr_static(layer, name, None) for name in names)
            others = (known.get(name) for name in names)
            found |= {*_numbers(code.co_consts), *_numbers(attributes), *_numbers(others)}
    return {each for number in found for each in (number, number + 1) if each > 0}


# The code of a function, and the variables that it reads, by name.
Code = tuple[CodeType, Mapping[str, Any]]


def _functions(cls: type[Any], name: str, seen: set[Any]) -> Iterator[Code]:
    """A method, in the class and those that it inherits from, and the functions that it names."""
    for each in cls.__mro__:
        function = vars(each).get(name)
        if isinstance(function, FunctionType):
            yield from _named(cls, function, seen)


def _named(cls: type[Any], function: FunctionType, seen: set[Any]) -> Iterator[Code]:
    """A function, those that are defined in it, and those that it names, methods of a class too."""
    if function in seen or not is_users(function):
        return
    seen.add(function)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    known = dict(function.__globals__)
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # it has no value yet
            known[name] = cell.cell_contents
    inside = [each for each in function.__code__.co_consts if isinstance(each, CodeType)]
    for code in (function.__code__, *inside):
        yield code, known
        for name in (*code.co_names, *code.co_freevars):
            yield from _functions(cls, name, seen)
            if isinstance(known.get(name), FunctionType):
                yield from _named(cls, known[name], seen)


def _numbers(values: Any) -> Iterator[int]:
    for value in values:
        if isinstance(value, tuple | list | set | frozenset):
            yield from _numbers(value)
        elif isinstance(value, dict):
            yield from _numbers(value.values())
        elif isinstance(value, int) and not isinstance(value, bool):
            yield value


def _outline(function: Functional, held: set[int]) -> list[str]:
    """The calls of a record and their arguments: equal for records that compute the same.

    Args:
        held: the layers that are the same in all records; others the call may have made.
    """
    numbers: dict[int, str] = {}
    lines = []
    for number, call in enumerate(calls_in_order(function)):
        operation, given = call.operation, arguments(call)
        for index, tensor in enumerate(call.outputs):
            numbers[id(tensor)] = f"{number}.{index}"
        if call.is_input:
            continue
        given = keras.tree.map_structure(lambda leaf: numbers.get(id(leaf), leaf), given)
        what = id(operation) if id(operation) in held else _described(operation)
        lines.append(f"{what} {exactly(given)}")
    outputs = keras.tree.map_structure(lambda leaf: numbers[id(leaf)], structures(function)[1])
    return [*lines, str(outputs)]


def _described(operation: keras.Operation) -> Any:
    try:
        return type(operation), Layer.of(operation).behaviour
    except NotImplementedError:  # it can't say what it is
        return type(operation)


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
