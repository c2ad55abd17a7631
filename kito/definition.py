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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kito.errors import RuleDefinitionError
from kito.graph.ir import Graph, Node, Ref, Tensor
from kito.graph.layer import Call, Layer, Output, to_numpy
from kito.graph.pattern import (
    Branches,
    Chain,
    Match,
    Pattern,
    Provided,
    Readers,
    branches,
    chain,
    many,
    named,
    readers,
    where,
)
from kito.hookspecs import hookimpl

__all__ = [
    "Branches",
    "Call",
    "Chain",
    "Decline",
    "Graph",
    "Layer",
    "Match",
    "Node",
    "Output",
    "Pattern",
    "Provided",
    "Readers",
    "Ref",
    "Replacement",
    "Rule",
    "Tensor",
    "branches",
    "chain",
    "hookimpl",
    "many",
    "readers",
    "rule",
    "to_numpy",
    "where",
]

# What may run the result: a backend of Keras, or the runtime that a model is exported to.
TARGETS = ("tensorflow", "jax", "torch", "onnx", "openvino", "litert")

# What takes the place of one call: another one, an output of one, or a tensor that is there.
Result = Call | Output | Ref
Replacement = Layer | Sequence[Layer] | Result | Sequence[Result]


class Decline(Exception):  # noqa: N818 (not an error: the usual way for a rule to say no)
    """Raised by a rule that must not, or need not, fire; the message is the reason."""


@dataclass(frozen=True)
class Rule:
    """A pattern and the pure function that maps its match to the layers which replace it.

    Attributes:
        name: what `optimize(rules=[name])` and the report call it.
        pattern: what it matches.
        function: takes a Node for each capture, a tuple of Nodes where the pattern says `many` or
            `branches`. Returns a Layer or a sequence of Layers, which are called one after the
            other on what the first of the matched calls reads; or a Call, for anything else; or a
            Ref, the tensor that the match's last output is equal to; or, where calls stand side by
            side (`readers`), a Call, Output or Ref for each of them; or raises Decline.
        default: the targets for which `optimize(model)` uses it without being asked; True is every
            target, False none.
        opens: whether it is a reason to replace a layer that is written in Python by the layers
            inside; or the classes of which it must have replaced a call to be one. A rule that
            makes nothing faster by itself is none.
        late: whether it waits until no other rule applies any more.
    """

    name: str
    pattern: Pattern
    function: Callable[..., Replacement]
    default: bool | frozenset[str] = True
    opens: bool | frozenset[type[keras.Operation]] = True
    late: bool = False

    def __call__(self, match: Match) -> tuple[Result, ...]:
        """What takes the place of each of the match's tails, in their order.

        Raises:
            Decline: the rule does not apply.
            TypeError: the function returned something else.
        """
        result = self.function(**match.captures)
        one = isinstance(result, (Layer, Call, Output, Ref))
        parts: tuple[Any, ...] = (result,) if one else tuple(result or ())  # type: ignore[arg-type]
        if parts and all(isinstance(part, (Call, Output, Ref)) for part in parts):
            if len(parts) != len(match.tails):
                raise TypeError(f"it returned {len(parts)} results for {len(match.tails)} calls")
            return parts
        if not parts or not all(isinstance(part, Layer) for part in parts):
            raise TypeError(f"it returned {result!r}, not layers")
        head = match.head
        if parts[0].cls is head.layer.cls or len(head.refs) > 1:
            call = parts[0](*head.args, **head.kwargs)
        else:  # its constants, such as the 2 of `x * 2`, mean nothing to another class
            call = parts[0](head.input)
        for layer in parts[1:]:
            call = layer(call)
        return (call,)

    @property
    def named(self) -> frozenset[type]:
        """The classes that the pattern names."""
        return frozenset(named(self.pattern)) | {*self.pattern.anchors}

    @property
    def reasons(self) -> frozenset[type]:
        """The classes at which it may match and be a reason to look inside a layer."""
        if isinstance(self.opens, bool):
            return frozenset(self.pattern.anchors) if self.opens else frozenset()
        return self.opens

    def is_reason(self, replaced: frozenset[type]) -> bool:
        """Whether a rewrite that replaced calls of these classes is one to replace a layer."""
        return self.opens if isinstance(self.opens, bool) else bool(self.opens & replaced)

    def is_default(self, target: str) -> bool:
        """Whether `optimize(model, target=target)` uses the rule without being asked."""
        return self.default if isinstance(self.default, bool) else target in self.default

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]


def rule(
    pattern: Pattern,
    *,
    name: str | None = None,
    default: bool | Iterable[str] = True,
    opens: bool | Iterable[type[keras.Operation]] = True,
    late: bool = False,
) -> Callable[[Callable[..., Replacement]], Rule]:
    """Make a rule of a function whose parameters are the captures of the pattern.

    Args:
        name, default, opens, late: see `Rule`; the name is that of the function unless given.

    Raises:
        RuleDefinitionError: the parameters and the captures differ, or a target is not known.
    """

    def decorate(function: Callable[..., Replacement]) -> Rule:
        parameters = tuple(inspect.signature(function).parameters)
        if parameters != pattern.names:
            raise RuleDefinitionError(
                f"rule {function.__name__}: the parameters {_listed(parameters)} are not the "
                f"captures of its pattern, {_listed(pattern.names)}"
            )
        targets = default if isinstance(default, bool) else frozenset(default)
        if not isinstance(targets, bool) and (unknown := targets - {*TARGETS}):
            raise RuleDefinitionError(
                f"rule {function.__name__}: there is no target {_listed(sorted(unknown))}; there "
                f"are {_listed(TARGETS)}"
            )
        reason = opens if isinstance(opens, bool) else frozenset(opens)
        return Rule(name or function.__name__, pattern, function, targets, reason, late)

    return decorate


def _listed(names: Sequence[Any]) -> str:
    return "(" + ", ".join(map(str, names)) + ")"
