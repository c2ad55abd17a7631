"""Does a `call` ask for the size of a tensor? One that doesn't makes the same calls at every size.

Keras asks for sizes all the time, to infer what an operation returns. What counts is who wants to
know: whatever stands between the question and the next operation of Keras.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType

import keras

from kito.graph.record import LOCK

# In these functions Keras infers what an operation returns.
INFERENCE = ("__call__", "symbolic_call", "compute_output_spec")
# They read shapes for kito.
OWN = ("kito.graph.record", "kito.graph.trace")
# It reads them for the `call` that is recorded.
ON_BEHALF = "kito.graph.tensorflow_functions"


@contextlib.contextmanager
def sizes_read() -> Iterator[list[str]]:
    """Watch the shapes of symbolic tensors, in all threads.

    Yields:
        The functions that have read one; is added to.
    """
    readers: list[str] = []
    with LOCK:
        shape = keras.KerasTensor.shape

        def read(tensor: keras.KerasTensor) -> tuple[int | None, ...]:
            reader = _reader(sys._getframe(1))
            if reader is not None:
                readers.append(reader)
            found: tuple[int | None, ...] = shape.fget(tensor)
            return found

        keras.KerasTensor.shape = property(read, shape.fset)
        try:
            yield readers
        finally:
            keras.KerasTensor.shape = shape


def _reader(frame: FrameType | None) -> str | None:
    """The function for which a shape is read, or None if that is for Keras, or for kito."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module in OWN:
            return None
        if module.startswith("keras.src."):
            if frame.f_code.co_name in INFERENCE:
                return None
        elif module != ON_BEHALF:
            return frame.f_code.co_qualname
        frame = frame.f_back
    return None
