"""The rules: the built-in ones and those of installed plugins, all found in one way."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras

from kito.definition import TARGETS, Rule
from kito.discovery import manager
from kito.errors import InputError, PluginError, UnknownRuleError
from kito.hookspecs import GROUP, SWITCHED_OFF


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
    found: dict[str, Registered] = {}
    for implementation in manager(GROUP).hook.register_rules.get_hookimpls():
        origin = implementation.plugin_name
        registered: Any = implementation.function()
        for rule in registered:
            if not isinstance(rule, Rule):
                raise PluginError(f"{origin} registers {rule!r}, which is not a kito rule")
            if rule.name in found:
                raise PluginError(
                    f"{found[rule.name].origin} and {origin} both have a rule named "
                    f"'{rule.name}'. Uninstall one of them, or switch it off: "
                    f"{SWITCHED_OFF}=NAME."
                )
            found[rule.name] = Registered(rule, origin)
    return dict(sorted(found.items()))


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
