"""Finding plugins, the built-in ones like those of other packages, and without Keras."""

from __future__ import annotations

import difflib
import os
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Protocol, TypeVar

import pluggy

from kito import hookspecs
from kito.engines.engine import Engine
from kito.errors import InputError, PluginError
from kito.hookspecs import ENGINES_GROUP, GROUP, SWITCHED_OFF


@cache
def manager(group: str) -> pluggy.PluginManager:
    """The plugin manager with every plugin of an entry-point group that is installed and works.

    A plugin that can't be imported is left out with a warning that names its distribution; one that
    is switched off is not imported.
    """
    switched_off = {name.strip() for name in os.environ.get(SWITCHED_OFF, "").split(",")}
    plugins = pluggy.PluginManager(GROUP)
    plugins.add_hookspecs(hookspecs)
    for entry_point in sorted(metadata.entry_points(group=group), key=lambda each: each.name):
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


class Named(Protocol):
    """What plugins bring."""

    @property
    def name(self) -> str:
        """What users call it."""


Thing = TypeVar("Thing", bound=Named)


def registered(group: str, hook: str, cls: type[Thing], what: str) -> dict[str, tuple[Thing, str]]:
    """What the plugins of a group register, by name in alphabetical order, each with its origin.

    Args:
        hook: the name of the hook that gives it.
        cls: the class of it all.
        what: what one is called, with its article: "a rule".

    Raises:
        PluginError: two have one name, or a plugin registers something else.
    """
    found: dict[str, tuple[Thing, str]] = {}
    for implementation in getattr(manager(group).hook, hook).get_hookimpls():
        origin = implementation.plugin_name
        for each in implementation.function():
            if not isinstance(each, cls):
                kind = what.split(" ")[1]
                raise PluginError(f"{origin} registers {each!r}, which is not a kito {kind}")
            if each.name in found:
                raise PluginError(
                    f"{found[each.name][1]} and {origin} both have {what} named '{each.name}'. "
                    f"Uninstall one of them, or switch it off: {SWITCHED_OFF}=NAME."
                )
            found[each.name] = (each, origin)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class RegisteredEngine:
    """An engine and where it comes from, such as "kito 0.1.0"."""

    engine: Engine
    origin: str


def engines() -> dict[str, RegisteredEngine]:
    """Every registered engine by name, in alphabetical order.

    Raises:
        PluginError: two engines have one name, or a plugin registers something else than engines.
    """
    # isinstance takes an abstract class as well.
    found = registered(ENGINES_GROUP, "register_engines", Engine, "an engine")  # type: ignore[type-abstract]
    return {name: RegisteredEngine(*each) for name, each in found.items()}


def engine_named(name: str) -> Engine:
    """The registered engine of that name.

    Raises:
        InputError: there is none.
    """
    known = engines()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(known)}."
        raise InputError(f"there is no engine '{name}'. {hint}")
    return known[name].engine
