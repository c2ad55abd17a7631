"""Run two models on the same inputs and say how much their answers and their times differ."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import keras
import numpy as np

from kito.distance import differences, magnitude
from kito.errors import InputError, first_line
from kito.forward import answers, as_called, states_kept
from kito.graph.keras_internals import sublayers
from kito.graph.layer import to_numpy
from kito.progress import track
from kito.samples import random_inputs, with_known_inputs
from kito.tables import Table, render

LARGEST_BATCH = 32


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


def largest_relative(outputs: Sequence[OutputDifference]) -> float:
    """The largest relative difference of all outputs; not a number if one of them is that."""
    return float(np.max([output.relative for output in outputs]))


def table_of(outputs: Sequence[OutputDifference]) -> Table:
    """The differences, one row an output."""
    return Table(
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
            for row in outputs
        ],
    )


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
        """The largest relative difference of all outputs; not a number if one of them is that."""
        return largest_relative(self.outputs)

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
            table_of(self.outputs),
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
        InputError: the models do not run on the inputs, or give different structures.
    """
    if inputs is None:
        inputs = random_inputs(with_known_inputs(model, fast), batch_size)
    called = [as_called(each) for each in (model, fast)]
    try:
        given = [answers(each, inputs) for each in track(called, "running")]
    except Exception as error:
        raise InputError(
            f"the models do not run on these inputs: {type(error).__name__}: {first_line(error)}. "
            "Give some that they can take: `inputs=`."
        ) from error
    times: tuple[list[float], list[float]] = ([], [])
    with states_kept(*called):
        for _ in track(range(repeats), "timing"):
            for each, durations in zip(called, times, strict=True):
                start = time.perf_counter()
                each.predict_on_batch(inputs)
                durations.append(time.perf_counter() - start)
    return Comparison(
        outputs=tuple(_differences(model, *given)),
        seconds=(median(times[0]), median(times[1])),
        layers=(len(sublayers(model)) - 1, len(sublayers(fast)) - 1),
        parameters=(model.count_params(), fast.count_params()),
    )


def compare_called(
    model: keras.Model, fast: keras.Model, inputs: Any
) -> tuple[OutputDifference, ...]:
    """How much the outputs of two models differ that are called once, and not compiled for that.

    Of a small model compiling takes most of the time.

    Args:
        inputs: one batch in the structure of `model.input`.

    Raises:
        InputError: the models give different structures.
    """
    tensors = keras.tree.map_structure(_tensor, inputs)
    given = []
    for each in (model, fast):
        with states_kept(each):
            given.append(keras.tree.map_structure(to_numpy, each(tensors, training=False)))
    return tuple(_differences(model, *given))


def _tensor(array: np.ndarray) -> Any:
    """An array as a tensor of its own dtype, which some backends would change."""
    return keras.ops.convert_to_tensor(
        array, dtype=None if array.dtype == object else array.dtype.name
    )


def compare_two_models_results(
    m1: keras.Model, m2: keras.Model, test_number: int = 10000, max_batch: int = 10000
) -> float:
    """The largest absolute difference of two models on random inputs, as the original KITO had it.

    Args:
        test_number: how many samples are drawn.
        max_batch: how many samples are made and run at a time; more than `LARGEST_BATCH` would
            only cost memory, so that is the limit.

    Returns:
        The largest difference over all outputs; times and the mean difference are printed.

    Raises:
        InputError: the models give different structures.
    """
    called = [as_called(each) for each in (m1, m2)]
    known = with_known_inputs(m1, m2)
    seconds = [0.0, 0.0]
    largest = total = count = 0.0
    for start in range(0, test_number, step := min(max_batch, LARGEST_BATCH)):
        inputs = random_inputs(known, min(step, test_number - start), seed=start)
        given = []
        for index, each in enumerate(called):
            with states_kept(each):
                began = time.perf_counter()
                given.append(each.predict_on_batch(inputs))
                seconds[index] += time.perf_counter() - began
        for one, other in _pairs(*given):
            apart = differences(one, other)
            largest = max(largest, float(apart.max(initial=0)))
            total += float(apart.sum())
            count += apart.size
    print(f"initial model: {seconds[0]:.2f} s for {test_number} random samples")
    print(f"reduced model: {seconds[1]:.2f} s for the same samples")
    print(f"largest difference: {largest:.3e}, mean difference: {total / max(count, 1):.3e}")
    return largest


def _pairs(answer: Any, other: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The arrays of two answers, in pairs.

    Raises:
        InputError: they have different structures or shapes.
    """
    try:
        keras.tree.assert_same_structure(answer, other)
    except ValueError as error:
        raise InputError(f"the models return different structures: {error}") from error
    pairs = [
        (np.asarray(a), np.asarray(b))
        for a, b in zip(keras.tree.flatten(answer), keras.tree.flatten(other), strict=True)
    ]
    for one, two in pairs:
        if one.shape != two.shape or one.dtype != two.dtype:
            raise InputError(
                f"the models return {one.shape} {one.dtype} and {two.shape} {two.dtype}"
            )
    return pairs


def _differences(model: keras.Model, answer: Any, other: Any) -> list[OutputDifference]:
    pairs = _pairs(answer, other)
    names = getattr(model, "output_names", None) or ["output"] * len(pairs)
    return [_difference(name, one, two) for name, (one, two) in zip(names, pairs, strict=True)]


def _difference(name: str, one: np.ndarray, two: np.ndarray) -> OutputDifference:
    apart = differences(one, two)
    return OutputDifference(
        name,
        maximum=float(np.max(apart, initial=0)),
        mean=float(np.mean(apart)) if apart.size else 0.0,
        magnitude=magnitude(one),
    )
