"""A rule that fails does not take the run down: what it broke is found, left out, and named.

Equal runs make equal rewrites in equal order, so the rewrite that broke a result is found by
bisection: the model is built with the first half of the rewrites, then with the first quarter or
the first three quarters of them, and so on.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger("kito")


# Makes the optimized model of a run.
Build = Callable[[Sequence[Rule], Report, Course], keras.Model]
# What is wrong with a result, in words; None is nothing. It may add to the report what it saw.
Check = Callable[[keras.Model, Report], str | None]


def build_right(
    build: Build, rules: Sequence[Rule], report: Report, check: Check, *, strict: bool
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
    dropped: list[Rewrite] = []
    while True:
        attempt, course = Report(), Course(dropped=dropped)
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
            fault = Fault(error.rule, (), str(error))
        except GraphError as error:
            if strict:
                raise
            fault = _culprit(build, rules, course, check, str(error))
            dropped.append(course.made[-1])
        else:
            fault = _culprit(build, rules, course, check, problem)
            dropped.append(course.made[-1])
        faults.append(fault)
        logger.warning("%s: %s", fault.rule, " ".join(fault.problem.split()))
        if not fault.layers or Counter(rule for rule, *_ in dropped)[fault.rule] >= PATIENCE:
            rules = [rule for rule in rules if rule.name != fault.rule]


def _culprit(
    build: Build, rules: Sequence[Rule], course: Course, check: Check, problem: str
) -> Fault:
    """The rewrite after which a result is wrong for the first time.

    Args:
        course: of a run whose result is wrong; its last rewrite is then the one that was found.

    Raises:
        VerificationError: the result is wrong without any rewrite.
    """

    def is_right(most: int) -> bool:
        trial = Report()
        try:
            fast = build(rules, trial, Course(most, course.dropped))
        except GraphError:
            return False
        return check(fast, trial) is None

    right, wrong = 0, len(course.made)
    if not wrong or not is_right(0):
        raise VerificationError(f"nothing was rewritten, and still: {problem}")
    with doing("looking for the rewrite that is wrong", (wrong - 1).bit_length()) as step:
        while wrong - right > 1:
            middle = (right + wrong) // 2
            if is_right(middle):
                right = middle
            else:
                wrong = middle
            step()
    del course.made[wrong:]
    rule, path, names = course.made[-1]
    return Fault(rule, tuple("/".join((*path, name)) for name in names), problem)
