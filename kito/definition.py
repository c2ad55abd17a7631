"""All that the author of a rule imports.

A rule maps a match to the layers that take its place, or declines with a reason:

    @rule(chain(conv=Conv2D, bn=BatchNormalization))
    def conv_batchnorm(conv, bn):
        if conv.groups > 1:
            raise Decline(f"{conv.name} has groups")
        return conv.evolve(...)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pluggy

from kito.errors import RuleDefinitionError
from kito.graph.ir import Layer, Node, Tensor
from kito.graph.pattern import Chain, Match, Pattern, chain

__all__ = [
    "Chain",
    "Decline",
    "Layer",
    "Match",
    "Node",
    "Pattern",
    "Replacement",
    "Rule",
    "Tensor",
    "chain",
    "hookimpl",
    "rule",
]

hookimpl = pluggy.HookimplMarker("kito")

Replacement = Layer | Sequence[Layer]


class Decline(Exception):  # noqa: N818 (not an error: the usual way for a rule to say no)
    """Raised by a rule that must not, or need not, fire; the message is the reason."""


@dataclass(frozen=True)
class Rule:
    """A pattern and the pure function that maps its match to the layers which replace it.

    Attributes:
        name: what `optimize(rules=[name])` and the report call it.
        pattern: what it matches.
        function: takes a Node for each capture; returns a Layer or a sequence of Layers, which are
            called one after the other, or raises Decline.
        default: whether `optimize(model)` uses it without being asked.
    """

    name: str
    pattern: Pattern
    function: Callable[..., Replacement]
    default: bool = True

    def __call__(self, match: Match) -> tuple[Layer, ...]:
        """The layers that take the place of the match.

        Raises:
            Decline: the rule does not apply.
        """
        result = self.function(**match.captures)
        return (result,) if isinstance(result, Layer) else tuple(result)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]


def rule(
    pattern: Pattern, *, name: str | None = None, default: bool = True
) -> Callable[[Callable[..., Replacement]], Rule]:
    """Make a rule of a function whose parameters are the captures of the pattern.

    Raises:
        RuleDefinitionError: the parameters and the captures differ.
    """

    def decorate(function: Callable[..., Replacement]) -> Rule:
        parameters = tuple(inspect.signature(function).parameters)
        if parameters != pattern.names:
            raise RuleDefinitionError(
                f"rule {function.__name__}: the parameters {_listed(parameters)} are not the "
                f"captures of its pattern, {_listed(pattern.names)}"
            )
        return Rule(name or function.__name__, pattern, function, default)

    return decorate


def _listed(names: Sequence[Any]) -> str:
    return "(" + ", ".join(map(str, names)) + ")"
