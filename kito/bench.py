"""How long a model takes, as it is and optimized, in all that can run it here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any

import keras
import numpy as np

from kito.discovery import engine_named
from kito.distance import differences, magnitude
from kito.errors import first_line
from kito.forward import as_called
from kito.prediction import Predictor, load_predictor
from kito.progress import track
from kito.reference import Reference
from kito.samples import random_inputs, with_known_inputs
from kito.selection import medians, optimized
from kito.tables import Table, render
from kito.turns import in_turns
from kito.ways import KERAS, Run, Way, ways

BATCH_SIZES = (1, 8, 32)
SECONDS = 10.0
LEAST = 5
# Times as slow as Keras, that is, and not worth the time that it would take on larger batches.
HOPELESS = 4
# Of the time that a batch size gets: what the choice of `kito.predictor` takes, and the turns of
# all ways.
CHOOSING = 0.3
ALL = 0.2
# So near the fastest without kito, a way is timed as often as that.
NEAR = 1.1
PREDICTOR = "kito.predictor"
BY_HAND = "its engine by hand"


@dataclass(frozen=True)
class Timing:
    """One way to run one batch size.

    Attributes:
        way: what ran it.
        optimized: whether it ran kito's model.
        exact: whether it computed in the model's own precision.
        batch_size: the number of samples.
        seconds: of each run, none if it could not run.
        difference: the largest difference from what Keras answers, as a part of its largest answer.
        mean_difference: the mean difference, as a part of the same.
        reason: why it could not run.
        chosen: the engine that `kito.predictor` chose, of its row and of the one by hand.
    """

    way: str
    optimized: bool
    exact: bool
    batch_size: int
    seconds: tuple[float, ...] = ()
    difference: float | None = None
    mean_difference: float | None = None
    reason: str | None = None
    chosen: str | None = None

    @property
    def median(self) -> float | None:
        """Seconds a batch."""
        return median(self.seconds) if self.seconds else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """What a quarter of the runs stays below, and what a quarter exceeds."""
        if len(self.seconds) < 2:
            return None
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Bench:
    """What was measured; `print(bench)` shows it as tables, one a batch size.

    Attributes:
        weakness: why wrong answers might not have shown, in words; None if they would.
    """

    timings: tuple[Timing, ...]
    weakness: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain lists, dicts, strings and numbers."""
        timings = [asdict(each) | {"median": each.median} for each in self.timings]
        return {"timings": timings, "weakness": self.weakness}

    def tables(self) -> list[Table]:
        """The figures as tables, the fastest way first."""
        sizes = dict.fromkeys(each.batch_size for each in self.timings)
        return [self._table(size) for size in sizes]

    def _table(self, size: int) -> Table:
        these = [each for each in self.timings if each.batch_size == size]
        base = next(each.median for each in these if each.way == KERAS and not each.optimized)
        these.sort(key=lambda each: each.median or float("inf"))
        columns = ("way", "model", "ms a batch", "quartiles", "to Keras", "difference", "left out")
        return Table(f"batches of {size}", columns, [_line(each, base) for each in these])

    def __str__(self) -> str:
        return render(self.tables())


def _line(timing: Timing, base: float | None) -> tuple[str, ...]:
    way = f"{timing.way} ({timing.chosen})" if timing.chosen else timing.way
    model = "kito" if timing.optimized else "source"
    if timing.median is None or base is None:
        return way, model, "", "", "", "", timing.reason or ""
    low, high = timing.quartiles or (timing.median, timing.median)
    return (
        way,
        model,
        f"{1000 * timing.median:.2f}",
        f"{1000 * low:.2f} to {1000 * high:.2f}",
        f"{base / timing.median:.2f} x",
        f"{timing.difference:.1e}",
        "",
    )


# Surrounds what a way does first: "prepare", and then "run".
Around = Callable[[Way, str], AbstractContextManager[object]]


