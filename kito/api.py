"""The pipeline: lift, rewrite, codegen. Nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from kito import plugins
from kito.definition import Rule
from kito.graph.codegen import codegen, copy_compile_state
from kito.graph.lift import lift
from kito.graph.rewrite import rewrite
from kito.report import Report

NORMALIZATION_RULES = (
    "conv_batchnorm",
    "conv_transpose_batchnorm",
    "dense_batchnorm",
    "depthwise_conv_batchnorm",
    "separable_conv_batchnorm",
)


def optimize(
    model: keras.Model,
    rules: Sequence[str | Rule] | None = None,
    *,
    target: str | None = None,
    report: Report | None = None,
) -> keras.Model:
    """A new model that computes the same as the given one, faster.

    Args:
        model: a trained Keras 3 model; it is not changed.
        rules: names of rules, rules, or both; None is the default set of the target.
        target: what will run the result, for what is faster depends on that: "tensorflow", "jax",
            "torch", or, where the result is exported to, "onnx", "openvino" or "litert". None is
            the running backend of Keras.
        report: filled with what was done, and what was not and why.

    Returns:
        A plain Keras model: same inputs, outputs, names, dtypes and shapes.

    Raises:
        InputError: the model can't be optimized, or there is no such target; the message says why
            and what to do.
        UnknownRuleError: no rule has that name.
        RuleError: a rule failed.
    """
    report = Report() if report is None else report
    selected = plugins.select(rules, target)
    graph = lift(model, anchors(selected), report)
    rewrite(graph, selected, report)
    graph.verify()
    fast = codegen(graph, report)
    copy_compile_state(model, fast, report)
    return fast


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
    selected = plugins.select(rules, target)
    rewrite(lift(model, anchors(selected), report), selected, report)
    return report


def anchors(rules: Sequence[Rule]) -> frozenset[type]:
    """The classes at which a rule can match that is a reason to look inside a layer."""
    return frozenset(cls for rule in rules if rule.opens for cls in rule.pattern.anchors)


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
