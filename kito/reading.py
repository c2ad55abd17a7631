"""What a model file holds, checked before Keras builds anything of it.

A `.keras` file is a zip archive of `config.json`, the weights as an HDF5 file, and what layers save
besides. An `.h5` file is an HDF5 file with the configuration among its attributes. The checks keep
a file from reaching outside of itself, and from asking for more memory than it stores.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kito.errors import InputError
from kito.hdf5 import PACKED, SMALL, Hdf5File, examine

HDF5_SUFFIXES = (".h5", ".hdf5")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
# The attributes of an `.h5` file; the second one need not be there.
MODEL, TRAINING = "model_config", "training_config"


@dataclass(frozen=True)
class Contents:
    """What a model file says of its model.

    Attributes:
        configs: the configuration of the model, and in an `.h5` file that of its training.
        count_numbers: reads the weights; how many numbers they are. Raises InputError if they are
            not to be used.
    """

    configs: list[Any]
    count_numbers: Callable[[], int]


def read(name: str) -> Contents:
    """What a file holds, as plain lists and dicts; nothing is made of it.

    Raises:
        InputError: the file is not a whole Keras model, or not an honest one.
    """
    suffixes: tuple[str, ...]
    with open(name, "rb") as file:
        start = file.read(len(HDF5_SIGNATURE))
    if start == HDF5_SIGNATURE:
        contents, suffixes = _read_hdf5(name), HDF5_SUFFIXES
    elif start.startswith(ZIP_SIGNATURE):
        contents, suffixes = _read_archive(name), (".keras",)
    else:
        raise InputError(
            f"'{name}' is {'not a Keras model' if start else 'empty'}. Give a `.keras` or `.h5` "
            "file that `model.save` wrote."
        )
    if not name.endswith(suffixes):
        raise InputError(
            f"'{name}' has the content of a `{suffixes[0]}` file, but not the name. Rename it to "
            f"'{os.path.splitext(name)[0]}{suffixes[0]}'."
        )
    return contents


def nested(name: str) -> InputError:
    """The error of a configuration that no stack is deep enough for."""
    return InputError(
        f"the configuration in '{name}' is nested too deeply. Save a model with fewer models "
        "inside one another."
    )


def _damaged(name: str) -> InputError:
    return InputError(
        f"'{name}' is damaged or incomplete. Copy or download it again, or save the model anew."
    )


def _dishonest(name: str, what: str) -> InputError:
    return InputError(
        f"'{name}' {what}, which `model.save` never writes. Don't use it unless you know how it "
        "was made; then save the model anew."
    )


def _read_archive(name: str) -> Contents:
    try:
        with zipfile.ZipFile(name) as archive:
            _check_members(name, archive.infolist())
            if archive.testzip() is not None:
                raise _damaged(name)
            text = archive.read(CONFIG)
    except InputError:
        raise
    except NotImplementedError as error:
        raise InputError(
            f"'{name}' is packed in a way that can't be unpacked here ({error}). Save the model "
            "anew with `model.save`, which does not pack."
        ) from error
    except Exception as error:  # there is little that a damaged archive can't raise
        raise _damaged(name) from error
    config = _parse(name, text)
    return Contents([config], lambda: _checked(name, examine(name, WEIGHTS)).numbers)


def _check_members(name: str, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that lacks something, or is not to be unpacked.

    Raises:
        InputError: with the reason.
    """
    names = Counter(member.filename for member in members)
    for member in members:
        _check_member(name, member)
        if names[member.filename] > 1:
            raise _dishonest(name, f"has two members named '{member.filename}'")
    if CONFIG not in names:
        raise InputError(
            f"'{name}' is a zip archive without a Keras model (no {CONFIG}). Give a file that "
            "`model.save` wrote."
        )
    if WEIGHTS not in names:
        raise InputError(
            f"'{name}' has no weights (no {WEIGHTS}). Save the model anew with `model.save`."
        )


def _check_member(name: str, member: zipfile.ZipInfo) -> None:
    parts = member.filename.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise _dishonest(name, f"has a member outside of it, '{member.filename}'")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _dishonest(name, f"has a member '{member.filename}' that is a link")
    if member.flag_bits & 1:
        raise InputError(
            f"the member '{member.filename}' of '{name}' is encrypted. Save the model anew without "
            "a password."
        )
    if member.file_size > max(SMALL, PACKED * member.compress_size):
        raise InputError(
            f"the member '{member.filename}' of '{name}' would unpack to {member.file_size:,} "
            f"bytes, from {member.compress_size:,}. If that is right, save the model anew with "
            "`model.save`, which does not pack."
        )


def _read_hdf5(name: str) -> Contents:
    found = _checked(name, examine(name))
    texts = found.texts
    if MODEL not in texts:
        raise InputError(
            f"'{name}' has weights only, no model. Build the model in Python, call "
            "`model.load_weights` on it, and save it with `model.save('model.keras')`."
        )
    if "model_weights" not in found.groups:
        raise InputError(
            f"'{name}' has no weights (no group model_weights). Save the model anew with "
            "`model.save`."
        )
    configs = [_parse(name, texts[each]) for each in (MODEL, TRAINING) if each in texts]
    return Contents(configs, lambda: found.numbers)


def _checked(name: str, found: Hdf5File) -> Hdf5File:
    """What was found in an HDF5 file.

    Raises:
        InputError: it is not to be used.
    """
    if found.damage:
        raise _damaged(name)
    if found.problem:
        raise _dishonest(name, found.problem)
    return found


def _parse(name: str, text: str | bytes) -> Any:
    """The JSON document in a text.

    Raises:
        InputError: it is not one.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise nested(name) from error
    except ValueError as error:
        raise InputError(
            f"the configuration in '{name}' is not JSON: {error}. The file is damaged: copy or "
            "download it again, or save the model anew."
        ) from error
