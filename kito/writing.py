"""Files that are written whole or not at all, whatever ends the process."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator

from kito.errors import InputError

FilePath = str | os.PathLike[str]

UNFINISHED = ".kito-"
DAY = 24 * 60 * 60
# What the system said is a part of what HDF5 says.
HDF5_ERROR = re.compile(r"error message = '([^']*)'")


def check_target(path: FilePath, force: bool) -> None:
    """Refuse a path that could not be written to, before any work is done.

    Raises:
        InputError: the path can't be written; the message says why and what to do.
    """
    name = os.fspath(path)
    folder = os.path.dirname(os.path.realpath(name))
    if not os.path.isdir(folder):
        raise InputError(f"the folder '{folder}' of '{name}' does not exist. Create it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"the folder '{folder}' of '{name}' is not writable. Choose another, or change its "
            "permissions."
        )
    if os.path.lexists(name) and not force:
        raise InputError(f"'{name}' exists. Choose another name, or overwrite it with --force.")


@contextlib.contextmanager
def whole_file(path: FilePath) -> Iterator[str]:
    """Give a path to write to; what is there at the end takes the place of `path` in one step.

    If anything is raised, what was written is removed. A process that is killed can't do that: a
    hidden folder stays, which has no file with a name. The next file that is written in its place
    after a day removes it.

    Raises:
        InputError: the file can't be written; the message says why and what to do.
    """
    target = os.path.realpath(path)  # a link stays a link: what it points to is replaced
    with _unfinished(path, target, "another place with -o") as folder:
        complete = os.path.join(folder, os.path.splitext(target)[1])
        yield complete
        with open(complete, "rb+") as file:
            os.fsync(file)
        os.replace(complete, target)


def check_new_folder(path: FilePath) -> None:
    """Refuse a folder that could not be made, before any work is done.

    Raises:
        InputError: there is something of that name, or it can't be written.
    """
    check_target(path, force=True)
    if os.path.lexists(path):
        raise InputError(f"'{os.fspath(path)}' exists. Choose another name, or remove it.")


@contextlib.contextmanager
def whole_folder(path: FilePath) -> Iterator[str]:
    """Give an empty folder to write to, which gets the name `path` at the end; see `whole_file`.

    Raises:
        InputError: there is something of that name, or it can't be written.
    """
    check_new_folder(path)
    target = os.path.realpath(path)
    with _unfinished(path, target, "another place") as folder:
        complete = os.path.join(folder, "folder")
        os.mkdir(complete)
        yield complete
        os.rename(complete, target)


@contextlib.contextmanager
def _unfinished(path: FilePath, target: str, instead: str) -> Iterator[str]:
    """Give a hidden folder beside the target, which is there as long as the block lasts.

    Raises:
        InputError: what the system says of writing.
    """
    parent = os.path.dirname(target)
    try:
        _remove_abandoned(parent)
        # On the same disk as the target, else the last step would be a copy. A folder and not a
        # file, because a file created in it has the user's usual permissions.
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=parent) as folder:
            yield folder
    except OSError as error:
        quoted = HDF5_ERROR.search(str(error))
        why = quoted[1] if quoted else error.strerror or error
        raise InputError(
            f"'{os.fspath(path)}' can't be written: {why}. Choose {instead}, or make room there."
        ) from error


def _remove_abandoned(folder: str) -> None:
    """Remove what processes that were killed have left, but nothing that may still be written."""
    with os.scandir(folder) as entries:
        hidden = [
            entry
            for entry in entries
            if entry.name.startswith(UNFINISHED) and entry.is_dir(follow_symlinks=False)
        ]
    for entry in hidden:
        if entry.stat(follow_symlinks=False).st_mtime < time.time() - DAY:
            shutil.rmtree(entry.path, ignore_errors=True)
