"""Finding plugins, the built-in ones like those of other packages, and without Keras."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Protocol, TypeVar

import pluggy
from packaging.utils import canonicalize_name

from kito import hookspecs
from kito.compatibility import KITO, check_version, remedy
from kito.engines.engine import Engine
from kito.errors import InputError, PluginError
from kito.hookspecs import ENGINES_GROUP, HOOKS, SWITCHED_OFF


@cache
def manager(group: str) -> pluggy.PluginManager:
    """The plugin manager with every plugin of an entry-point group that is installed and works.

    A plugin that can't be imported, that lacks the hook of the group, or that is made for another
    version of kito is left out with a warning that names its distribution; one that is switched off
    is not imported.
    """
    switched_off = _switched_off()
    plugins = pluggy.PluginManager(KITO)
    plugins.add_hookspecs(hookspecs)
    for entry_point in sorted(metadata.entry_points(group=group), key=_plugin_name):
        if switched_off & _names(entry_point):
            continue
        try:
            check_version(entry_point.dist)
            _register(plugins, entry_point.load(), _plugin_name(entry_point), HOOKS[group])
        except pluggy.PluginValidationError as error:
            mismatch = f"its hooks are not those of {KITO} {metadata.version(KITO)}: {error}."
            name = _origin(entry_point).split(" ")[0]
            _leave_out(_plugin_name(entry_point), PluginError(f"{mismatch} {remedy(name)}"))
        except Exception as error:
            _leave_out(_plugin_name(entry_point), error)
    return plugins


def _switched_off() -> set[str]:
    """The names that the environment variable has; of one that is no plugin's a warning tells."""
    names = {name.strip() for name in os.environ.get(SWITCHED_OFF, "").split(",")} - {""}
    installed: set[str] = set()
    for group in HOOKS if names else ():  # looking takes time, also where a predictor is loaded
        installed.update(*map(_names, metadata.entry_points(group=group)))
    for name in sorted(names):
        if not {name, canonicalize_name(name)} & installed:
            near = difflib.get_close_matches(name, installed, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            warnings.warn(
                f"{SWITCHED_OFF} has '{name}', which is no plugin that is installed.{hint}",
                stacklevel=3,
            )
    return names | set(map(canonicalize_name, names))


def _names(entry_point: metadata.EntryPoint) -> set[str]:
    """What a plugin is called: as its entry point, and as its distribution."""
    return {entry_point.name, canonicalize_name(_origin(entry_point).split(" ")[0])}


def _plugin_name(entry_point: metadata.EntryPoint) -> str:
    # A distribution may have several entry points, and pluggy wants a name for each.
    return f"'{entry_point.name}' of {_origin(entry_point)}"


def _origin(entry_point: metadata.EntryPoint) -> str:
    distribution = entry_point.dist
    if distribution is None:
        return entry_point.value
    return f"{distribution.name} {distribution.version}"


def _register(plugins: pluggy.PluginManager, plugin: object, name: str, hook: str) -> None:
    """Register a plugin whose hooks are all known.

    Raises:
        PluginError: it lacks the hook that its entry point is there for.
        PluginValidationError: this version of kito has no such hook, or one with other parameters.
    """
    plugins.register(plugin, name=name)
    try:
        plugins.check_pending()
        if hook not in {caller.name for caller in plugins.get_hookcallers(plugin) or ()}:
            raise PluginError(f"it has no function {hook} that is marked with kito.hookimpl")
    except Exception:
        plugins.unregister(plugin)
        raise


def _leave_out(plugin_name: str, error: Exception) -> None:
    """Warn that a plugin is not used; `error` says why."""
    why = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
    why = " ".join(why.split()).rstrip(".")
    warnings.warn(
        f"the kito plugin {plugin_name} is left out: {why}. Repair it, uninstall it, or "
        f"switch it off: {SWITCHED_OFF}={_origin_of(plugin_name).split(' ')[0]}.",
        stacklevel=3,
    )


def _origin_of(plugin_name: str) -> str:
    return plugin_name.rpartition(" of ")[-1]


class Named(Protocol):
    """What plugins bring."""

    @property
    def name(self) -> str:
        """What users call it."""


Thing = TypeVar("Thing", bound=Named)


def registered(group: str, cls: type[Thing], what: str) -> dict[str, tuple[Thing, str]]:
    """What the plugins of a group register, by name in alphabetical order, each with its origin.

    A plugin whose hook raises is left out with a warning that names its distribution.

    Args:
        cls: the class of it all.
        what: what one is called: "rule".

    Raises:
        PluginError: two have one name, or a plugin registers something else.
    """
    found: dict[str, tuple[Thing, str]] = {}
    for implementation in getattr(manager(group).hook, HOOKS[group]).get_hookimpls():
        origin = _origin_of(implementation.plugin_name)
        try:
            things: Sequence[object] = tuple(implementation.function())
        except Exception as error:
            _leave_out(implementation.plugin_name, error)
            continue
        for each in things:
            if not isinstance(each, cls):
                raise PluginError(
                    f"{origin} registers {each!r}, which is not a kito {what}. Repair it, or "
                    f"switch the plugin off: {SWITCHED_OFF}={origin.split(' ')[0]}."
                )
            if each.name in found:
                raise PluginError(_clash(what, each.name, found[each.name][1], origin))
            found[each.name] = (each, origin)
    return dict(sorted(found.items()))


def _clash(what: str, name: str, first: str, second: str) -> str:
    """What is said of two things of one name, and the remedy: what is kito's own stays."""
    if first == second:
        return f"{first} brings the {what} '{name}' twice. Rename one of them."
    others = [each.split(" ")[0] for each in (first, second) if each.split(" ")[0] != KITO]
    remedies = " or ".join(f"{SWITCHED_OFF}={name}" for name in others)
    whose = "one of them" if len(others) > 1 else f"that of {others[0]}"
    return (
        f"{first} and {second} both bring the {what} '{name}'. Rename {whose}, or switch "
        f"the plugin off: {remedies}."
    )


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
    found = registered(ENGINES_GROUP, Engine, "engine")  # type: ignore[type-abstract]
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
