"""The sizes of tensors that a `call` reads, and what it compares them with.

A branch on a size shows where that is compared. So sizes that a record is made with, in the place
of unknown ones, note it: they are integers, and so is what is computed of them.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
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

    def note(self, shape: Shape) -> Shape:
        """The shape as the call gets it."""
        number = len(self.shapes)
        self.shapes.append(tuple(shape))
        if self.size is None:
            return shape
        known = self.before[number] if number < len(self.before) else (None,) * len(shape)
        if len(known) != len(shape):
            return shape  # it goes another way, as its record shows
        return tuple(
            Size.of(size, self, _of_the_input(size, self.size))
            if size is not None and self.is_unknown(old)
            else size
            for size, old in zip(shape, known, strict=True)
        )

    def is_unknown(self, size: int | None) -> bool:
        """Whether a size is one that the given one stands for now."""
        return size is None or (self.size is not None and size % self.size == 0 and size > 0)


# The sizes of the input for which something computed of them would be a given number.
Inverse = Callable[[int], list[int]]


class Size(int):
    """A size that was unknown, or what was computed of it."""

    reads: Reads
    inputs: Inverse

    @classmethod
    def of(cls, value: int, reads: Reads, inputs: Inverse) -> Size:
        """A number with what it comes from."""
        self = cls(value)
        self.reads, self.inputs = reads, inputs
        return self

    def compare(self, other: Any) -> None:
        """Note the sizes for which a comparison with a number comes out in one way or the other.
        Of two sizes each is tried as the larger one.
        """
        plain = isinstance(other, Real) and not isinstance(other, Size)
        self.reads.pairs |= isinstance(other, Size) and _is_users()
        if not plain or not math.isfinite(other) or not _is_users():
            return
        number = math.floor(other)
        inputs = [*self.inputs(number), *self.inputs(number + 1)]
        self.reads.compared.update(each for one in inputs for each in (one, one + 1) if each > 0)
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
UNCLEAR = (
    *("abs", "and", "ceil", "divmod", "float", "floor", "format", "hash", "int", "lshift", "neg"),
    *("or", "pow", "repr", "rfloordiv", "rmod", "round", "rshift", "rtruediv", "str", "truediv"),
    *("trunc", "xor"),
)


def _plain(number: Any) -> Any:
    """A number of numpy as one of Python, which a size can compute with."""
    return number.item() if isinstance(number, np.generic) else number


def _arithmetic(name: str) -> Callable[[Size, Any], Any]:
    plain = getattr(int, f"__{name}__")
    back = INVERSE[name]

    def operate(self: Size, other: Any) -> Any:
        other = _plain(other)
        value = plain(self, other)
        if not _is_users():
            return value
        if isinstance(other, float):
            self.reads.uses.add("computes a fraction of a size")
        if type(value) is not int:
            return value
        if isinstance(other, Size):
            return Size.of(value, self.reads, lambda wanted: [])
        return Size.of(
            value,
            self.reads,
            lambda wanted: [each for one in back(wanted, other) for each in self.inputs(one)],
        )

    return operate


def _comparison(name: str) -> Callable[[Size, Any], Any]:
    plain = getattr(int, f"__{name}__")

    def compare(self: Size, other: Any) -> Any:
        other = _plain(other)
        self.compare(other)
        return plain(self, other)

    return compare


def _unclear(name: str) -> Callable[..., Any]:
    plain = getattr(int, f"__{name}__")

    def use(self: Size, *args: Any) -> Any:
        if _is_users():
            self.reads.uses.add(f"takes `{name}` of a size")
        return plain(self, *args)

    return use


def _truth(self: Size) -> bool:
    self.compare(0)
    return int.__bool__(self)


for _name in INVERSE:
    setattr(Size, f"__{_name}__", _arithmetic(_name))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Size, f"__{_name}__", _comparison(_name))
for _name in UNCLEAR:
    setattr(Size, f"__{_name}__", _unclear(_name))
setattr(Size, "__bool__", _truth)  # noqa: B010 (mypy has the type of int's)


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
    """Whether code that is neither of Keras nor of kito does something with a size."""
    module, _ = next(_callers())
    return not module.startswith(("kito.graph.", "keras.src.", "tensorflow.", "numpy."))


def _callers() -> Iterator[tuple[str, str]]:
    """The modules and names of the functions that are running, but for what acts for others."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module not in (__name__, ON_BEHALF):
            yield module, frame.f_code.co_name
        frame = frame.f_back
