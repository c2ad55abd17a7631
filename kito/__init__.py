"""kito: make a trained Keras model compute the same, faster.

Keras is imported when a name is first used, so that `kito --help` does not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kito.api import explain, optimize, reduce_keras_model
    from kito.comparison import Comparison, compare, compare_two_models_results
    from kito.definition import (
        Call,
        Decline,
        Layer,
        Node,
        Output,
        Ref,
        Rule,
        branches,
        chain,
        hookimpl,
        many,
        readers,
        rule,
        where,
    )
    from kito.engines.engine import Engine
    from kito.errors import (
        GraphError,
        InputError,
        KitoError,
        PluginError,
        RuleDefinitionError,
        RuleError,
        UnknownRuleError,
        VerificationError,
    )
    from kito.prediction import Predictor, load_predictor
    from kito.report import Report
    from kito.selection import predictor
    from kito.verification import Verification, verify

__all__ = [
    "Call",
    "Comparison",
    "Decline",
    "Engine",
    "GraphError",
    "InputError",
    "KitoError",
    "Layer",
    "Node",
    "Output",
    "PluginError",
    "Predictor",
    "Ref",
    "Report",
    "Rule",
    "RuleDefinitionError",
    "RuleError",
    "UnknownRuleError",
    "Verification",
    "VerificationError",
    "branches",
    "chain",
    "compare",
    "compare_two_models_results",
    "explain",
    "hookimpl",
    "load_predictor",
    "many",
    "optimize",
    "predictor",
    "readers",
    "reduce_keras_model",
    "rule",
    "verify",
    "where",
]

_MODULES = (
    # These do not need Keras; what is found here does not wait for it.
    "kito.hookspecs",
    "kito.errors",
    "kito.engines.engine",
    "kito.prediction",
    "kito.api",
    "kito.comparison",
    "kito.definition",
    "kito.report",
    "kito.selection",
    "kito.verification",
)


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in map(import_module, _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'kito' has no attribute '{name}'")
