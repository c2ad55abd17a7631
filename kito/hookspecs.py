"""The hooks through which packages add to kito. A plugin is a module with functions of these names,
marked with `kito.hookimpl`, and named in an entry-point group of its distribution: "kito" if it
brings rules, "kito.engines" if it brings engines.

These hooks have the version of kito. What a version adds, plugins need not know; what would break
them comes with a new minor version before 1.0, and with a new major version from then on. A plugin
says by the requirement of its distribution, such as `kito>=0.1,<0.2`, which versions it is made
for; `kito.compatibility` checks that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:  # it imports Keras, which takes seconds
    from kito.definition import Rule
    from kito.engines.engine import Engine

GROUP = "kito"
# Rules need Keras. What runs a saved predictor does not, and so looks into this group only.
ENGINES_GROUP = "kito.engines"
# The hook that the plugins of a group are there for.
HOOKS = {GROUP: "register_rules", ENGINES_GROUP: "register_engines"}
# Names of plugins, or of their distributions, separated by commas: these are left out.
SWITCHED_OFF = "KITO_NO_PLUGINS"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def register_rules() -> Sequence[Rule]:  # type: ignore[empty-body]
    """Return the rules that the plugin brings."""


@hookspec
def register_engines() -> Sequence[Engine]:  # type: ignore[empty-body]
    """Return the engines that the plugin brings."""
