"""What a model may take of the machine: no more memory than its file, or one sample, is worth."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

import keras

from kito.errors import InputError
from kito.graph.keras_internals import calls_in_order, is_graph_model, sublayers
from kito.samples import UNKNOWN_SIZE

# So many numbers are allowed whatever the file has.
SMALL = 2**24
# The largest batch that the command runs.
BATCH = 4


@contextlib.contextmanager
def bounded_variables(name: str, numbers: int) -> Iterator[None]:
    """Let Keras make no more variables than a file has weights for, or twice as many.

    Not all variables are in the file: seeds, what LoRA adds, what metrics count in.

    Args:
        name: of the file, for the message.
        numbers: how many it has.

    Raises:
        InputError: on making one more.
    """
    made = 0
    make = keras.Variable.__init__

    def counted(
        variable: Any, initializer: Any, shape: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        nonlocal made
        if isinstance(shape, (list, tuple)) and all(isinstance(size, int) for size in shape):
            made += math.prod(shape)
            if made > 2 * numbers + SMALL:
                raise InputError(
                    f"the configuration in '{name}' asks for a weight "
                    f"'{kwargs.get('name')}' of the shape {tuple(shape)}, and the file has "
                    f"{numbers:,} numbers for all its weights. It is damaged: save the model anew."
                )
        make(variable, initializer, shape, *args, **kwargs)

    keras.Variable.__init__ = counted
    try:
        yield
    finally:
        keras.Variable.__init__ = make


def check_tensors(name: str, model: keras.Model) -> None:
    """Refuse a model that this machine can't run.

    Args:
        name: of the file, for the message.

    Raises:
        InputError: one tensor of a small batch is larger than the memory.
    """
    if not hasattr(os, "sysconf"):  # Windows does not say
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for layer in sublayers(model):
        if not isinstance(layer, keras.Model) or not is_graph_model(layer):
            continue
        for call in calls_in_order(layer):
            for tensor in call.outputs:
                batch, *rest = tensor.shape or (1,)
                size = (batch or BATCH) * math.prod(each or UNKNOWN_SIZE for each in rest)
                if 4 * size > memory:
                    raise InputError(
                        f"the output of '{call.operation.name}' in '{name}' has the shape "
                        f"{tensor.shape}; {BATCH} samples of it need {4 * size / 2**30:,.0f} GiB, "
                        f"and this machine has {memory / 2**30:,.0f}. If that is right, optimize "
                        "the model on a larger machine."
                    )
