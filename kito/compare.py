"""Run two models on the same inputs and say how much their answers and their times differ."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import keras
import numpy as np

from kito.errors import InputError
from kito.graph.keras_internals import sublayers
from kito.samples import random_inputs
from kito.tables import Table, render


@dataclass(frozen=True)
class OutputDifference:
    """How one output differs: absolute figures, and the largest absolute value of the source's."""

    name: str
    maximum: float
    mean: float
    magnitude: float

    @property
    def relative(self) -> float:
        """The maximum difference as a part of the largest output."""
        return self.maximum / self.magnitude if self.magnitude else self.maximum


@dataclass(frozen=True)
class Comparison:
    """Figures of two models; `print(comparison)` shows them as a table.

    Attributes:
        outputs: the differences, one entry an output.
        seconds: the median time of one batch, of the source and the other model.
        layers, parameters: the counts, those of nested layers included, of both models.
    """

    outputs: tuple[OutputDifference, ...]
    seconds: tuple[float, float]
    layers: tuple[int, int]
    parameters: tuple[int, int]

    @property
    def relative(self) -> float:
        """The largest relative difference of all outputs."""
        return max(output.relative for output in self.outputs)

    @property
    def speedup(self) -> float:
        """How many times faster the second model ran."""
        return self.seconds[0] / self.seconds[1]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain lists, dicts, strings and numbers."""
        return dataclasses.asdict(self) | {"relative": self.relative, "speedup": self.speedup}

    def to_json(self) -> str:
        """The figures as a JSON document."""
        return json.dumps(self.to_dict(), indent=2)

    def tables(self) -> list[Table]:
        """The figures as tables; `str(comparison)` renders them."""
        return [
            Table(
                "models",
                ("", "before", "after"),
                [
                    ("layers", *(f"{count:,}" for count in self.layers)),
                    ("parameters", *(f"{count:,}" for count in self.parameters)),
                    ("ms a batch", *(f"{1000 * seconds:.1f}" for seconds in self.seconds)),
                    ("speed", "1.00 x", f"{self.speedup:.2f} x"),
                ],
            ),
            Table(
                "outputs",
                ("output", "max difference", "mean difference", "largest output", "relative"),
                [
                    (
                        row.name,
                        f"{row.maximum:.2e}",
                        f"{row.mean:.2e}",
                        f"{row.magnitude:.2e}",
                        f"{row.relative:.2e}",
                    )
                    for row in self.outputs
                ],
            ),
        ]

    def __str__(self) -> str:
        return render(self.tables())


def compare(
    model: keras.Model,
    fast: keras.Model,
    inputs: Any = None,
    *,
    batch_size: int = 8,
    repeats: int = 5,
) -> Comparison:
    """Run both models on the same batch, in turns, and compare answers and times.

    Args:
        inputs: one batch in the structure of `model.input`; None draws a random one.
        batch_size: of the random batch.
        repeats: how often each model is timed, after one run that is not.

    Raises:
        InputError: the models take or give different structures.
    """
    if inputs is None:
        inputs = random_inputs(model, batch_size)
    answers = [_run(each, inputs) for each in (model, fast)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for each, durations in zip((model, fast), times, strict=True):
            start = time.perf_counter()
            each.predict_on_batch(inputs)
            durations.append(time.perf_counter() - start)
    return Comparison(
        outputs=tuple(_differences(model, *answers)),
        seconds=(median(times[0]), median(times[1])),
        layers=(len(sublayers(model)) - 1, len(sublayers(fast)) - 1),
        parameters=(model.count_params(), fast.count_params()),
    )


def compare_two_models_results(
    m1: keras.Model, m2: keras.Model, test_number: int = 10000, max_batch: int = 10000
) -> float:
    """The largest absolute difference of two models on random inputs, as the original KITO had it.

    Args:
        test_number: how many samples, drawn uniformly from 0 to 1.
        max_batch: how many samples are made at a time.

    Returns:
        The largest difference over all outputs; times and the mean difference are printed.

    Raises:
        InputError: the models take or give different structures.
    """
    raise NotImplementedError
