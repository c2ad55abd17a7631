"""The pipeline: lift, rewrite, codegen. Nothing else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from kito import plugins, verification
from kito import tune as tuning
from kito.comparison import compare
from kito.definition import Rule
from kito.errors import GraphError, InputError, KitoError, NoGraphError, first_line
from kito.faults import build_right
from kito.forward import EVALUATING, PREDICTING, TRAINING, optional_arguments, own_methods
from kito.graph.borders import laid_open_in_vain
from kito.graph.change import Recorder
from kito.graph.codegen import codegen, copy_compile_state, taken_apart
from kito.graph.copying import copy_model
from kito.graph.crossing import crossed_in_vain
from kito.graph.doubt import unfaithful
from kito.graph.input_dtypes import answers_integers_alike
from kito.graph.ir import Graph
from kito.graph.keras_internals import is_graph_class, reading
from kito.graph.lift import check_model, lift
from kito.graph.record import UntraceableError
from kito.graph.rewrite import Course, rewrite
from kito.graph.untracked import parts_and_variables
from kito.precision import lower
from kito.preparation import converted
from kito.progress import doing
from kito.report import Report

NORMALIZATION_RULES = (
    "conv_batchnorm",
    "conv_transpose_batchnorm",
    "dense_batchnorm",
    "depthwise_conv_batchnorm",
    "separable_conv_batchnorm",
)


# How often what a trace can't stand for is looked for; after that nothing is traced. Once or twice
# is enough, unless a layer's `call` makes other composites each time.
ROUNDS = 4


# Why a composite is not taken apart in which something was rewritten.
SHARES = (
    "a model calls a layer that it calls too, so that Keras could not load what takes its place. "
    "If the result is not saved, `savable=False` optimizes it all the same"
)


@dataclass
class Known:
    """What runs of a model find out for those after them.

    Attributes:
        whole: the layers that a trace can't stand for, and why.
        closed: the composites of which the border is no hindrance, and layers at that of a model.
        opened: those, and models in them, that the result can't have.
        plain: layers of users that Keras can't load, of which the calls inside are to take the
            place if that goes.
    """

    whole: dict[keras.Layer, UntraceableError] = field(default_factory=dict)
    closed: set[keras.Layer] = field(default_factory=set)
    opened: set[keras.Layer] = field(default_factory=set)
    plain: set[keras.Layer] = field(default_factory=set)


def optimize(
    model: keras.Model,
    rules: Sequence[str | Rule] | None = None,
    *,
    target: str | None = None,
    precision: str | None = None,
    tune: Any = None,
    verify: Any = False,
    strict: bool = False,
    savable: bool = True,
    report: Report | None = None,
) -> keras.Model:
    """A new model that computes the same as the given one, faster.

    Args:
        model: a trained Keras 3 model; it is not changed.
        rules: names of rules, rules, or both; None is the default set of the target.
        target: what will run the result, for what is faster depends on that: "tensorflow", "jax",
            "torch", or, where the result is exported to, "onnx", "openvino" or "litert". None is
            the running backend of Keras.
        precision: "bfloat16" or "float16", to compute in 16 bits, which is not exact: the report
            notes the largest difference on random inputs. None is the model's own precision.
        tune: one batch of inputs, on which the rules that are not always faster are timed here and
            now; those that pay are used. Takes two minutes at most.
        verify: True, or one batch of inputs: run the result and the given model on random inputs,
            zeros, large numbers, and on this batch. If the answers are farther apart than rounding
            explains, the rewrite that did it is found and left out, and the report names it.
        strict: raise where a rule fails, or the verification does, and don't do without.
        savable: False, if the result will not be saved: then what has a class of its own, of which
            Keras saves the arguments it was made of, is rewritten also where it holds layers that
            Keras could not load without it.
        report: filled with what was done, and what was not and why.

    Returns:
        A plain Keras model: same inputs, outputs, names, dtypes and shapes.

    Raises:
        InputError: the model can't be optimized, or there is no such target; the message says why
            and what to do.
        UnknownRuleError: no rule has that name.
        RuleError, GraphError, VerificationError: a rule failed or is wrong, and `strict` is set.
        VerificationError: the result is wrong, and no rule is to blame.
    """
    report = Report() if report is None else report
    selected = plugins.select(rules, target)
    known = Known()

    def attempt(rules: Sequence[Rule], report: Report, course: Course) -> keras.Model:
        with reading():
            try:
                graph = rewritten(model, rules, report, course, known, savable)
            except NoGraphError as error:
                if precision is not None:
                    raise
                copy = _as_it_is(model, error)
                report.notes.append(f"nothing is rewritten: {error}")
                return copy
            if graph.narrowed and not report.applied and precision is None:
                with contextlib.suppress(Exception):
                    return copy_model(model)  # which takes all that the model takes
                report.notes.append(graph.narrowed)
            if precision is not None:
                lower(graph, precision)
            graph.verify()
            fast = _built(graph, model, report)
        if (more := _grown_by(model, fast, report)) > 0:
            report.notes.append(
                f"the result has {more:,} parameters more: weights that a layer and a model with a "
                "class of its own have in common, it has twice"
            )
        return fast

    right: list[verification.Expected] = []  # finding the rewrite that is wrong takes many checks

    def check(fast: keras.Model, report: Report) -> str | None:
        if verify is False:
            return None
        if not right:
            right.append(verification.expected(model, fast, None if verify is True else verify))
        report.verification = verification.verified(right[0], fast)
        return None if report.verification.passed else str(report.verification)

    def build(rules: Sequence[Rule], report: Report) -> keras.Model:
        return build_right(attempt, rules, report, check, strict=strict)

    if tune is None:
        fast = build(selected, report)
    else:
        if target not in (None, keras.backend.backend()):
            raise InputError(f"tune runs the model in Keras, and not on the target '{target}'")
        check_model(model)
        batch = converted(model, tune)
        optional = [each.rule for each in plugins.registry().values()]
        fast = tuning.tune(build, selected, optional, batch, report)
    if precision is not None:
        difference = compare(model, fast, batch_size=2, repeats=1).relative
        report.notes.append(f"in {precision} the answers differ by {difference:.1e} of the largest")
    copy_compile_state(model, fast, report)
    if type(fast) is not type(model) and (own := own_methods(model, (*PREDICTING, *EVALUATING))):
        report.notes.append(
            f"the result is a plain Keras model, without the {', '.join(own)} of "
            f"{type(model).__name__}: its `predict` gives what a call of the model gives"
        )
    if type(fast) is not type(model) and (own := own_methods(model, TRAINING)):
        report.notes.append(
            f"the result is a plain Keras model, without the {', '.join(own)} of "
            f"{type(model).__name__}: to train on, train the model and optimize it again"
        )
    if type(fast) is not type(model) and (lost := optional_arguments(model)):
        report.notes.append(
            f"the result takes no {', '.join(lost)}, as the call of {type(model).__name__} does, "
            "and computes what that does with the defaults"
        )
    return fast


def _built(graph: Graph, model: keras.Model, report: Report) -> keras.Model:
    """The model that a graph describes.

    Raises:
        GraphError: Keras does not build what rules asked for, or what the model calls; of one that
            is written as a class it need not build all calls on any size.
    """
    try:
        return codegen(graph, report)
    except KitoError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        if report.applied or is_graph_class(type(model)):
            raise GraphError(reason) from error
        copy = _as_it_is(model, GraphError(reason))
        report.notes.append(f"nothing is rewritten: Keras can't build its calls ({reason})")
        return copy


def _as_it_is(model: keras.Model, reason: GraphError | NoGraphError) -> keras.Model:
    """A copy of a model that is written as a class.

    Raises:
        GraphError, NoGraphError: the reason for which it is wanted, for Keras makes none.
    """
    try:
        return copy_model(model)
    except Exception as error:
        raise type(reason)(f"{reason} (Keras can't copy it either: {first_line(error)})") from error


def _grown_by(model: keras.Model, fast: keras.Model, report: Report) -> int:
    """By how many parameters the result is larger than the rules say."""
    grown = _parameters(fast.weights) - _parameters(model.weights)
    grown -= sum(each.parameters for each in report.applied)
    if grown > 0:
        with contextlib.suppress(ValueError):
            grown += _parameters(_hidden(fast)) - _parameters(_hidden(model))
    return grown


def _parameters(variables: Iterable[keras.Variable]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _hidden(model: keras.Model) -> list[keras.Variable]:
    """The variables that Keras does not know of."""
    return parts_and_variables(model)[1][len(model.variables) :]


def explain(
    model: keras.Model,
    rules: Sequence[str | Rule] | None = None,
    *,
    target: str | None = None,
) -> Report:
    """What `optimize` would do to the model, without building the result.

    Raises: what `optimize` raises.
    """
    report = Report()
    with reading():
        try:
            rewritten(model, plugins.select(rules, target), report)
        except NoGraphError as error:
            _as_it_is(model, error)
            report.notes.append(f"nothing is rewritten: {error}")
    return report


def rewritten(
    model: keras.Model,
    rules: Sequence[Rule],
    report: Report,
    course: Course | None = None,
    known: Known | None = None,
    savable: bool = True,
) -> Graph:
    """The graph of the model after its rewrites, which the report then has, see `rewrite`.

    Args:
        known: is added to.
        savable: see `optimize`.
    """
    course = Course() if course is None else course
    known = Known() if known is None else known
    named = frozenset(cls for rule in rules for cls in rule.named)
    rounds = 0
    while True:
        opens = anchors(rules) if rounds < ROUNDS else frozenset()
        attempt = Report()
        with doing("reading the model"):
            graph = lift(model, opens, attempt, named=named, **vars(known))
        recorder = Recorder(graph)
        course.made.clear()
        with doing("rewriting it"):
            rewrite(graph, rules, attempt, course, known.closed)
            in_vain: set[Any] = set()
            if course.is_free:
                in_vain = laid_open_in_vain(graph, attempt.applied, rules)
                in_vain |= crossed_in_vain(graph, attempt.applied, rules)
            in_vain -= known.opened
            found, plain = ({}, set()) if in_vain else unfaithful(graph, savable, known.plain)
            apart, stuck = (set(), set()) if in_vain or found or plain else taken_apart(graph)
            found |= {each: UntraceableError(SHARES) for each in stuck} if savable else {}
        news = found.keys() - known.whole.keys(), in_vain - known.closed, apart - known.opened
        if not (plain or any(news)):
            break
        known.whole |= found
        known.closed |= in_vain
        known.opened |= apart
        known.plain |= plain
        rounds += bool(found)
    if graph.narrowed and attempt.applied:
        attempt.notes.append(graph.narrowed)
    if graph.guessed is not None and not answers_integers_alike(model, graph.guessed):
        dtypes = dict.fromkeys(leaf.dtype for leaf in keras.tree.flatten(graph.guessed))
        attempt.notes.append(
            f"the inputs of {model.name} are taken to be {', '.join(dtypes)}, for Keras keeps no "
            "record of their dtypes; to integers the model answers otherwise"
        )
    report.add(attempt)
    report.change = recorder.change()
    return graph


def anchors(rules: Sequence[Rule]) -> frozenset[type]:
    """The classes at which a rule can match that is a reason to look inside a layer."""
    return frozenset[type]().union(*(rule.reasons for rule in rules))


def reduce_keras_model(model: keras.Model, verbose: bool = False) -> keras.Model:
    """Fold normalizations only: the call of the original KITO, with its meaning.

    Args:
        verbose: print the report.

    Raises: what `optimize` raises.
    """
    report = Report()
    reduced = optimize(model, NORMALIZATION_RULES, report=report)
    if verbose:
        print(report)
    return reduced
