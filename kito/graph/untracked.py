"""What a layer computes with, and Keras does not know of.

Keras finds layers and weights in attributes that are assigned, and in containers there. It does not
look into functions, objects and cached properties: what stands there, `variables` lacks.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import (
    CellType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import keras
import numpy as np

from kito.graph.keras_internals import common_attributes, is_users, sublayers

HOLDERS = (list, tuple, dict, deque, CellType, MappingProxyType)
WRAPPED = ("python_function", "__wrapped__")


def parts_and_variables(layer: keras.Layer) -> tuple[list[keras.Layer], list[keras.Variable]]:
    """The layer and all layers inside it, and all variables of these, also those that Keras does
    not know of: these stand last.

    Raises:
        ValueError: these have no order.
    """
    parts, variables = sublayers(layer), list(layer.variables)
    known = {id(each) for each in variables}
    for each in _untracked(layer):
        own = [each] if isinstance(each, keras.Variable) else each.variables
        parts += () if isinstance(each, keras.Variable) else sublayers(each)
        variables += [variable for variable in own if id(variable) not in known]
        known |= {id(variable) for variable in own}
    return parts, variables


def _untracked(layer: keras.Layer) -> Iterator[keras.Layer | keras.Variable]:
    """The layers, but not those inside them, and variables that Keras does not know of."""
    seen = {id(each) for each in (*sublayers(layer), *layer.variables)}
    waiting = deque(value for part in sublayers(layer) for value in _attributes(part))
    while waiting:
        value = waiting.popleft()
        if id(value) in seen:
            continue
        if isinstance(value, weakref.ProxyTypes):  # what it stands for is held elsewhere
            continue
        if isinstance(value, np.ndarray) and value.dtype == object:
            waiting += value.ravel().tolist()
        if not gc.is_tracked(value):  # a number, a string, or what holds such only
            continue
        seen.add(id(value))
        if isinstance(value, keras.Variable):
            yield value
        elif isinstance(value, keras.Layer):
            yield value
            parts = sublayers(value)
            seen.update(id(each) for each in (*parts, *value.variables))
            waiting += [inner for part in parts for inner in _attributes(part)]
        elif not _is_of_keras(type(value)):
            waiting += _inside(value)


def _is_of_keras(cls: type) -> bool:
    """Whether objects of a class are Keras' own, such as initializers, and hold no layers."""
    return cls.__module__.startswith("keras.") and not issubclass(cls, keras.Operation)


def _attributes(layer: keras.Layer) -> list[Any]:
    """The values of attributes in which something may stand that Keras does not know of."""
    common = common_attributes(layer)
    return [
        value
        for name, value in vars(layer).items()
        if name not in common and (gc.is_tracked(value) or type(value) is np.ndarray)
    ]


def _inside(value: Any) -> list[Any]:
    """What a container, a function or an object holds that is not of a library.

    Raises:
        ValueError: a set holds layers or variables, of which nobody could tell which is which.
    """
    if isinstance(value, set | frozenset):
        if any(isinstance(each, keras.Layer | keras.Variable) for each in value):
            raise ValueError("it keeps layers or weights in a set, where they have no order")
        return []
    if isinstance(value, type | ModuleType):
        return []
    if isinstance(value, FunctionType | MethodType | partial):
        return list(made_of(value))
    if isinstance(value, HOLDERS) or is_users(type(value)):
        return gc.get_referents(value)  # also what stands in slots, and keys
    if isinstance(value, keras.Operation):  # as a keras.Function, which holds layers
        return list(vars(value).values())
    # What a library made of a function, as `tf.function` does.
    found = []
    for name in WRAPPED:
        with contextlib.suppress(Exception):
            found.append(getattr(value, name))
    return found


def made_of(function: Any) -> tuple[Any, ...]:
    """What says what a function does: its code, and the values that it took along."""
    if isinstance(function, partial):
        return function.func, function.args, function.keywords
    if isinstance(function, MethodType):
        return function.__func__, function.__self__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return function.__code__, cells, function.__defaults__, function.__kwdefaults__


def attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, also those that have a slot in its class: private ones by the
    name that Python gives them.
    """
    slots = [
        name
        for cls in type(value).__mro__
        if "__slots__" in vars(cls)  # which `__dict__` and `__weakref__` may stand in too
        for name, slot in vars(cls).items()
        if isinstance(slot, MemberDescriptorType)
    ]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return found | getattr(value, "__dict__", {})
