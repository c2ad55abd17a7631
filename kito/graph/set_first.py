"""Attributes that a layer's `call` sets before it reads them.

A layer that keeps what it computes, so that others can look at it, changes with each call. But if
it reads nothing of what the last call left, the next one is the same. That is so if it makes the
same calls with what it has in these attributes, with what nobody can read, and with what a call
leaves there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NoReturn, TypeVar

import keras

from kito.graph.keras_internals import (
    infers,
    is_users,
    sublayers,
)
from kito.graph.record import UntraceableError, are_alike, record
from kito.graph.untouched import SET_FIRST, Change, StatefulCallError, untouched

Traced = TypeVar("Traced")


def traced(attempt: Callable[[], Traced], layer: keras.Layer, args: Any, kwargs: Any) -> Traced:
    """What an attempt to trace a call gives, once more if the call turns out to set first what it
    changes.

    Args:
        args, kwargs: the arguments of the call, with a `Tensor` where the layer gets a tensor.

    Raises:
        UntraceableError: what the attempt raises.
    """
    try:
        return attempt()
    except UntraceableError as error:
        if not _sets_first(error, layer, args, kwargs):
            raise
    return attempt()


def _sets_first(error: UntraceableError, layer: keras.Layer, args: Any, kwargs: Any) -> bool:
    """Whether a call that changes attributes sets them first. These may change from then on."""
    reason = error.__cause__
    if not isinstance(reason, StatefulCallError) or not reason.changes:
        return False
    changes = tuple(reason.changes)
    try:  # layers that did not run may change, too
        with untouched(layer), _all_run(layer):
            record(layer, args, kwargs)
    except StatefulCallError as more:
        if not more.changes:
            return False
        known = {(each.layer, each.name) for each in changes}
        changes += tuple(each for each in more.changes if (each.layer, each.name) not in known)
    except Exception:
        return False
    for each in changes:
        SET_FIRST.setdefault(each.layer, set()).add(each.name)
    with contextlib.suppress(Exception), untouched(layer), _all_run(layer):
        before = record(layer, args, kwargs)
        others, are_set = [], True
        for left in ([Unreadable() for _ in changes], [each.after for each in changes]):
            _give(changes, left)
            others.append(record(layer, args, kwargs))
            are_set &= not any(type(vars(each.layer)[each.name]) is Unreadable for each in changes)
        if are_set and all(are_alike(before, other) for other in others):
            return True
    for each in changes:
        SET_FIRST[each.layer].discard(each.name)
    return False


@contextlib.contextmanager
def _all_run(layer: keras.Layer) -> Iterator[None]:
    """Let Keras run the calls of the layers inside a layer, also of those that say themselves what
    they return.
    """
    silent = [part for part in sublayers(layer)[1:] if is_users(type(part)) and infers(part)]
    for part in silent:
        vars(part)["compute_output_spec"] = partial(keras.Operation.compute_output_spec, part)
    try:
        yield
    finally:
        for part in silent:
            del vars(part)["compute_output_spec"]


def _give(changes: Iterable[Change], values: Iterable[Any]) -> None:
    for each, value in zip(changes, values, strict=True):
        vars(each.layer)[each.name] = value  # not setattr: the layer need not notice


def _refuse(*args: Any) -> NoReturn:
    raise TypeError("this is not to be read")


class Unreadable:
    """What can be put somewhere, but not be looked at."""

    __getattribute__ = __eq__ = __bool__ = __len__ = __iter__ = __getitem__ = __call__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __contains__ = __setitem__ = __float__ = _refuse
