"""Lambda layers inside a composite: what their functions call is what the composite calls.

Keras loads no lambda unless it is told to trust the file, so what holds one could not be replaced
by the layers inside, though the class that makes it again can be loaded.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import keras

from kito.graph.keras_internals import is_users, sublayers
from kito.graph.untracked import made_of


@contextlib.contextmanager
def lambdas_opened(composite: keras.Layer) -> Iterator[None]:
    """Let symbolic tensors go through the functions of Lambda layers, as if these stood in the call
    of the composite. One whose function can't take them is called as a layer.
    """
    thread = threading.get_ident()
    known = set(map(id, sublayers(composite)))
    before = vars(keras.layers.Lambda).get("__call__")
    as_layer = before or keras.Layer.__call__

    def call(layer: keras.layers.Lambda, *args: Any, **kwargs: Any) -> Any:
        if (
            threading.get_ident() == thread
            and _gets_what_its_function_gets(layer, args, kwargs)
            and _takes_only_constants_along(layer.function, known)
        ):
            # Whatever a function raises that was not written for symbolic tensors.
            with contextlib.suppress(Exception):
                outputs = layer.call(*args, **kwargs)
                if all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(outputs)):
                    return outputs
        return as_layer(layer, *args, **kwargs)

    keras.layers.Lambda.__call__ = call
    try:
        yield
    finally:
        if before is None:
            del keras.layers.Lambda.__call__
        else:
            keras.layers.Lambda.__call__ = before


def _gets_what_its_function_gets(layer: keras.layers.Lambda, args: Any, kwargs: Any) -> bool:
    """Whether a Lambda layer hands symbolic tensors to its function without a cast, and no mask
    comes out of it.
    """
    leaves = keras.tree.flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
    return (
        type(layer) is keras.layers.Lambda
        and layer.mask is None
        and bool(tensors)
        and not any(
            layer.autocast
            and keras.backend.is_float_dtype(tensor.dtype)
            and tensor.dtype != layer.compute_dtype
            for tensor in tensors
        )
    )


def _takes_only_constants_along(function: Any, known: set[int]) -> bool:
    """Whether what a user's function took along is nothing that may change, and no layer but those
    that are known, by their ids: others would be called behind Keras' back.
    """
    waiting, seen = [function], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not is_users(value):  # a function of a library, or a type of one
            continue
        seen.add(id(value))
        if not isinstance(value, FunctionType):
            return False
        _, cells, defaults, others = made_of(value)
        for each in (*cells, *(defaults or ()), *(others or {}).values()):
            if isinstance(each, FunctionType):
                waiting.append(each)
            elif (
                gc.is_tracked(each)
                and id(each) not in known
                and not isinstance(each, type | ModuleType)
            ):
                return False
    return True
