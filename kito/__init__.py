"""kito: make a trained Keras model compute the same, faster."""

from kito.api import explain, optimize, reduce_keras_model
from kito.compare import Comparison, compare, compare_two_models_results
from kito.errors import (
    GraphError,
    InputError,
    KitoError,
    PluginError,
    RuleDefinitionError,
    RuleError,
    UnknownRuleError,
)
from kito.report import Report
from kito.rule import Decline, Layer, Node, Rule, chain, hookimpl, rule

__all__ = [
    "Comparison",
    "Decline",
    "GraphError",
    "InputError",
    "KitoError",
    "Layer",
    "Node",
    "PluginError",
    "Report",
    "Rule",
    "RuleDefinitionError",
    "RuleError",
    "UnknownRuleError",
    "chain",
    "compare",
    "compare_two_models_results",
    "explain",
    "hookimpl",
    "optimize",
    "reduce_keras_model",
    "rule",
]
