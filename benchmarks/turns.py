"""Two models on the same batch in one process, in turns."""

from __future__ import annotations

import time
from statistics import median

import keras
import numpy as np
from rows import Row
from runtimes import Run

from kito import plugins

MOST_TURNS, LEAST_TURNS = 50, 6


def batch_for(model: keras.Model, size: int) -> np.ndarray:
    """Random numbers, always the same, that the model can read."""
    numbers = np.random.default_rng(0).normal(size=(size, *model.input_shape[1:]))
    return numbers.astype("float32")


def without_and_with(rule: str, target: str) -> tuple[list[str], list[str]]:
    """The rules that are default for the target without one of them, and with it."""
    others = [each.name for each in plugins.select(None, target) if each.name != rule]
    return others, [*others, rule]


def in_turns(before: Run, after: Run, batch: np.ndarray, seconds: float) -> Row:
    """The median times of two models, and the largest difference of what they answer."""
    runs = (before, after)
    expected, answer = (run(batch) for run in runs)
    times: list[list[float]] = [[], []]
    end = time.monotonic() + seconds
    while len(times[0]) < LEAST_TURNS or (time.monotonic() < end and len(times[0]) < MOST_TURNS):
        turn = list(zip(runs, times, strict=True))
        # Who is first has cold caches.
        for run, measured in turn if len(times[0]) % 2 else turn[::-1]:
            start = time.perf_counter()
            run(batch)
            measured.append(time.perf_counter() - start)
    slow, fast = (1000 * median(measured) for measured in times)
    return {
        "batch": str(len(batch)),
        "before_ms": f"{slow:.2f}",
        "after_ms": f"{fast:.2f}",
        "ratio": f"{slow / fast:.3f}",
        "difference": f"{np.abs(expected - answer).max() / np.abs(expected).max():.1e}",
        "repeats": str(len(times[0])),
    }
