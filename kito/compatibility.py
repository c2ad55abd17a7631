"""Whether a plugin and this version of kito go together.

The version of the hooks is the version of kito, and what a plugin is made for is what its
distribution requires: `kito>=0.1,<0.2`. So there is one number, which installers read too. They see
to it when the plugin is installed, but not when kito is upgraded after it.
"""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kito.errors import PluginError

KITO = "kito"


def check_version(distribution: metadata.Distribution | None) -> None:
    """Whether the distribution of a plugin is made for this version of kito.

    Args:
        distribution: None for what is not installed as one; it requires nothing.

    Raises:
        PluginError: it requires another version. The message says what to install.
    """
    if distribution is None:
        return
    version = metadata.version(KITO)
    for requirement in map(Requirement, distribution.requires or ()):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if canonicalize_name(requirement.name) != KITO or not applies:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            raise PluginError(
                f"it is made for {KITO}{requirement.specifier}, and this is {KITO} {version}. "
                f"{remedy(distribution.name)}"
            )


def remedy(name: str) -> str:
    """What to do about a distribution that is made for another version of kito."""
    return f"Install versions of {KITO} and {name} that go together"
