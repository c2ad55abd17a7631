"""Attributes that a layer's `call` sets before it reads them.

A layer that keeps what it computes, so that others can look at it, changes with each call. But if
it reads nothing of what the last call left, the next one is the same. That is so if it makes the
same calls with what it has in these attributes, with what nobody can read, and with what a call
leaves there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

import keras

from kito.graph.keras_internals import SET_FIRST, Change, StatefulCallError, untouched
from kito.graph.record import UntraceableError, are_alike, record

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
    changes = reason.changes if isinstance(reason, StatefulCallError) else ()
    if not changes:
        return False
    for each in changes:
        SET_FIRST.setdefault(each.layer, set()).add(each.name)
    with contextlib.suppress(Exception), untouched(layer):
        before = record(layer, args, kwargs)
        others = []
        for left in ([Unreadable() for _ in changes], [each.after for each in changes]):
            _give(changes, left)
            others.append(record(layer, args, kwargs))
        if all(are_alike(before, other) for other in others):
            return True
    for each in changes:
        SET_FIRST[each.layer].discard(each.name)
    return False


def _give(changes: Iterable[Change], values: Iterable[Any]) -> None:
    for each, value in zip(changes, values, strict=True):
        vars(each.layer)[each.name] = value  # not setattr: the layer need not notice


def _refuse(*args: Any) -> NoReturn:
    raise TypeError("this is not to be read")


class Unreadable:
    """What can be put somewhere, but not be looked at."""

    __getattribute__ = __eq__ = __bool__ = __len__ = __iter__ = __getitem__ = __call__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __contains__ = __setitem__ = __float__ = _refuse
