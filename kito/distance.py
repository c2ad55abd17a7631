"""How far two arrays lie apart, and how large one is, whatever they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


def numbers(value: Any) -> Float64 | None:
    """An array as float64; None if it holds text."""
    array = np.asarray(value)
    return None if array.dtype.kind in "OSU" else array.astype(np.float64)


def differences(one: Any, other: Any) -> Float64:
    """The absolute difference of each element of two arrays of one shape.

    Nothing where both are the same infinity, or not a number; not a number where one of them is
    that. Of text, 1 where it differs.
    """
    first, second = numbers(one), numbers(other)
    if first is None or second is None:
        changed: Float64 = np.asarray(np.asarray(one) != np.asarray(other), np.float64)
        return changed
    with np.errstate(invalid="ignore"):
        same = (first == second) | (np.isnan(first) & np.isnan(second))
        apart: Float64 = np.where(same, 0.0, np.abs(first - second))
    return apart


def apart(one: Any, other: Any, where: Mask | None = None) -> float:
    """The largest difference; infinite where one is a number and the other not, or missing.

    Args:
        where: of the shape of `one`; the other elements are not looked at. None is everywhere.
    """
    if np.shape(one) != np.shape(other):
        return float("inf")
    each = differences(one, other)
    looked_at = True if where is None else where
    return float(np.max(np.where(np.isnan(each), np.inf, each), initial=0.0, where=looked_at))


def finite(value: Any) -> Mask:
    """Which elements are neither infinite nor not a number; all of a text."""
    array = numbers(value)
    return np.ones(np.shape(value), bool) if array is None else np.isfinite(array)


def spacing(dtype: str) -> float:
    """The distance of 1 from the next larger number."""
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


def magnitude(value: Any) -> float:
    """The largest absolute value of an array that is finite; 1 for text."""
    array = numbers(value)
    if array is None:
        return 1.0
    return float(np.max(np.abs(array[np.isfinite(array)]), initial=0.0))
