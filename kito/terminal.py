"""What the command `kito` prints, and what it keeps others from printing."""

# ruff: noqa: PLC0415 (Keras takes seconds to import, so not before it is needed)

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.console import Console

from kito.progress import doing
from kito.tables import Table

if TYPE_CHECKING:
    from kito.report import Report

# Rows of a table that are shown without --verbose.
SHOWN = 20
# The width of tables in files and pipes, which have none.
WIDTH = 120


def report_tables(report: Report, verbose: bool) -> list[Table]:
    """The report: each rewrite, or without `verbose` how many each rule made."""
    rewrites, *others = report.tables()
    if verbose:
        return [rewrites, *others]
    if report.applied:
        rows = [
            (rule, str(count), f"{sum(e.parameters for e in report.applied if e.rule == rule):+,}")
            for rule, count in report.folded.items()
        ]
        rewrites = Table("rewritten", ("rule", "times", "parameters"), rows)
    return [rewrites, *map(shortened, others)]


def shortened(table: Table) -> Table:
    """The first rows of a table, and how many there are more."""
    if len(table.rows) <= SHOWN:
        return table
    more = (f"and {len(table.rows) - SHOWN} more: --verbose", *[""] * (len(table.columns) - 1))
    return Table(table.title, table.columns, [*table.rows[:SHOWN], more])


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables on stdout, as wide as the terminal."""
    console = terminal()
    for table in tables:
        console.print(table)


def terminal() -> Console:
    """What prints on stdout, as wide as the terminal."""
    # Names and reasons are not markup, whatever brackets are in them.
    return Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDTH)


def print_json(document: dict[str, Any]) -> None:
    """Print one document on stdout; numbers that JSON does not have become null."""
    click.echo(json.dumps(_finite(document), indent=2))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show warnings as lines for users, without the place in the code that they come from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"Warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def import_keras() -> None:
    """Import Keras without the noise that TensorFlow makes."""
    if "keras" not in sys.modules:
        with (
            native_stderr_closed() as stderr,
            contextlib.redirect_stderr(stderr),
            doing("importing Keras"),
        ):
            import keras  # noqa: F401
    # Both log, as warnings, what concerns only those who train or save a model themselves.
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def native_stderr_closed() -> Iterator[TextIO]:
    """Drop what is written to file descriptor 2; yields what leads where that led.

    TensorFlow's C++ code writes there while it is imported, before its log level is in force.
    """
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as kept:
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield kept
        finally:
            os.dup2(kept.fileno(), 2)
