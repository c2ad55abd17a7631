"""Finding the rules: the built-in ones and those of installed plugins, all in one way."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import keras
import pluggy

from kito import hookspecs
from kito.definition import TARGETS, Rule
from kito.errors import InputError, PluginError, UnknownRuleError

GROUP = "kito"
# Names of plugins, or of their distributions, separated by commas: these are left out.
SWITCHED_OFF = "KITO_NO_PLUGINS"


@dataclass(frozen=True)
class Registered:
    """A rule and where it comes from, such as "kito 0.1.0"."""

    rule: Rule
    origin: str


@cache
def manager() -> pluggy.PluginManager:
    """The plugin manager with every plugin that is installed and works.

    A plugin that can't be imported is left out with a warning that names its distribution; one that
    is switched off is not imported.
    """
    switched_off = {name.strip() for name in os.environ.get(SWITCHED_OFF, "").split(",")}
    plugins = pluggy.PluginManager(GROUP)
    plugins.add_hookspecs(hookspecs)
    for entry_point in sorted(metadata.entry_points(group=GROUP), key=lambda each: each.name):
        if switched_off & {entry_point.name, _origin(entry_point).split(" ")[0]}:
            continue
        try:
            plugins.register(entry_point.load(), name=_origin(entry_point))
        except Exception as error:
            warnings.warn(
                f"the kito plugin '{entry_point.name}' of {_origin(entry_point)} is left out: "
                f"{type(error).__name__}: {error}. Repair, uninstall, or switch it off: "
                f"{SWITCHED_OFF}={entry_point.name}.",
                stacklevel=2,
            )
    return plugins


def _origin(entry_point: metadata.EntryPoint) -> str:
    distribution = entry_point.dist
    if distribution is None:
        return entry_point.value
    return f"{distribution.name} {distribution.version}"


@cache
def registry() -> dict[str, Registered]:
    """Every registered rule by name, in alphabetical order.

    Raises:
        PluginError: two rules have one name, or a plugin registers something else than rules.
    """
    found: dict[str, Registered] = {}
    for implementation in manager().hook.register_rules.get_hookimpls():
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
