"""Which rules pay here: timed on the caller's model, data and machine.

Rules that are right but not always faster are tried one after the other, each against the best
model so far. What gains less than the noise is not kept, and in the end the winner has to beat the
plain default once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from kito.comparison import compare
from kito.definition import Rule
from kito.progress import track
from kito.report import Report, Timed

SECONDS = 120.0
GAIN = 1.02  # what two runs of the same model may differ by
REPEATS = 11

Build = Callable[[Sequence[Rule], Report], keras.Model]
# How many times faster the second model is.
Timer = Callable[[keras.Model, keras.Model, Any], float]


def speedup(model: keras.Model, other: keras.Model, inputs: Any) -> float:
    """The ratio of the median times of both models, run in turns."""
    return compare(model, other, inputs, repeats=REPEATS).speedup


def tune(
    build: Build,
    default: Sequence[Rule],
    optional: Sequence[Rule],
    inputs: Any,
    report: Report,
    *,
    seconds: float = SECONDS,
    timer: Timer = speedup,
) -> keras.Model:
    """The fastest model that adding or leaving out one rule after the other leads to.

    Args:
        build: optimizes the model with the rules that it is given.
        default: the rules to start with; those that are default on some targets only are tried
            without as well.
        optional: the rules to try.
        inputs: one batch for the model.
        report: is filled with what was kept, and with the times.
        seconds: after this time nothing more is tried.

    Returns:
        A model that is no slower than the one of the default rules.
    """
    start = time.monotonic()
    first_report = Report()
    first = build(default, first_report)
    best, best_rules, best_report = first, list(default), first_report
    measured = [rule for rule in default if not isinstance(rule.default, bool)]
    trials = [*measured, *(rule for rule in optional if rule not in default)]
    timed: list[Timed] = []
    for rule in track(trials, "timing rules"):
        if time.monotonic() - start > seconds:
            report.notes.append(f"{rule.name} is not timed: {seconds:.0f} seconds are over")
            continue
        without = [each for each in best_rules if each is not rule]
        rules = without if rule in best_rules else [*best_rules, rule]
        candidate_report = Report()
        candidate = build(rules, candidate_report)
        if rule.name not in {**best_report.folded, **candidate_report.folded}:
            continue  # it rewrites nothing
        ratio = timer(best, candidate, inputs)
        timed.append(Timed(rule.name, rule in rules, ratio, ratio > GAIN))
        if ratio > GAIN:
            best, best_rules, best_report = candidate, rules, candidate_report
    if best is not first and timer(first, best, inputs) < 1:
        report.notes.append("together the rules that were kept are slower than the default set")
        best, best_report = first, first_report
    report.add(best_report)
    report.timed += timed
    return best
