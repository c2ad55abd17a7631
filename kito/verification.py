"""Does a model compute what another one computes? Both run, on inputs that try different things.

How far two right answers may lie apart follows from what is computed, and is not guessed. A rewrite
rounds each weight once more and adds numbers up in another order. So two figures say how large the
differences may be:

- Depth: each layer rounds its output by half of `epsilon` of it at most. Independent roundings add
  up like the steps of a random walk, in two answers to `epsilon * sqrt(layers)` of the largest one.
- Sensitivity: the result runs once more, with each of its weights changed by one unit in the last
  place, up or down at random. As much as that changes the answer, rounding the weights may.

The bound of an output is the first and `SLACK` times the second. A model that amplifies the last
bit of its weights has a large sensitivity; the verification then says that it proves little, and
so where an output is the same for all inputs.

Where the model answers infinity or not a number there is nothing to compare with: a result that
scales before it adds up, and not after, may well have the number that the model missed. Where the
model is about to overflow it may have none, for the same reason. The other answers are compared,
and not to have a number there is a mistake.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from kito.distance import Mask, apart, finite, magnitude, numbers, spacing
from kito.errors import InputError, first_line
from kito.forward import answers, as_called
from kito.graph.keras_internals import input_structure, sublayers
from kito.graph.layer import to_numpy
from kito.progress import track
from kito.samples import random_inputs, with_known_inputs

# The largest of many differences is compared with what one draw of the roundings did.
SLACK = 8.0
# One draw may leave an answer alone that others change, such as a softmax of two equal numbers. So
# before a result is called wrong, this many are made.
DRAWS = 5
LARGE = 1000.0
# The sizes that dimensions get which are not known.
SIZES = (64, 96)
# A model that overflows at so many times the inputs is about to: the sum of n numbers is about
# sqrt(n) times smaller than what may overflow on the way to it.
HEADROOM = 64.0
# A sensitivity above this part of the largest output is worth a word.
ILL_CONDITIONED = 1e-2


@dataclass(frozen=True)
class Trial:
    """One output on one batch of inputs.

    Attributes:
        inputs: "random", "zeros", "large" or "given".
        output: its name.
        difference: the largest difference; infinite where one answer is a number and the other not.
        bound: what is allowed.
        sensitivity: how much the answer changes with the last bit of the weights.
        magnitude: the largest absolute value of the output.
        spread: how much the output differs between the samples; None if there is one sample only.
        compared: the part of its elements that were compared. The model answers infinity or not a
            number in the others, or is about to.
    """

    inputs: str
    output: str
    difference: float
    bound: float
    sensitivity: float
    magnitude: float
    spread: float | None
    compared: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether the difference is within the bound."""
        return self.difference <= self.bound

    @property
    def left_out(self) -> str | None:
        """What was not compared, in words; None if all was."""
        if self.compared == 1:
            return None
        part = "nothing was compared" if not self.compared else f"{self.compared:.1%} was compared"
        return f"on {_inputs(self.inputs)} {part} of {self.output}, as the model overflows"


