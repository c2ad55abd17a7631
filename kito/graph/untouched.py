"""A call that leaves no trace in the layer that is called; that it would have left one is an error.

What a layer keeps from one call to the next, such as a counter, its next call may read.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np

from kito.graph.keras_internals import in_stateless_scope, is_users, own_attributes, sublayers
from kito.graph.untracked import attributes

# The first call of a layer sets these, also of one that has no weights to build.
CHANGED_BY_ANY_CALL = {"_called", "_parent_path", "_path", "built", "_build_shapes_dict"}


@dataclass(frozen=True)
class Change:
    """A Python attribute of a layer that a call gave another value."""

    layer: keras.Layer
    name: str
    after: Any


# The attributes that the calls of a layer set before they read them, see set_first.py.
SET_FIRST: WeakKeyDictionary[keras.Layer, set[str]] = WeakKeyDictionary()


class StatefulCallError(Exception):
    """A layer's call has an effect on the layer: on these attributes, if that is all."""

    def __init__(self, said: str, changes: Sequence[Change] = ()) -> None:
        super().__init__(said)
        self.changes = changes


@contextlib.contextmanager
def untouched(layer: keras.Layer) -> Iterator[None]:
    """Let a layer's `call` run on symbolic tensors, and leave no trace of that in the layer.

    Raises:
        StatefulCallError: if the call assigns to a variable, which it can't; on leaving, if it
            changed a Python attribute, or a container or an object in one (which is put back).
    """
    parts = sublayers(layer)
    before = [dict(vars(part)) for part in parts]
    held = [(f"{part.name}.{name}", *each) for part in parts for name, *each in _held(part)]
    losses = [
        (holder, _contents(holder)) for part in parts for holder in (part._losses, part._loss_ids)
    ]
    calls = [(len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts]
    tracked = [_tracked(part) for part in parts]
    try:
        with _not_assigned(layer):
            yield
    finally:
        changed: list[str] = []
        changes: list[Change] = []
        for part, own, (inbound, outbound) in zip(parts, before, calls, strict=True):
            del part._inbound_nodes[inbound:]
            del part._outbound_nodes[outbound:]
            now = vars(part)
            if _are_same_objects(now, own):
                continue
            if not _was_built_by_the_call(own, now, type(part)):
                for name in {*now, *own} - CHANGED_BY_ANY_CALL - SET_FIRST.get(part, set()):
                    if not _is_same(now.get(name, before), own.get(name, before)):
                        changed.append(f"{part.name}.{name}")
                        changes.append(Change(part, name, now.get(name)))
            now.clear()
            now.update(own)
        for part, known in zip(parts, tracked, strict=True):
            if _tracked(part) != known:
                _forget(part, *known)
        for holder, contents in losses:
            _put_back(holder, contents)
        for name, holder, contents in held:
            if not _is_as_it_was(holder, contents):
                changed.append(name)
                changes.clear()
                _put_back(holder, contents)
    if changed:
        first, *others = sorted(changed)
        more = f" and {len(others)} more" if others else ""
        said = f"its call changes {first}{more}: the next need not be the same"
        raise StatefulCallError(said, changes if len(changes) == len(changed) else ())


def _tracked(layer: keras.Layer) -> tuple[bool, dict[str, int]]:
    """Whether a layer may get no more weights and layers, and how many it has of each kind."""
    tracker = layer._tracker
    return tracker.locked, {name: len(store) for name, (_, store) in tracker.config.items()}


def _forget(layer: keras.Layer, locked: bool, counts: dict[str, int]) -> None:
    """Take from a layer the weights and layers that it got last, so that it can be built again."""
    tracker = layer._tracker
    tracker.locked = locked
    for name, (_, store) in tracker.config.items():
        del store[counts[name] :]
        tracker.stored_ids[name] = {*map(id, store)}


# A container, or an object, that is held in an attribute, and what it holds in turn.
Held = tuple[str, Any, Any]
CONTAINERS: tuple[Any, ...] = (list, tuple, dict, set, deque)
PLAIN = (bool, int, float, str, bytes)


def _held(layer: keras.Layer) -> Iterator[Held]:
    """What a user's layer holds in its attributes and may change, by the name of the attribute."""
    waiting = [(name, vars(layer)[name]) for name in own_attributes(layer)]
    seen: set[int] = set()
    while waiting:
        name, holder = waiting.pop()
        if id(holder) in seen or not _is_holder(holder):
            continue
        seen.add(id(holder))
        contents = _contents(holder)
        if not isinstance(holder, tuple):
            yield name, holder, contents
        if not isinstance(holder, np.ndarray):
            waiting += [(name, each) for each in _objects(contents)]


def _is_holder(value: Any) -> bool:
    if isinstance(value, CONTAINERS):
        return True
    if type(value) is np.ndarray:
        return not value.dtype.hasobject
    known = isinstance(value, (keras.Operation, keras.Variable, type))
    has_any = hasattr(value, "__dict__") or hasattr(value, "__slots__")
    return not known and is_users(type(value)) and has_any


def _contents(holder: Any) -> Any:
    if isinstance(holder, np.ndarray):
        return holder.copy()
    kind = next((each for each in CONTAINERS if isinstance(holder, each)), attributes)
    return kind(holder)


def _objects(contents: Any) -> list[Any]:
    return [*contents, *contents.values()] if isinstance(contents, dict) else [*contents]


def _is_as_it_was(holder: Any, contents: Any) -> bool:
    if isinstance(holder, np.ndarray):
        with_nan = holder.dtype.kind in "fc"
        return np.array_equal(holder, contents, equal_nan=with_nan)
    return _are_same_objects(_contents(holder), contents)


def _are_same_objects(one: Any, other: Any) -> bool:
    pair = _objects(one), _objects(other)
    if len(pair[0]) != len(pair[1]):
        return False
    return all(map(operator.is_, *pair)) or all(map(_is_same, *pair))


def _is_same(one: Any, other: Any) -> bool:
    """Whether nobody can tell two values from each other."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return isinstance(one, PLAIN) and bool(one == other)


def _put_back(holder: Any, contents: Any) -> None:
    if isinstance(holder, list):
        holder[:] = contents
    elif isinstance(holder, np.ndarray):
        if holder.shape != contents.shape:
            holder.resize(contents.shape, refcheck=False)
        holder[...] = contents
    elif isinstance(holder, CONTAINERS):
        holder.clear()
        holder.extend(contents) if isinstance(holder, deque) else holder.update(contents)
    else:
        for name in attributes(holder).keys() - contents.keys():
            object.__delattr__(holder, name)  # also of one that is frozen
        for name, value in contents.items():
            object.__setattr__(holder, name, value)


@contextlib.contextmanager
def _not_assigned(layer: keras.Layer) -> Iterator[None]:
    """Let nothing be assigned to the variables of a layer but where Keras forgets that.

    Raises:
        StatefulCallError: where it is assigned.
    """
    thread = threading.get_ident()

    def refuse(variable: keras.Variable, assign: Callable[[Any], Any], value: Any) -> Any:
        if in_stateless_scope() or threading.get_ident() != thread:  # which may train the model
            return assign(value)
        raise StatefulCallError(
            f"the call of {layer.name} assigns to {variable.path}: the next need not be the same"
        )

    # Keras lists the state of a SeedGenerator twice where two layers hold that.
    variables = {id(variable): variable for variable in layer.variables}.values()
    before = [vars(variable).get("assign") for variable in variables]
    for variable in variables:
        vars(variable)["assign"] = functools.partial(refuse, variable, variable.assign)
    try:
        yield
    finally:
        for variable, assign in zip(variables, before, strict=True):
            if assign is None:
                del vars(variable)["assign"]
            else:
                vars(variable)["assign"] = assign


def _was_built_by_the_call(
    before: dict[str, Any], now: dict[str, Any], cls: type[keras.Layer]
) -> bool:
    """Whether a layer of Keras has changed only as any layer does when it is built.

    What a composite holds is not yet built where Keras has not run it, but only asked it for the
    shapes of its outputs.
    """
    return cls.__module__.startswith("keras.src.") and not before["built"] and now["built"]
