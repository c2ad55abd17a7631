"""`validate`: is a rule right, on whatever its pattern can match?

It draws models that contain a match, lets the rule rewrite them, and compares the result with the
model. What differs is shrunk to the smallest model that shows it.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable, UnsatisfiedAssumption

from kito import plugins
from kito.api import explain
from kito.definition import Rule
from kito.errors import first_line
from kito.graph.keras_internals import fresh_names
from kito.graph.layer import to_numpy
from kito.outline import outline
from kito.progress import track
from kito.random_class_layers import MAKERS, given_by
from kito.random_matches import DRAWN_BY_NAME, Plan, any_match, matches
from kito.random_models import check
from kito.samples import random_inputs
from kito.tables import Table, render

# How many models are tried to find a smaller counterexample.
SHRINKING = 100
# hypothesis draws variations of what it drew before, but not of the first ten.
BATCH = 10
OPTIONS = settings(
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
NUMBER = re.compile(r"-?\b\d+(\.\d+)?\b")


@dataclass
class Validation:
    """What `validate` did; `print(validation)` shows it as a table.

    Attributes:
        rule: its name.
        examples: how many models were drawn.
        rewritten: how many of them the rule rewrote.
        declined: how often each reason was given, with N for numbers.
    """

    rule: str
    examples: int = 0
    rewritten: int = 0
    declined: Counter[str] = field(default_factory=Counter)

    def tables(self) -> list[Table]:
        """The counts as tables; `str(validation)` renders them."""
        counts = [
            ("models drawn", f"{self.examples:,}"),
            ("rewritten", f"{self.rewritten:,}"),
            ("matches declined", f"{self.declined.total():,}"),
        ]
        tables = [Table(self.rule, ("", "count"), counts)]
        if self.declined:
            rows = [(reason, f"{count:,}") for reason, count in self.declined.most_common()]
            tables.append(Table("declined", ("reason", "count"), rows))
        return tables

    def __str__(self) -> str:
        return render(self.tables())


class CounterexampleError(AssertionError):
    """A rule is wrong: the smallest model that was found to show it, and how.

    Attributes:
        rule: its name.
        model: the calls of the model, a line each.
        reason: what is wrong.
        examples: how many models it took to find one.
    """

    def __init__(self, rule: str, model: tuple[str, ...], reason: str, examples: int) -> None:
        self.rule, self.model, self.reason, self.examples = rule, model, reason, examples
        calls = "\n".join(f"    {line}" for line in model)
        super().__init__(f"{rule} is wrong, as example {examples} shows:\n{calls}\n{reason}")


class _Enough(BaseException):
    """Ends the search; hypothesis takes an Exception for one more counterexample."""


def validate(
    rule: str | Rule,
    *,
    layers: Mapping[type[keras.Layer], st.SearchStrategy[keras.Layer]] | None = None,
    models: st.SearchStrategy[keras.Model] | None = None,
    examples: int = 100,
    seed: int = 0,
) -> Validation:
    """Look for a model that a rule makes compute something else, with that rule alone.

    The models contain a match of the rule's pattern. Drawn are the arguments of the layers,
    their weights, ranks and sizes (also unknown ones), data formats and dtype policies. The result
    must have the outputs of the model, and load from a file if the model does.

    Args:
        layers: for layers that are not Keras' own: strategies that draw them, by class.
        models: draws built models; for patterns of one's own, which need not say what they match.
        examples: how many models are drawn.
        seed: of the random numbers; the same one draws the same models.

    Returns:
        How often the rule fired, and for which reasons it declined.

    Raises:
        CounterexampleError: an AssertionError with the smallest model that shows a mistake.
        AssertionError: the rule never fired, so nothing was checked.
        LookupError: it is not known how to draw a layer that the pattern asks for.
    """
    [rule] = plugins.select([rule])
    search = _Search(rule)
    formats = ["channels_last"]
    if models is None:
        makers = {**MAKERS, **{cls: given_by(each) for cls, each in (layers or {}).items()}}
        plan = Plan(rule.pattern, makers, DRAWN_BY_NAME.get(rule.name, any_match), search.errors)
        models = matches(plan)
        formats = ["channels_last"] * 4 + ["channels_first"]

    def look_at(data: st.DataObject) -> None:
        with _own_state(data.draw(st.sampled_from(formats))):
            search.look_at(data.draw(models))

    try:
        for start in track(range(0, examples, BATCH), f"validating {rule.name}"):
            batch = settings(OPTIONS, max_examples=min(BATCH, examples - start))
            with contextlib.suppress(Unsatisfiable):  # Keras could build none of these models
                hypothesis.seed(f"{seed}/{start}")(batch(given(st.data())(look_at)))()
    except (Exception, _Enough):
        if search.smallest is None:
            raise
        raise search.smallest from None
    if not search.validation.rewritten:
        raise AssertionError(search.why_not())
    return search.validation


@contextlib.contextmanager
def _own_state(data_format: str) -> Iterator[None]:
    """Leave Keras as it was found."""
    before, policy = keras.config.image_data_format(), keras.config.dtype_policy()
    keras.config.set_image_data_format(data_format)
    try:
        with fresh_names(), warnings.catch_warnings():
            for of_keras in (".*destroy the mask information", "You are using a softmax over axis"):
                warnings.filterwarnings("ignore", of_keras, UserWarning)
            yield
    finally:
        keras.config.set_image_data_format(before)
        keras.config.set_dtype_policy(policy)


class _Search:
    """Counts examples, and remembers the smallest counterexample."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.validation = Validation(rule.name)
        self.errors: list[Exception] = []
        self.smallest: CounterexampleError | None = None
        self.seen: set[Any] = set()
        self.found_at = 0
        self.tried = 0

    def look_at(self, model: keras.Model) -> None:
        """Check one model.

        Raises:
            CounterexampleError: it shows that the rule is wrong.
        """
        if self.smallest is None:
            self.skip_seen(model)
        else:
            self.tried += 1
            if self.tried > SHRINKING:
                raise _Enough
        try:
            rewritten, declined = self.checked(model)
        except UnsatisfiedAssumption:
            raise
        except Exception as error:
            self.remember(model, error)
            raise
        if self.smallest is None:
            self.validation.examples += 1
            self.validation.rewritten += rewritten
            self.validation.declined.update(declined)

    def skip_seen(self, model: keras.Model) -> None:
        """Leave out a model that was drawn before, as the simplest one is in each batch."""
        weights = [to_numpy(variable).tobytes() for variable in model.variables]
        key = (_program(model), *weights)
        if key in self.seen:
            hypothesis.reject()
        self.seen.add(key)

    def checked(self, model: keras.Model) -> tuple[bool, list[str]]:
        """Whether the rule rewrites a model, and why it does not.

        Raises:
            Exception: it does, and wrongly.
        """
        try:
            report = explain(model, [self.rule])
        except Exception:
            if _runs(model):
                raise
            hypothesis.reject()
        if report.applied:
            check(model, [self.rule])
        return bool(report.applied), [NUMBER.sub("N", each.reason) for each in report.declined]

    def remember(self, model: keras.Model, error: Exception) -> None:
        """Keep a counterexample if it is the smallest until now."""
        if self.smallest is None:
            self.found_at = self.validation.examples + 1
        if isinstance(error, AssertionError):
            reason = str(error).strip().split("\n", 1)[0]
        else:
            reason = f"{type(error).__name__}: {first_line(error)}"
        found = CounterexampleError(self.rule.name, _program(model), reason, self.found_at)
        if self.smallest is None or _size(found) < _size(self.smallest):
            self.smallest = found

    def why_not(self) -> str:
        """Why nothing was checked."""
        text = f"{self.rule.name} never fired, so nothing was checked.\n{self.validation}"
        if not self.validation.examples and self.errors:
            text += f"Keras could build no model: {first_line(self.errors[0])}"
        elif not self.validation.examples:
            text += "The pattern matched in no model that was drawn; draw your own with `models=`."
        return text


def _program(model: keras.Model) -> tuple[str, ...]:
    """How the model was built, a line a call."""
    settings_of_keras = []
    if (data_format := keras.config.image_data_format()) != "channels_last":
        settings_of_keras.append(f"keras.config.set_image_data_format('{data_format}')")
    policy, own = keras.config.dtype_policy(), model.dtype_policy
    if own.name != "float32":
        settings_of_keras.append(f"keras.config.set_dtype_policy('{own.name}')")
    keras.config.set_dtype_policy(own)
    try:
        return (*settings_of_keras, *outline(model))
    finally:
        keras.config.set_dtype_policy(policy)


def _size(found: CounterexampleError) -> tuple[int, int]:
    return len(found.model), sum(map(len, found.model))


def _runs(model: keras.Model) -> bool:
    """Whether Keras can run what it built."""
    model.run_eagerly = True
    try:
        model.predict_on_batch(random_inputs(model))
    except Exception:
        return False
    return True
