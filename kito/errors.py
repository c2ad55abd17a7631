"""What kito raises. Each message names the thing that is wrong and the remedy."""

import re
import textwrap

# What Keras puts around the error of a layer's call.
ENCOUNTERED = "Exception encountered when calling"
BOLD = re.compile(r"\x1b\[\d*m")


def first_line(error: BaseException) -> str:
    """What an error says, on one line: of a chain of Keras errors, what the last one quotes."""
    text = BOLD.sub("", str(error).split("Exception encountered: ")[-1])
    lines = (line.strip() for line in text.splitlines())
    said = (line for line in lines if line and not line.startswith(ENCOUNTERED))
    return textwrap.shorten(next(said, ""), 200, placeholder=" ...")


class KitoError(Exception):
    """The base of all errors of kito."""


class InputError(KitoError):
    """The model, file or argument that was given can't be used."""


class NoGraphError(InputError):
    """The model is written as a class, and has no graph that could be found out."""


class UnknownRuleError(KitoError, LookupError):
    """There is no rule of that name."""


class RuleDefinitionError(KitoError, TypeError):
    """A rule was declared in a way that could never work."""


class RuleError(KitoError):
    """A rule raised, looped or returned something that can't take the place of its match.

    Attributes:
        rule: its name.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class VerificationError(KitoError):
    """The result does not compute what the model computes."""


class PluginError(KitoError):
    """A plugin can't be used, or two plugins contradict each other."""


class GraphError(KitoError):
    """The graph is not a valid model: a defect of kito or of a rule."""