@dataclass(frozen=True)
class Verification:
    """What running two models on the same inputs showed.

    Attributes:
        trials: an entry for each output of each batch.
        repeatable: whether the source model gave the same answer twice; if not, nothing was shown.
        error: what the result raised; None is nothing.
        unfit: the kinds of drawn inputs on which the source model does not run.
    """

    trials: tuple[Trial, ...]
    repeatable: bool = True
    error: str | None = None
    unfit: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all differences are within their bounds."""
        return self.error is None and all(trial.passed for trial in self.trials)

    @property
    def telling(self) -> tuple[Trial, ...]:
        """The trials in which anything was compared."""
        return tuple(each for each in self.trials if each.compared)

    @property
    def worst(self) -> Trial | None:
        """The trial that used the largest part of its bound."""
        return max(self.telling, key=lambda each: _part(each.difference, each.bound), default=None)

    @property
    def weakness(self) -> str | None:
        """Why a mistake might not show, in words; None if it would."""
        if not self.repeatable:
            return "the model gives another answer each time"
        if not self.trials:
            return "there was nothing to compare"
        told = {each.output for each in self.telling}
        for trial in self.trials:
            if trial.output not in told:
                return f"the model answers infinity or not a number in {trial.output}"
        if any(each.sensitivity > ILL_CONDITIONED * each.magnitude for each in self.telling):
            return "the model amplifies the last bit of its weights"
        varied = [each for each in self.telling if each.inputs in ("random", "given")]
        for name in dict.fromkeys(each.output for each in varied):
            spreads = [(each.spread, each.bound) for each in varied if each.output == name]
            if all(spread is not None and spread <= bound for spread, bound in spreads):
                return f"{name} is the same for all random inputs"
        return None

    def __str__(self) -> str:
        if self.error is not None:
            return f"the result does not run: {self.error}"
        parts = [each.left_out for each in self.trials if each.left_out]
        if worst := self.worst:
            verb = "differs" if worst.passed else "FAILS: it differs"
            parts.insert(
                0,
                f"on {_inputs(worst.inputs)}, {worst.output} {verb} by {worst.difference:.1e}, "
                f"where {worst.bound:.1e} is allowed; its largest value is {worst.magnitude:.1e}",
            )
        parts += [f"the model does not run on {_inputs(kind)}" for kind in self.unfit]
        if self.weakness:
            parts.append(f"this proves little: {self.weakness}")
        return "; ".join(parts)


def _inputs(kind: str) -> str:
    return {"zeros": "zeros", "other sizes": "inputs of other sizes"}.get(kind, f"{kind} inputs")


@dataclass(frozen=True)
class Expected:
    """What a model answers: all that is needed of it to check a result.

    Attributes:
        batches: the inputs, by kind.
        answers: to each of them.
        repeatable: whether the model gave the same answer twice.
        unfit: the kinds of drawn inputs on which the model does not run.
        beyond: its answers to inputs that are `HEADROOM` times as large, where they were needed.
    """

    model: keras.Model
    seed: int
    batches: dict[str, Any]
    answers: dict[str, Any]
    repeatable: bool
    unfit: tuple[str, ...] = ()
    beyond: dict[str, Any] = field(default_factory=dict, repr=False)

    def comparable(self, kind: str, result: Any) -> list[Mask]:
        """Where the answer to a batch says what a result has to be, for each output.

        Whether the model is about to overflow is found out only if it matters: if the result has no
        number where the model has one.
        """
        masks = [finite(each) for each in keras.tree.flatten(self.answers[kind])]
        pairs = zip(masks, keras.tree.flatten(result), strict=True)
        if any(mask.shape == np.shape(got) and np.any(mask > finite(got)) for mask, got in pairs):
            if kind not in self.beyond:
                self.beyond[kind] = self._beyond(kind)
            masks = [
                mask & finite(each)
                for mask, each in zip(masks, keras.tree.flatten(self.beyond[kind]), strict=True)
            ]
        return masks

    def _beyond(self, kind: str) -> Any:
        try:
            return _run(self.model, kind, _scaled(self.batches[kind], HEADROOM))
        except InputError:  # it can't take such numbers: then it can't overflow in them
            return self.answers[kind]


def verify(
    model: keras.Model, fast: keras.Model, inputs: Any = None, *, seed: int = 0
) -> Verification:
    """Run both models on random inputs, zeros, large numbers, and the given inputs, and compare.

    Batch sizes and other dimensions that the model leaves open get two different sizes. What the
    source model does not run on is left out.

    Args:
        inputs: one batch in the structure of `model.input`; None is none.
        seed: of the random inputs.

    Raises:
        InputError: the source model does not run on the given inputs, or none are given and it does
            not run on random ones.
    """
    return verified(expected(model, fast, inputs, seed=seed), fast)


def expected(
    model: keras.Model, fast: keras.Model, inputs: Any = None, *, seed: int = 0
) -> Expected:
    """What `verify` compares results with.

    Args:
        fast: one of them.

    Raises:
        InputError: as `verify` does.
    """
    batches = drawn_inputs(with_known_inputs(model, fast), seed, inputs)
    if inputs is not None:
        batches["given"] = inputs
    model = as_called(model)
    answers: dict[str, Any] = {}
    unfit: dict[str, InputError] = {}
    for kind, batch in track(batches.items(), "verifying"):
        try:
            answers[kind] = _run(model, kind, batch)
        except InputError as error:
            unfit[kind] = error
    needed = "random" if inputs is None else "given"
    if needed in unfit:
        raise unfit[needed]
    batches = {kind: batches[kind] for kind in answers}
    repeatable = _same(answers[needed], _run(model, needed, batches[needed]))
    return Expected(model, seed, batches, answers, repeatable, tuple(unfit))


def verified(source: Expected, fast: keras.Model) -> Verification:
    """Whether a result answers as expected."""
    if not source.repeatable:
        return Verification((), repeatable=False)
    model, batches = source.model, dict(source.batches)
    fast = as_called(fast)
    if "float16" in _float_dtypes(fast) - _float_dtypes(model):
        batches.pop("large", None)  # it was asked to compute in a dtype that has no large numbers
    try:
        results = _answers(fast, batches)
    except Exception as error:
        return Verification((), error=f"{type(error).__name__}: {first_line(error)}")
    trials = _trials(source, results, _epsilon(model, fast))
    for draw in range(DRAWS):
        if all(trial.passed for trial in trials) and draw:
            break
        with rounded_otherwise(fast, model, source.seed + draw):
            shaken = _answers(fast, batches)
        trials = [
            _with_sensitivity(trial, got, other)
            for trial, got, other in zip(trials, _flat(results), _flat(shaken), strict=True)
        ]
    return Verification(tuple(trials), unfit=source.unfit)


def _flat(answers: dict[str, Any]) -> list[Any]:
    return [array for answer in answers.values() for array in keras.tree.flatten(answer)]


def _trials(source: Expected, results: dict[str, Any], precision: float) -> list[Trial]:
    """A trial for each output of each batch, as if the last bits of the weights did not matter."""
    rounding = precision * np.sqrt(len(sublayers(source.model)))
    names = getattr(source.model, "output_names", None) or []
    trials = []
    for kind, result in results.items():
        arrays = (keras.tree.flatten(each) for each in (source.answers[kind], result))
        masks = source.comparable(kind, result)
        for index, (right, got, mask) in enumerate(zip(*arrays, masks, strict=True)):
            largest = magnitude(right)
            trials.append(
                Trial(
                    inputs=kind,
                    output=names[index] if index < len(names) else f"output {index}",
                    difference=apart(right, got, mask),
                    bound=float(rounding * largest),
                    sensitivity=0.0,
                    magnitude=largest,
                    spread=_spread(right),
                    compared=float(np.mean(mask)) if mask.size else 1.0,
                )
            )
    return trials


def _with_sensitivity(trial: Trial, got: Any, shaken: Any) -> Trial:
    """The trial, if one more draw of the last bits changed the answer as this."""
    sensitivity = max(trial.sensitivity, apart(got, shaken, finite(got) & finite(shaken)))
    bound = trial.bound + SLACK * (sensitivity - trial.sensitivity)
    return replace(trial, sensitivity=sensitivity, bound=bound)


def drawn_inputs(model: keras.Model, seed: int, given: Any = None) -> dict[str, Any]:
    """Batches that fit the model, by kind: random of two sizes, zeros, and large numbers.

    Args:
        given: a batch of inputs, of whose sizes are all but the others; None is none.
    """
    random = random_inputs(model, 2, seed, unknown_size=SIZES[0], shapes_of=_two_like(model, given))
    batches = {"random": random}
    if any(None in tensor.shape for tensor in keras.tree.flatten(input_structure(model))):
        batches["other sizes"] = random_inputs(model, 3, seed + 1, unknown_size=SIZES[1])
    batches["zeros"] = keras.tree.map_structure(
        lambda array: array if array.dtype == object else np.zeros_like(array), random
    )
    arrays = keras.tree.flatten(random)
    if any(map(_is_float, arrays)) and all(map(_holds_large, arrays)):
        batches["large"] = _scaled(random, LARGE)
    return batches


def _two_like(model: keras.Model, given: Any) -> Any:
    """Arrays with the sizes of the given inputs, but two samples where the model takes any number;
    None if these are not in the structure that it takes.
    """

    def array(tensor: keras.KerasTensor, value: Any) -> np.ndarray:
        samples, *sizes = np.shape(value)
        return np.broadcast_to(0, (samples if tensor.shape[0] else 2, *sizes))

    try:
        return keras.tree.map_structure(array, input_structure(model), given)
    except (TypeError, ValueError, IndexError):
        return None


def _scaled(batch: Any, factor: float) -> Any:
    """The batch with its floating-point numbers multiplied."""

    def scaled(value: Any) -> np.ndarray:
        array: np.ndarray = keras.ops.convert_to_numpy(value)
        return array * array.dtype.type(factor) if _is_float(array) else array

    with np.errstate(over="ignore"):
        return keras.tree.map_structure(scaled, batch)


def _is_float(array: np.ndarray) -> bool:
    if array.dtype == object:  # text
        return False
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(array.dtype)))


def _holds_large(array: np.ndarray) -> bool:
    """Whether sums of large numbers stay in the range of the dtype."""
    return array.dtype != np.float16


def _answers(model: keras.Model, batches: dict[str, Any]) -> dict[str, Any]:
    return {kind: answers(model, batch) for kind, batch in track(batches.items(), "verifying")}


def _run(model: keras.Model, kind: str, batch: Any) -> Any:
    try:
        return answers(model, batch)
    except Exception as error:
        raise InputError(
            f"the model '{model.name}' does not run on {_inputs(kind)}: {type(error).__name__}: "
            f"{first_line(error)}. Give some that it can take, in Python: `verify=inputs` of "
            "`kito.optimize`, `inputs=` of `kito.predictor`."
        ) from error


@contextlib.contextmanager
def rounded_otherwise(model: keras.Model, other: keras.Model, seed: int) -> Iterator[None]:
    """Each weight of the model one unit in the last place higher or lower, for a while.

    The last place is that of what the model computes in, which may be less than what it stores.

    Weights that it shares with the other model are left alone.
    """
    rng = np.random.default_rng(seed)
    coarsest = _epsilon(model)
    shared = {id(variable) for variable in other.variables}
    before = []
    try:
        for variable in model.weights:
            if id(variable) in shared or not keras.backend.is_float_dtype(variable.dtype):
                continue
            value = to_numpy(variable)
            before.append((variable, value))
            step = max(spacing(variable.dtype), coarsest)
            lower, upper = value.dtype.type(1 - step), value.dtype.type(1 + step)
            # Nothing here takes more memory than the weight does.
            up = rng.integers(0, 2, value.shape, dtype=np.bool_)
            variable.assign(value * np.where(up, upper, lower))
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _epsilon(*models: keras.Model) -> float:
    """The spacing of the least precise dtype that the models compute in."""
    floats = set().union(*map(_float_dtypes, models))
    if "float64" in floats and keras.backend.backend() != "tensorflow":
        floats.add("float32")  # in which Keras 3.15 computes parts of a float64 model there
    return max(map(spacing, floats), default=0.0)


def _float_dtypes(model: keras.Model) -> set[str]:
    """Those that a model computes in, and returns."""
    dtypes = {layer.compute_dtype for layer in sublayers(model)}
    dtypes |= {str(tensor.dtype) for tensor in getattr(model, "outputs", None) or ()}
    return {str(dtype) for dtype in dtypes if keras.backend.is_float_dtype(str(dtype))}


def _same(one: Any, other: Any) -> bool:
    return all(
        apart(a, b) == 0
        for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    )


def _spread(value: Any) -> float | None:
    array = numbers(value)
    if array is None or not array.ndim or len(array) < 2:
        return None
    known = np.where(np.isfinite(array), array, np.nan)
    return float(np.max(np.nan_to_num(np.ptp(known, axis=0)), initial=0.0))


def _part(difference: float, bound: float) -> float:
    return difference / bound if bound else float("inf") if difference else 0.0
