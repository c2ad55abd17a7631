"""Writes a picture, in the form that the name of the file asks for."""

from __future__ import annotations

import os
from pathlib import Path

from kito.drawing import model_explorer, picture
from kito.errors import InputError
from kito.progress import doing
from kito.report import Report
from kito.writing import FilePath, check_target, whole_file

SUFFIXES = (".svg", ".png", ".json")


def check_picture_path(path: FilePath, force: bool) -> None:
    """Refuse a path that can't be drawn to, before any work is done.

    Raises:
        InputError: the path can't be written, or has a suffix that nothing can be drawn to.
    """
    form_of(path)
    check_target(path, force)


def form_of(path: FilePath) -> str:
    """What the file is to be, such as "svg".

    Raises:
        InputError: nothing can be drawn to a file with this suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        name, form = os.fspath(path), "`, `".join(SUFFIXES)
        raise InputError(
            f"'{name}' is not named `{form}`. Call it '{os.path.splitext(name)[0]}.svg'."
        )
    return suffix.removeprefix(".")


def write(report: Report, path: FilePath, everything: bool) -> None:
    """Write the picture of a report: whole, or not at all.

    Raises:
        InputError: see `Report.draw`.
    """
    form = form_of(path)
    if report.change is None:
        raise InputError(
            "the report has no model to draw: fill it with kito.optimize(model, report=report), or "
            "take that of kito.explain(model)."
        )
    with doing("drawing"):
        if form == "json":
            content = model_explorer.export(report.change, report).encode()
        else:
            content = picture.render(report.change, report, form, everything)
    with whole_file(path) as unfinished:
        Path(unfinished).write_bytes(content)
