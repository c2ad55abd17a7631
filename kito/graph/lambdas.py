"""Lambda layers inside a composite: what their functions call is what the composite calls.

Keras loads no lambda unless it is told to trust the file, so what holds one could not be replaced
by the layers inside, though the class that makes it again can be loaded.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras


@contextlib.contextmanager
def lambdas_opened() -> Iterator[None]:
    """Let symbolic tensors go through the functions of Lambda layers, as if these stood in the call
    around them. One whose function can't take them is called as a layer.
    """
    thread = threading.get_ident()

    def call(layer: keras.layers.Lambda, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread and _gets_what_its_function_gets(layer, args, kwargs):
            # Whatever a function raises that was not written for symbolic tensors.
            with contextlib.suppress(Exception):
                outputs = layer.call(*args, **kwargs)
                if all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(outputs)):
                    return outputs
        return keras.Layer.__call__(layer, *args, **kwargs)

    keras.layers.Lambda.__call__ = call
    try:
        yield
    finally:
        del keras.layers.Lambda.__call__


def _gets_what_its_function_gets(layer: keras.layers.Lambda, args: Any, kwargs: Any) -> bool:
    """Whether a Lambda layer hands symbolic tensors to its function without a cast."""
    leaves = keras.tree.flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
    return (
        type(layer) is keras.layers.Lambda
        and bool(tensors)
        and not any(
            layer.autocast
            and keras.backend.is_float_dtype(tensor.dtype)
            and tensor.dtype != layer.compute_dtype
            for tensor in tensors
        )
    )
