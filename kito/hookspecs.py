"""The hooks through which packages add to kito. A plugin is a module with functions of these names,
marked with `kito.hookimpl`, and named in the entry-point group "kito" of its distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from kito.definition import Rule

hookspec = pluggy.HookspecMarker("kito")


@hookspec
def register_rules() -> Sequence[Rule]:  # type: ignore[empty-body]
    """Return the rules that the plugin brings."""
