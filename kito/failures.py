"""How the command `kito` ends where it fails: one line, and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from kito.errors import GraphError, KitoError, RuleError, VerificationError, first_line
from kito.terminal import print_json


class Failure(click.ClickException):
    """Ends the command: one line on stderr and, with --json, one document on stdout."""

    as_json = False

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    def show(self, file: Any = None) -> None:
        """Print the message; click calls this."""
        if self.as_json:
            print_json({"error": self.message})
        print(f"Error: {self.message}", file=file or sys.stderr)


class ResultFailed(Failure):
    """The result is not what it should be."""

    exit_code = 1

    def __init__(self, what: str) -> None:
        super().__init__(f"the result failed its check: {what}. Nothing was written.")


class InputUnusable(Failure):
    """The model, a rule, a module or a path can't be used."""

    exit_code = 2


class Defect(Failure):
    """What no input should bring about."""

    exit_code = 3

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"kito failed, and nothing was written: {type(error).__name__}: {first_line(error)}. "
            "Please report this, with what KITO_TRACEBACK=1 in the environment shows besides."
        )


class Interrupted(Failure):
    """Ctrl-C, with the exit code that shells expect."""

    exit_code = 128 + 2


@contextlib.contextmanager
def failures(as_json: bool) -> Iterator[None]:
    """Turn what the work raises into exit codes, and keep stdout free of what others print.

    Raises:
        Failure: in place of whatever else is raised.
    """
    failure: Failure
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    except Failure as error:
        failure = error
    except (GraphError, RuleError, VerificationError) as error:  # only with --strict, or no rule's
        failure = ResultFailed(str(error).rstrip("."))
    except KitoError as error:
        failure = InputUnusable(str(error))
    except KeyboardInterrupt:
        failure = Interrupted("interrupted; nothing was written")
    except MemoryError:
        failure = InputUnusable("there is not enough memory for this model. Take a larger machine.")
    except Exception as error:
        if "KITO_TRACEBACK" in os.environ:
            raise
        failure = Defect(error)
    failure.as_json = as_json
    raise failure
