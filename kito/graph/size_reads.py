"""The sizes of tensors that a `call` reads, and what it compares them with.

A branch on a size shows where that is compared. So sizes that a record is made with, in the place
of unknown ones, note it: they are integers, and so is what is computed of them.
"""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Number, Real
from types import FrameType
from typing import Any

import keras
import numpy as np

Shape = tuple[int | None, ...]

# In these functions Keras infers what an operation returns.
INFERENCE = ("__call__", "symbolic_call", "compute_output_spec")
# It makes the call that is recorded.
RECORDER = "kito.graph.record"
# It reads shapes for the `call` that is recorded.
ON_BEHALF = "kito.graph.tensorflow_functions"


@dataclass
class Reads:
    """What a call reads.

    Attributes:
        size: that was put in the place of unknown ones; None if they stayed unknown.
        before: what the same call read with unknown ones.
        shapes: what was read, in its order.
        compared: sizes of the input with which a comparison may come out otherwise.
        pairs: whether sizes were compared with each other.
        uses: what was done with a size of which it can't be told with which others it would come
            out otherwise.
    """

    size: int | None = None
    before: Sequence[Shape] = ()
    shapes: list[Shape] = field(default_factory=list)
    compared: set[int] = field(default_factory=set)
    pairs: bool = False
    uses: set[str] = field(default_factory=set)

    def note(self, shape: Shape) -> tuple[Any, ...]:
        """The shape as the call gets it."""
        number = len(self.shapes)
        self.shapes.append(tuple(shape))
        if self.size is None:
            return shape
        known = self.before[number] if number < len(self.before) else (None,) * len(shape)
        if len(known) != len(shape):
            return shape  # it goes another way, as its record shows
        return tuple(
            Size(size, self, _of_the_input(size, self.size))
            if size is not None and self.is_unknown(old)
            else size
            for size, old in zip(shape, known, strict=True)
        )

    def is_unknown(self, size: int | None) -> bool:
        """Whether a size is one that the given one stands for now."""
        return size is None or (self.size is not None and size % self.size == 0 and size > 0)


# The sizes of the input for which something computed of them would be a given number.
Inverse = Callable[[int], list[int]]


class Size:
    """A size that was unknown, or what was computed of it. It passes for an integer, but is none:
    what is written in C takes the value of those without asking them.
    """

    __array_ufunc__ = None  # numpy leaves operators to it

    def __init__(self, number: int, reads: Reads, inputs: Inverse) -> None:
        self.number, self.reads, self.inputs = number, reads, inputs

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return int

    def __bool__(self) -> bool:
        self.compare(0)
        return bool(self.number)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.number, name)
        self.use(name)
        return found

    def __copy__(self) -> Size:
        return self

    def __deepcopy__(self, memo: Any) -> Size:
        return self

    def use(self, name: str) -> None:
        """Note a use of which it can't be told with which sizes it would come out otherwise."""
        if _is_users():
            self.reads.uses.add(f"takes `{name}` of a size")

    def compare(self, other: Any) -> None:
        """Note the sizes for which a comparison with a number comes out in one way or the other.
        Of two sizes each is tried as the larger one.
        """
        is_real = isinstance(other, Real)
        if not _is_users():
            return
        if type(other) is Size:
            self.reads.pairs = True
        elif not is_real:
            self.reads.uses.add(f"compares a size with {type(other).__name__}")
        elif math.isfinite(other):
            number = math.floor(other)
            inputs = [*self.inputs(number), *self.inputs(number + 1)]
            near = (each for one in inputs for each in (one, one + 1))
            self.reads.compared.update(each for each in near if each > 0)
            if not inputs:
                self.reads.uses.add("compares what it computes of sizes")


