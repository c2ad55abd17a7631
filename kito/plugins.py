"""The rules: the built-in ones and those of installed plugins, all found in one way."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import keras

from kito.definition import TARGETS, Rule
from kito.discovery import registered
from kito.errors import InputError, PluginError, UnknownRuleError
from kito.hookspecs import GROUP


@dataclass(frozen=True)
class Registered:
    """A rule and where it comes from, such as "kito 0.1.0"."""

    rule: Rule
    origin: str


@cache
def registry() -> dict[str, Registered]:
    """Every registered rule by name, in alphabetical order.

    Raises:
        PluginError: two rules have one name, or a plugin registers something else than rules.
    """
    found = registered(GROUP, Rule, "rule")
    return {name: Registered(*each) for name, each in found.items()}


def select(rules: Sequence[str | Rule] | None, target: str | None = None) -> list[Rule]:
    """The rules that the caller means: names, rules or both; None is the default set.

    Args:
        target: whose default set; None is the running backend of Keras.

    Raises:
        InputError: there is no such target.
        UnknownRuleError: no rule has that name.
    """
    known = registry()
    target = keras.backend.backend() if target is None else target
    if target not in TARGETS:
        raise InputError(f"there is no target '{target}'; there are {', '.join(TARGETS)}")
    if rules is None:
        return [each.rule for each in known.values() if each.rule.is_default(target)]
    if isinstance(rules, str | Rule):
        rules = [rules]
    selected: dict[str, Rule] = {}
    for rule in rules:
        if isinstance(rule, str):
            if rule not in known:
                raise UnknownRuleError(f"there is no rule '{rule}'.{_suggestion(rule, known)}")
            rule = known[rule].rule
        elif not isinstance(rule, Rule):
            raise UnknownRuleError(f"{rule!r} is neither a rule nor the name of one")
        if selected.setdefault(rule.name, rule) != rule:
            raise PluginError(f"two of the given rules have the name '{rule.name}'")
    return list(selected.values())


def _suggestion(name: str, known: dict[str, Registered]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" Did you mean '{near[0]}'?" if near else f" There are: {', '.join(known)}."