def measure(
    model: keras.Model,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    *,
    seconds: float = SECONDS,
    around: Around = lambda way, step: nullcontext(),
) -> Bench:
    """Time all ways to run a model in turns, in one process.

    Each way runs once on a batch size before it is timed there, for that may compile something. All
    take a few turns; then Keras, what is the fastest without kito or near it, and `kito.predictor`
    take many, for these are compared. The engine of the latter is also called by hand, on arrays
    that fit. As in `kito.predictor`, an engine knows the shapes of the batch; what runs the model
    as it is has to find them out, for that is what Keras exports.

    ONNX Runtime's threads do not spin after a run, and OpenVINO computes in float32 where its row
    does not say otherwise. What takes more than four times as long as Keras on the first batch size
    is not timed on the others.

    Args:
        model: a trained Keras 3 model; it is not changed.
        batch_sizes: of the random batches.
        seconds: for each batch size; every way is timed five times in any case.
        around: contexts in which a way is prepared, and called for the first time.

    Raises:
        InputError: the model can't be used.
    """
    fast = optimized(model)
    result = fast(keras.backend.backend(), None)
    known = with_known_inputs(model, result)
    small = random_inputs(known, batch_sizes[0])
    reference = Reference.of(model, result, small, None)
    ready: dict[Way, Run] = {}
    reasons: dict[Way, str] = {}
    for way in track(ways(model, fast, reference), "preparing"):
        try:
            with around(way, "prepare"):
                run = way.prepare()
            with around(way, "run"):
                run(small)
        except Exception as error:  # each package says in its own way that it can't
            reasons[way] = f"{type(error).__name__}: {first_line(error)}"
        else:
            ready[way] = run
    timings: list[Timing] = []
    for size in track(batch_sizes, "timing"):
        measured = _timed(model, random_inputs(known, size), size, ready, seconds)
        timings += measured
        timings += [
            Timing(way.name, way.optimized, way.exact, size, reason=reason)
            for way, reason in reasons.items()
        ]
        if size == batch_sizes[0]:
            base = median(measured[0].seconds)
            for way, timing in list(zip(ready, measured, strict=False)):
                ratio = median(timing.seconds) / base
                if ratio > HOPELESS:
                    reasons[way] = f"{ratio:.0f} times as long as Keras on batches of {size}"
                    del ready[way]
    return Bench(tuple(timings), reference.weakness)


def _timed(
    model: keras.Model, batch: Any, size: int, ready: Mapping[Way, Run], seconds: float
) -> list[Timing]:
    """All that is ready in its order, and at the end what `kito.predictor` would choose of it."""
    expected = keras.tree.flatten(as_called(model).predict_on_batch(batch))
    fitted = {
        way: _fitted(run, batch)
        for way, run in ready.items()
        if way.optimized and way.exact and isinstance(run, Predictor)
    }
    times = medians(
        {way.name: partial(run, batch) for way, run in fitted.items()}, CHOOSING * seconds
    )
    chosen = min(times, key=lambda name: times[name])
    predictor = next(run for way, run in fitted.items() if way.name == chosen)
    auto = Way(PREDICTOR, True, True, lambda: predictor)
    by_hand = Way(BY_HAND, True, True, lambda: predictor.run)
    every: dict[Way, Run] = {**ready, **fitted, auto: predictor}
    runs = {way: partial(run, batch) for way, run in every.items()}
    runs[by_hand] = partial(predictor.run, predictor.signature.flatten(batch))
    measured = in_turns(runs, ALL * seconds, LEAST)
    compared = {way: runs[way] for way in (*_fastest(measured), auto, by_hand)}
    for way, more in in_turns(compared, (1 - ALL - CHOOSING) * seconds).items():
        measured[way] += more
    timings = []
    for way, run in runs.items():
        largest, mean = _apart(expected, keras.tree.flatten(run()))
        timings.append(
            Timing(
                way.name,
                way.optimized,
                way.exact,
                size,
                tuple(measured[way]),
                largest,
                mean,
                chosen=chosen if way in (auto, by_hand) else None,
            )
        )
    return timings


def _fitted(predictor: Predictor, batch: Any) -> Predictor:
    """The predictor as `kito.predictor` makes it for a batch of these shapes."""
    if engine_named(predictor.engine).holds_model:
        return predictor
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "predictor")
        predictor.save(path)
        return load_predictor(path, inputs=batch)


def _fastest(measured: Mapping[Way, Sequence[float]]) -> list[Way]:
    """Keras, and what runs the model as it is faster than all, or nearly so."""
    sources = [way for way in measured if way.exact and not way.optimized]
    near = NEAR * min(median(measured[way]) for way in sources)
    return [way for way in sources if way.name == KERAS or median(measured[way]) <= near]


def _apart(expected: list[Any], answer: list[Any]) -> tuple[float, float]:
    """The largest and the mean difference, of the output that differs most."""
    parts = []
    for right, other in zip(expected, answer, strict=True):
        unit = magnitude(right) or 1.0
        found = differences(right, other)
        parts.append((float(np.max(found, initial=0)) / unit, float(np.mean(found)) / unit))
    return max(parts)