def _of_the_input(value: int, size: int) -> Inverse:
    """What a size of a tensor inside comes from: it is about a multiple of that of the input, or a
    fraction.
    """
    if value > size:
        times = round(value / size)
        return lambda wanted: [wanted // times, wanted // times + 1]
    times = max(1, round(size / max(1, value)))
    return lambda wanted: [wanted * times, wanted * times + size - value * times]


# How to come from a result of an operation with a plain number back to the size.
INVERSE: dict[str, Callable[[int, int], list[int]]] = {
    "add": lambda wanted, number: [wanted - number],
    "radd": lambda wanted, number: [wanted - number],
    "sub": lambda wanted, number: [wanted + number],
    "rsub": lambda wanted, number: [number - wanted],
    "mul": lambda wanted, number: [wanted // number, wanted // number + 1] if number else [],
    "rmul": lambda wanted, number: [wanted // number, wanted // number + 1] if number else [],
    "floordiv": lambda wanted, number: [wanted * number, wanted * number + number],
    "mod": lambda wanted, number: [number + wanted],
}
NAMES = (
    *("add", "and", "floordiv", "lshift", "mod", "mul", "or", "pow", "rshift", "sub", "truediv"),
    "xor",
)
BINARY = {name: getattr(operator, f"__{name}__") for name in NAMES} | {"divmod": divmod}
UNCLEAR = (
    *("abs", "ceil", "float", "floor", "format", "hash", "index", "int", "invert", "neg", "pos"),
    *("reduce_ex", "repr", "round", "str", "trunc"),
)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, Number | np.ndarray)


def _plain(number: Any) -> Any:
    """A number that others can compute with."""
    if type(number) is Size:
        return number.number
    return number.item() if isinstance(number, np.generic) else number


def _arithmetic(name: str, compute: Callable[[Any, Any], Any]) -> Callable[[Size, Any], Any]:
    back = INVERSE.get(name)

    def operate(self: Size, other: Any) -> Any:
        if not _is_numeric(other):
            return NotImplemented
        number = _plain(other)
        value = compute(self.number, number)
        if not _is_users():
            return value
        if back is None or isinstance(other, np.ndarray):
            self.use(name)
            return value
        if type(value) is not int:
            self.reads.uses.add("computes a fraction of a size")
            return value
        if type(other) is Size:
            return Size(value, self.reads, lambda wanted: [])
        return Size(
            value,
            self.reads,
            lambda wanted: [each for one in back(wanted, number) for each in self.inputs(one)],
        )

    return operate


def _comparison(name: str) -> Callable[[Size, Any], Any]:
    compute = getattr(operator, name)

    def compare(self: Size, other: Any) -> Any:
        if not _is_numeric(other):
            return NotImplemented
        self.compare(other)
        return compute(self.number, _plain(other))

    return compare


def _unclear(name: str) -> Callable[..., Any]:
    plain = getattr(int, f"__{name}__")

    def use(self: Size, *args: Any) -> Any:
        self.use(name)
        return plain(self.number, *args)

    return use


def _reflected(compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda one, other: compute(other, one)


for _name, _compute in BINARY.items():
    setattr(Size, f"__{_name}__", _arithmetic(_name, _compute))
    setattr(Size, f"__r{_name}__", _arithmetic(f"r{_name}", _reflected(_compute)))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Size, f"__{_name}__", _comparison(_name))
for _name in UNCLEAR:
    setattr(Size, f"__{_name}__", _unclear(_name))


@contextlib.contextmanager
def watched(reads: Reads) -> Iterator[None]:
    """Note what is read of the shapes of symbolic tensors, in all threads."""
    shape = keras.KerasTensor.shape

    def read(tensor: keras.KerasTensor) -> Shape:
        found: Shape = shape.fget(tensor)
        return reads.note(found) if _is_read() else found

    keras.KerasTensor.shape = property(read, shape.fset)
    try:
        yield
    finally:
        keras.KerasTensor.shape = shape


def _is_read() -> bool:
    """Whether the `call` that is recorded reads a shape: Keras asks for sizes all the time, to
    infer what an operation returns, and runs what other layers call; and so does kito.
    """
    is_asked = False
    for module, function in _callers():
        if module == RECORDER:
            break
        if module.startswith("kito.graph."):
            return False
        if module.startswith("keras.src."):
            if function in INFERENCE:
                return False
        else:
            is_asked = True
    return is_asked


def _is_users() -> bool:
    """Whether the user's code does something with a size, or lets numpy or a layer's
    `compute_output_shape` do it. Keras, TensorFlow and kito do much with sizes of their own accord.
    """
    asked = ""
    for module, function in _callers():
        if module.startswith("kito.graph."):
            return False
        if module.startswith("keras.src."):
            asked = function
        elif not module.startswith(("numpy.", "tensorflow.")):
            return asked in ("", "compute_output_shape")
    return False


def _callers() -> Iterator[tuple[str, str]]:
    """The modules and names of the functions that are running, but for what acts for others."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module not in (__name__, ON_BEHALF):
            yield module, frame.f_code.co_name
        frame = frame.f_back
