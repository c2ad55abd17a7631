"""Timing in turns: what else the machine does meanwhile slows all down alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from random import Random
from typing import TypeVar

Key = TypeVar("Key")


def in_turns(
    runs: Mapping[Key, Callable[[], object]],
    seconds: float,
    least: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[float]]:
    """The seconds that each run takes, in turns of changing order, until the time is over.

    Args:
        runs: each is called once before it is timed, for that may compile something.
        seconds: after that no turn begins.
        least: the number of turns that there are in any case.
    """
    for run in runs.values():
        run()
    times: dict[Key, list[float]] = {key: [] for key in runs}
    end = clock() + seconds
    order, shuffle, turn = list(runs), Random(0).shuffle, 0
    while turn < least or clock() < end:
        # What runs before leaves data in the caches, and threads that wait in a loop for a while.
        shuffle(order)
        for key in order:
            start = clock()
            runs[key]()
            times[key].append(clock() - start)
        turn += 1
    return times
