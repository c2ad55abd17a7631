"""Model files: load one safely, and write one whole or not at all."""

from __future__ import annotations

import difflib
import json
import os
import re
import tempfile
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import keras

from kito.errors import InputError

FilePath = str | os.PathLike[str]

HDF5_SUFFIXES = (".h5", ".hdf5")
MODEL_SUFFIXES = (".keras", *HDF5_SUFFIXES)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"

# Keras names what it can't find only inside its messages, which quote whole configurations.
MISSING_OBJECT = re.compile(
    r"Could not locate (?:class|function) '([^']+)'"  # .keras
    r"|Unknown [\w ]+: '([^']+)'"  # .h5
    r"|Cannot deserialize object of type `([^`]+)`"
)


def load_model(
    name_or_path: FilePath, weights: str | None = None, unsafe: bool = False
) -> keras.Model:
    """The model in a `.keras` or legacy `.h5` file, or a network of `keras.applications`.

    A model whose optimizer, loss or metrics can't be loaded comes uncompiled, with a warning.

    Args:
        name_or_path: a file, or a name such as "MobileNetV2".
        weights: of a network: "imagenet" (downloaded), or None for random ones. A file has its own.
        unsafe: load files that contain Python code, which runs then.

    Raises:
        InputError: the file or the name can't be used; the message says why and what to do.
    """
    name = os.fspath(name_or_path)
    if name in _networks() and not os.path.isfile(name):
        return _build_network(name, weights)
    _check_input_path(name)
    if weights is not None:
        raise InputError(
            f"'{name}' is a file and has its own weights. Leave out weights={weights}, which is "
            "for the networks of keras.applications."
        )
    config = _read_config(name)
    if not unsafe:
        _refuse_code(name, config)
    return _load_file(name, unsafe)


def check_output_path(path: FilePath, force: bool) -> None:
    """Refuse a path that `save_model` could not write to, before any work is done.

    Raises:
        InputError: the path can't be written; the message says why and what to do.
    """
    name = os.fspath(path)
    folder = os.path.dirname(os.path.realpath(name))
    if os.path.isdir(name):
        raise InputError(
            f"'{name}' is a folder. Name the file in it: '{os.path.join(name, 'model.keras')}'."
        )
    if os.path.splitext(name)[1] != ".keras":
        raise InputError(
            f"'{name}' is not named `.keras`, the only format that is written. Call it "
            f"'{os.path.splitext(name)[0]}.keras'."
        )
    if not os.path.isdir(folder):
        raise InputError(f"the folder '{folder}' of '{name}' does not exist. Create it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"the folder '{folder}' of '{name}' is not writable. Choose another, or change its "
            "permissions."
        )
    if os.path.lexists(name) and not force:
        raise InputError(f"'{name}' exists. Choose another name, or overwrite it with --force.")


def save_model(model: keras.Model, path: FilePath, force: bool = False) -> None:
    """Write a model as a `.keras` file: whole, or not at all.

    Args:
        force: replace an existing file, which stays as it is until the new one is complete.

    Raises:
        InputError: the file can't be written; the message says why and what to do.
    """
    check_output_path(path, force)
    target = os.path.realpath(path)  # a link stays a link: what it points to is replaced
    try:
        # On the same disk as the target, else the last step would be a copy. A folder and not a
        # file, because Keras then creates the file with the user's usual permissions.
        with tempfile.TemporaryDirectory(prefix=".kito-", dir=os.path.dirname(target)) as folder:
            complete = os.path.join(folder, "model.keras")
            keras.saving.save_model(model, complete)
            with open(complete, "rb+") as file:
                os.fsync(file)
            os.replace(complete, target)
    except OSError as error:
        raise InputError(
            f"'{path}' can't be written: {error.strerror or _short(error)}. Choose another place "
            "with -o, or make room there."
        ) from error
    except Exception as error:
        raise InputError(
            f"Keras can't save the model as '{path}': {_short(error)}. Make the layer that it "
            "names serializable (`get_config`, `register_keras_serializable`)."
        ) from error


def _networks() -> dict[str, Callable[..., Any]]:
    """The constructors of `keras.applications` by name; what else is in there are modules."""
    return {name: each for name, each in vars(keras.applications).items() if callable(each)}


def _build_network(name: str, weights: str | None) -> keras.Model:
    """A network of `keras.applications`.

    Raises:
        InputError: there are no such weights, or they could not be downloaded.
    """
    try:
        return _networks()[name](weights=weights)
    except Exception as error:
        raise InputError(
            f"{name} can't be built with weights={weights}: {_short(error)}. Check the connection "
            "if they are downloaded, or give a file with the trained model."
        ) from error


def _check_input_path(name: str) -> None:
    """Refuse what is not an existing file of a name that Keras takes.

    Raises:
        InputError: with the reason.
    """
    if os.path.isdir(name):
        if os.path.exists(os.path.join(name, "saved_model.pb")):
            raise InputError(
                f"'{name}' is a TensorFlow SavedModel, which has no Keras layers to work on. Save "
                "the Keras model that it was exported from with `model.save('model.keras')`."
            )
        raise InputError(f"'{name}' is a folder. Give a `.keras` or `.h5` file.")
    if not os.path.isfile(name):
        if name.endswith(MODEL_SUFFIXES) or os.path.basename(name) != name:
            raise InputError(
                f"the file '{name}' does not exist. Check the path; the current folder is "
                f"'{os.getcwd()}'."
            )
        raise InputError(
            f"'{name}' is neither a file nor a network of keras.applications.{_suggestion(name)}"
        )
    if not os.access(name, os.R_OK):
        raise InputError(f"'{name}' is not readable. Change its permissions.")


