"""From a model to a predictor: every engine is tried, checked and timed; the fastest is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import median
from typing import Any

import keras

from kito import api, choice_cache
from kito.choice import Candidate, Choice, fastest_first
from kito.discovery import engine_named, engines
from kito.engines.engine import Engine, Settings, Shapes
from kito.errors import InputError, first_line
from kito.precision import POLICIES
from kito.prediction import Predictor
from kito.preparation import converted, prepare
from kito.progress import doing, track
from kito.reference import Reference
from kito.samples import random_inputs, with_known_inputs
from kito.turns import in_turns
from kito.writing import FilePath

AUTO = "auto"
SECONDS = 5.0
# After a part of the time, only those engines are timed on that are so near the fastest. Each has
# so many turns before, even if that takes longer: one time alone may be off by more.
FIRST = 0.4
NEAR = 1.25
LEAST = 2


def predictor(
    model: keras.Model,
    engine: str | Engine = AUTO,
    *,
    inputs: Any = None,
    batch_size: int = 1,
    precision: str | None = None,
    threads: int | None = None,
    seconds: float = SECONDS,
    cache: FilePath | None = None,
) -> Predictor:
    """The fastest function on this machine that gives the model's answers.

    The model is optimized for each engine, and each engine's answers are compared with those of the
    given model, on random inputs, large numbers and the given inputs. An engine that can't
    take the model, or answers otherwise, is left out; `print(predictor)` says why.

    Args:
        model: a trained Keras 3 model; it is not changed.
        engine: an engine, or the name of one, see `kito engines`; "auto" tries all that are
            registered, and takes the fastest.
        inputs: one batch in the structure of `model.input`, of the shapes that come most often, for
            which some engines are then faster; None draws a random one.
        batch_size: of the random batch.
        precision: "bfloat16" or "float16", to compute in 16 bits, which is not exact; None is the
            model's own precision, whatever the engine's default is.
        threads: how many processors the engine uses; None is its default.
        seconds: how long the engines are timed, all together; it takes longer where a few batches
            in each do.
        cache: a JSON file in which the choice of "auto" is kept, and looked up for the same kind of
            model, shapes and machine; nothing is timed then.

    Raises:
        InputError: the model, or what is given besides, can't be used; or no engine gives the
            model's answers. The message says why.
    """
    if precision not in (None, *POLICIES):
        raise InputError(f"there is no precision '{precision}'; there are {', '.join(POLICIES)}")
    registered = [each.engine for each in engines().values()]
    if isinstance(engine, Engine):
        wanted = [engine]
    else:
        wanted = registered if engine == AUTO else [engine_named(engine)]
    fast = optimized(model)
    result = fast(keras.backend.backend(), None)
    known = with_known_inputs(model, result)
    batch = random_inputs(known, batch_size) if inputs is None else converted(known, inputs)
    settings = Settings(precision, threads, shapes_of(batch))
    reference = Reference.of(model, result, batch, precision)

    def tried(some: Iterable[Engine]) -> list[Attempt]:
        return [attempt(fast, each, reference, settings) for each in some]

    if engine != AUTO or cache is None:
        return choose(tried(track(wanted, "trying engines")), batch, reference.weakness, seconds)
    key = choice_cache.key_of(model, shapes_of(batch), (precision, threads))
    known = choice_cache.look_up(cache, key)
    if known is not None and known.engine in engines():
        [again] = tried([engine_named(known.engine)])
        if again.predictor is not None:  # with other weights its answers may be wrong
            again.predictor.choice = replace(known, weakness=reference.weakness, cached=True)
            return again.predictor
    chosen = choose(tried(track(wanted, "trying engines")), batch, reference.weakness, seconds)
    choice_cache.keep(cache, key, chosen.choice)
    return chosen


def shapes_of(batch: Any) -> Shapes:
    """The shapes of the arrays in a structure."""
    return tuple(each.shape for each in keras.tree.flatten(batch))


@dataclass(frozen=True)
class Attempt:
    """An engine that was tried; it has a predictor if its answers are right."""

    candidate: Candidate
    predictor: Predictor | None = None


# From a target and a precision, None for the model's own, to the optimized model.
Fast = Callable[[str, str | None], keras.Model]


def optimized(model: keras.Model) -> Fast:
    """The model optimized for any target; what several engines share is made once."""

    @cache
    def fast(target: str, precision: str | None) -> keras.Model:
        return api.optimize(model, target=target, precision=precision)

    return fast


def attempt(
    fast: Fast,
    engine: Engine,
    reference: Reference,
    settings: Settings,
) -> Attempt:
    """Prepare the optimized model in an engine, and compare its answers."""
    if lacks := engine.lacks_to_save():
        return Attempt(Candidate(engine.name, reason=lacks))
    try:
        own = settings.precision in engine.precisions
        rewritten = fast(engine.target, None if own else settings.precision)
        predictor = prepare(rewritten, engine, settings)
        verification = reference.compare(predictor)
    except Exception as error:  # an engine says in its own way that it can't take a model
        reason = f"{type(error).__name__}: {first_line(error)}"
        return Attempt(Candidate(engine.name, reason=reason))
    parts = [each.difference / each.magnitude for each in verification.trials if each.magnitude]
    candidate = Candidate(engine.name, difference=max(parts, default=0.0))
    if not verification.passed:
        return Attempt(replace(candidate, reason=str(verification)))
    return Attempt(candidate, predictor)


def choose(
    attempts: Sequence[Attempt], batch: Any, weakness: str | None, seconds: float
) -> Predictor:
    """The fastest predictor, with the choice filled in.

    Raises:
        InputError: there is none.
    """
    ready = {
        each.candidate.engine: each.predictor for each in attempts if each.predictor is not None
    }
    if not ready:
        reasons = "; ".join(
            f"{each.candidate.engine}: {each.candidate.reason}" for each in attempts
        )
        raise InputError(f"no engine gives the model's answers: {reasons}")
    times = medians({name: partial(each, batch) for name, each in ready.items()}, seconds)
    fastest = min(times, key=lambda name: times[name])
    candidates = [replace(c.candidate, seconds=times.get(c.candidate.engine)) for c in attempts]
    chosen = ready[fastest]
    chosen.choice = Choice(fastest, shapes_of(batch), fastest_first(candidates), weakness)
    return chosen


def medians(
    runs: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median time of each, run in turns. What is alone is run once."""
    with doing("timing engines"):
        first, least = (FIRST * seconds, LEAST) if len(runs) > 1 else (0, 1)
        times = in_turns(runs, first, least, clock)
        near = NEAR * min(map(min, times.values()))
        close = {name: run for name, run in runs.items() if min(times[name]) <= near}
        if len(close) > 1:
            for name, more in in_turns(close, (1 - FIRST) * seconds, LEAST, clock).items():
                times[name] += more
    return {name: median(each) for name, each in times.items()}
