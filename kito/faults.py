"""A rule that fails does not take the run down: what it broke is found, left out, and named.

Equal runs make equal rewrites in equal order, so the rewrite that broke a result is found by
bisection: the model is built with the first half of the rewrites, then with the first quarter or
the first three quarters of them, and so on. What one search has shown to be right need not be
looked at in the next one. The time for all searches is limited: when it is over, the rules that may
be at fault are not used.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

import keras

from kito.definition import Rule
from kito.errors import GraphError, RuleError, VerificationError
from kito.graph.rewrite import Course, Rewrite
from kito.progress import doing
from kito.report import Fault, Report

# So many wrong rewrites of a rule, and it is not used at all.
PATIENCE = 3
# How long rewrites that are wrong are looked for, all together.
SECONDS = 300.0

logger = logging.getLogger("kito")


# Makes the optimized model of a run.
Build = Callable[[Sequence[Rule], Report, Course], keras.Model]
# What is wrong with a result, in words; None is nothing. It may add to the report what it saw.
Check = Callable[[keras.Model, Report], str | None]
Clock = Callable[[], float]


def build_right(
    build: Build,
    rules: Sequence[Rule],
    report: Report,
    check: Check,
    *,
    strict: bool,
    clock: Clock = time.monotonic,
) -> keras.Model:
    """The optimized model, without the rules that fail and the rewrites that make it wrong.

    Args:
        report: is filled with what was done, and with the faults.
        strict: raise at the first fault.

    Raises:
        RuleError, GraphError, VerificationError: a rule is at fault and `strict` is set, or no rule
            is: the model that nothing was rewritten in is wrong too.
    """
    rules = list(rules)
    faults: list[Fault] = []
    search = _Search(build, check, clock)
    while True:
        attempt, course = Report(), Course(dropped=search.dropped)
        try:
            fast = build(rules, attempt, course)
            problem = check(fast, attempt)
            if problem is None:
                attempt.faults += faults
                report.add(attempt)
                return fast
            if strict:
                raise VerificationError(problem)
        except RuleError as error:
            if strict:
                raise
            found = [Fault(error.rule, (), str(error))]
        except GraphError as error:
            if strict:
                raise
            found = search.faults(rules, course, str(error))
        else:
            found = search.faults(rules, course, problem)
        for fault in found:
            logger.warning("%s: %s", fault.rule, " ".join(fault.problem.split()))
        faults += found
        wrong = Counter(rule for rule, *_ in search.dropped)
        unused = {each.rule for each in found if not each.layers or wrong[each.rule] >= PATIENCE}
        if unused:
            rules = [rule for rule in rules if rule.name not in unused]
            search.right = 0  # other rules make other rewrites


class _Search:
    """The search for the rewrites that make results wrong, one after the other.

    Attributes:
        dropped: those that were found.
        right: so many rewrites of the next run are right, its first ones.
    """

    def __init__(self, build: Build, check: Check, clock: Clock) -> None:
        self.dropped: list[Rewrite] = []
        self.right = 0
        self._build, self._check, self._clock = build, check, clock
        self._start: float | None = None

    def faults(self, rules: Sequence[Rule], course: Course, problem: str) -> list[Fault]:
        """The rewrite after which a result is wrong for the first time, which is then dropped.

        Args:
            course: of a run whose result is wrong.

        Returns:
            One fault; or one for each rule that may be at fault, if the time is over.

        Raises:
            VerificationError: the result is wrong without any rewrite.
        """
        wrong = len(course.made)
        if self._start is None:
            self._start = self._clock()
            if wrong and not self._is_right(rules, 0):
                wrong = 0
        if not wrong:
            raise VerificationError(f"nothing was rewritten, and still: {problem}")
        if wrong <= self.right:  # the model answers otherwise than before
            self.right = 0
        steps = (wrong - self.right - 1).bit_length()
        with doing("looking for the rewrite that is wrong", steps) as step:
            while wrong - self.right > 1 and self._clock() - self._start < SECONDS:
                middle = (self.right + wrong) // 2
                if self._is_right(rules, middle):
                    self.right = middle
                else:
                    wrong = middle
                step()
        suspects = course.made[self.right : wrong]
        if len(suspects) > 1:
            why = f"{len(suspects)} rewrites may be wrong, and to find out which takes too long"
            return [
                Fault(rule, (), f"{why}: {problem}")
                for rule in dict.fromkeys(rule for rule, *_ in suspects)
            ]
        [(rule, path, names)] = suspects
        self.dropped += suspects
        return [Fault(rule, tuple("/".join((*path, name)) for name in names), problem)]

    def _is_right(self, rules: Sequence[Rule], most: int) -> bool:
        """Whether the result is right that has so many rewrites, the first ones."""
        trial = Report()
        try:
            fast = self._build(rules, trial, Course(most, self.dropped))
        except GraphError:
            return False
        return self._check(fast, trial) is None