def _suggestion(name: str) -> str:
    networks = {network.lower(): network for network in _networks()}
    near = difflib.get_close_matches(name.lower(), networks, n=1)
    if near:
        return f" Did you mean '{networks[near[0]]}'?"
    return " Give a `.keras` or `.h5` file, or a name such as 'MobileNetV2'."


def _read_config(name: str) -> list[Any]:
    """What the file says of the model, as plain lists and dicts; nothing is made of it.

    Raises:
        InputError: the file is not a whole Keras model.
    """
    with open(name, "rb") as file:
        start = file.read(len(HDF5_SIGNATURE))
    suffixes: tuple[str, ...]
    if start == HDF5_SIGNATURE:
        config, suffixes = _read_hdf5_config(name), HDF5_SUFFIXES
    elif start.startswith(ZIP_SIGNATURE):
        config, suffixes = _read_zip_config(name), (".keras",)
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
    return config


def _read_zip_config(name: str) -> list[Any]:
    try:
        with zipfile.ZipFile(name) as archive:
            if "config.json" not in archive.namelist():
                raise InputError(
                    f"'{name}' is a zip archive without a Keras model (no config.json). Give a "
                    "file that `model.save` wrote."
                )
            return [json.loads(archive.read("config.json"))]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(name) from error


def _read_hdf5_config(name: str) -> list[Any]:
    try:
        with h5py.File(name, "r") as file:
            if "model_config" not in file.attrs:
                raise InputError(
                    f"'{name}' has weights only, no model. Build the model in Python, call "
                    "`model.load_weights` on it, and save it with `model.save('model.keras')`."
                )
            configs = ("model_config", "training_config")
            return [json.loads(file.attrs[each]) for each in configs if each in file.attrs]
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(name) from error


def _damaged(name: str) -> InputError:
    return InputError(
        f"'{name}' is damaged or incomplete. Copy or download it again, or save the model anew."
    )


def _refuse_code(name: str, config: list[Any]) -> None:
    """Refuse a file with Python code in it, before Keras sees it.

    Keras refuses too; but not all its releases do so for `.h5`, and its message names no layer.

    Raises:
        InputError: there is code in the file.
    """
    for layer in _layers_with_code(config, owner="the model"):
        raise InputError(
            f"'{name}' contains Python code (the lambda of {layer}), which loading would run. If "
            "you trust where the file comes from, allow it with --unsafe."
        )


def _layers_with_code(config: Any, owner: str) -> Iterator[str]:
    """The names of the layers in whose configuration there is compiled Python code."""
    if isinstance(config, list):
        for entry in config:
            yield from _layers_with_code(entry, owner)
    elif isinstance(config, dict):
        inner = config.get("config")
        if isinstance(inner, dict):
            if isinstance(inner.get("name"), str):
                owner = f"'{inner['name']}'"
            # Keras 2 wrote the function of a Lambda layer as a list.
            if config.get("class_name") == "Lambda" and isinstance(inner.get("function"), list):
                yield owner
        if config.get("class_name") == "__lambda__":
            yield owner
        for value in config.values():
            yield from _layers_with_code(value, owner)


def _load_file(name: str, unsafe: bool) -> keras.Model:
    """The model, compiled if that is possible.

    Raises:
        InputError: Keras can't load it, compiled or not.
    """
    try:
        return keras.saving.load_model(name, safe_mode=not unsafe)
    except Exception as error:
        uncompiled = _load_uncompiled(name, unsafe)
        warnings.warn(
            f"'{name}' is loaded without its optimizer, loss and metrics, which inference does not "
            f"need: {_short(error)}",
            stacklevel=3,
        )
        return uncompiled


def _load_uncompiled(name: str, unsafe: bool) -> keras.Model:
    try:
        return keras.saving.load_model(name, compile=False, safe_mode=not unsafe)
    except zipfile.BadZipFile as error:
        raise _damaged(name) from error
    except Exception as error:
        raise InputError(_why_not_loaded(name, error)) from error


def _why_not_loaded(name: str, error: Exception) -> str:
    text = str(error)
    if found := MISSING_OBJECT.search(text):
        missing = next(filter(None, found.groups()))
        return (
            f"'{name}' needs the custom object '{missing}', which is not registered. Decorate it "
            "with `keras.saving.register_keras_serializable` and name its module: --import MODULE."
        )
    if "safe_mode=False" in text:
        return (
            f"'{name}' contains what Keras does not load in safe mode: {_short(error)}. If you "
            "trust where the file comes from, allow it with --unsafe."
        )
    return (
        f"Keras can't load '{name}': {_short(error)}. See the whole error with "
        f"`keras.saving.load_model({name!r})`."
    )


def _short(error: BaseException) -> str:
    """The type and the first words of an error; the messages of Keras run to pages."""
    text = textwrap.shorten(str(error), width=160, placeholder="...").rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
