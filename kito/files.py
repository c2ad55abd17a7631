"""Models and their files: load one safely, and write one whole or not at all."""

from __future__ import annotations

import difflib
import os
import re
import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kito.configuration import check_config, count_calls, refuse_code
from kito.errors import BOLD, InputError
from kito.graph.keras_internals import bounded_attempts, recursion
from kito.graph.layer import to_numpy
from kito.limits import bounded_variables, check_tensors
from kito.reading import HDF5_SUFFIXES, Contents, nested, read
from kito.writing import FilePath, check_target, whole_file

MODEL_SUFFIXES = (".keras", *HDF5_SUFFIXES)

# Keras names what it can't find only inside its messages, which quote whole configurations.
MISSING_OBJECT = re.compile(
    r"Could not locate (?:class|function) '([^']+)'"  # .keras
    r"|Unknown [\w ]+: '([^']+)'"  # .h5
    r"|Cannot deserialize object of type `([^`]+)`"
)
OTHER_SHAPE = re.compile(
    r"variable\.shape=(?P<expected>\([^)]*\)), Received: value\.shape=(?P<stored>[^)]*\))"
    r"\. Target variable: <\w+ path=(?P<weight>[^,]+),"  # .keras
    r"|for weight (?P<weight_h5>\S+)\. Weight expects shape (?P<expected_h5>\([^)]*\))"
    r"\. Received saved weight with shape (?P<stored_h5>\([^)]*\))"  # .h5
)
# An error that quotes others has the cause behind these, and what is not about it behind those.
BEFORE_CAUSE = re.compile(
    r".*(?:Exception encountered: |Error encountered during deserialization: "
    r"|Example error message for object [^\n]*:\n)",
    re.DOTALL,
)
BEHIND_CAUSE = re.compile(
    r"\n\n(?:List of objects that could not be loaded|Full config).*", re.DOTALL
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
    contents = read(name)
    if not unsafe:
        refuse_code(name, contents.configs)
    check_config(name, contents.configs[0])
    model = _load_file(name, contents, unsafe)
    _check_weights(name, model)
    check_tensors(name, model)
    return model


def check_output_path(path: FilePath, force: bool) -> None:
    """Refuse a path that `save_model` could not write to, before any work is done.

    Raises:
        InputError: the path can't be written; the message says why and what to do.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        raise InputError(
            f"'{name}' is a folder. Name the file in it: '{os.path.join(name, 'model.keras')}'."
        )
    if os.path.splitext(name)[1] != ".keras":
        raise InputError(
            f"'{name}' is not named `.keras`, the only format that is written. Call it "
            f"'{os.path.splitext(name)[0]}.keras'."
        )
    check_target(path, force)


def save_model(model: keras.Model, path: FilePath, force: bool = False) -> None:
    """Write a model as a `.keras` file: whole and such that Keras loads it again, or not at all.

    Args:
        force: replace an existing file, which stays as it is until the new one is complete.

    Raises:
        InputError: the file can't be written, or not be loaded; the message says why and what to
            do.
    """
    check_output_path(path, force)
    try:
        with whole_file(path) as unfinished:
            keras.saving.save_model(model, unfinished)
            _check_loads(unfinished)
    except InputError:
        raise
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
        if os.path.exists(name):
            raise InputError(f"'{name}' is no ordinary file. Give a `.keras` or `.h5` file.")
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


def _check_loads(name: str) -> None:
    """Refuse a file that Keras wrote, and can't load.

    Raises:
        InputError: it can't.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _loader(name, read(name), unsafe=True)(False)
    except Exception as error:
        raise InputError(
            f"Keras can save the result, but not load it again: {_short(error)}. Nothing is "
            "written. What `kito.optimize` gives in Python can be used and exported."
        ) from error


def _loader(name: str, contents: Contents, unsafe: bool) -> Callable[[bool], Any]:
    """Lets Keras load a file, compiled or not, in bounded memory and time."""
    numbers = contents.count_numbers()
    calls = count_calls(contents.configs[0])

    def load(compiled: bool) -> Any:
        # A graph of n calls, in the worst order, is done after n rounds.
        attempts = bounded_attempts(calls**2)
        with bounded_variables(name, numbers), attempts, recursion(calls):
            return keras.saving.load_model(name, compile=compiled, safe_mode=not unsafe)

    return load


def _load_file(name: str, contents: Contents, unsafe: bool) -> keras.Model:
    """The model, compiled if that is possible.

    Raises:
        InputError: Keras can't load it, compiled or not.
    """
    load = _loader(name, contents, unsafe)
    try:
        model = load(True)
    except Exception as error:
        try:
            model = load(False)
        except InputError:
            raise
        except Exception as other:
            raise InputError(_why_not_loaded(name, other)) from other
        warnings.warn(
            f"'{name}' is loaded without its optimizer, loss and metrics, which inference does not "
            f"need: {_short(error)}",
            stacklevel=3,
        )
    if not isinstance(model, keras.Model):
        raise InputError(
            f"'{name}' holds a {type(model).__name__}, which is not a model. Save the model that "
            "it is part of."
        )
    return model


def _why_not_loaded(name: str, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return str(nested(name))
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
    if found := OTHER_SHAPE.search(text):
        weight, expected, stored = (
            found[part] or found[f"{part}_h5"] for part in ("weight", "expected", "stored")
        )
        shape = tuple(map(int, re.findall(r"\d+", stored)))  # which PyTorch calls torch.Size([2])
        return (
            f"the weight '{weight}' has the shape {shape} in '{name}', and the configuration "
            f"there says {expected}. The file is damaged: save the model anew."
        )
    return (
        f"Keras can't load '{name}': {_short(error)}. Save the model anew, or see the whole error "
        f"with `keras.saving.load_model({name!r})`."
    )


def _check_weights(name: str, model: keras.Model) -> None:
    """Refuse weights that are not numbers: every answer would be wrong, and none would differ.

    Infinite ones have their use, as in masks.

    Raises:
        InputError: there is a NaN among the weights.
    """
    for variable in model.weights:
        if not keras.backend.is_float_dtype(variable.dtype) or 0 in variable.shape:
            continue
        values = to_numpy(variable)
        lowest, highest = float(values.min()), float(values.max())  # NaN if there is one
        if np.isnan(lowest):
            raise InputError(
                f"the weight '{variable.path}' in '{name}' has values that are not numbers (NaN). "
                "Take the model as it was before its training failed."
            )
        if np.isinf([lowest, highest]).any():
            warnings.warn(f"the weight '{variable.path}' has infinite values", stacklevel=3)


def _short(error: BaseException) -> str:
    """The type and the first words of an error; the messages of Keras run to pages."""
    text = BOLD.sub("", BEHIND_CAUSE.sub("", BEFORE_CAUSE.sub("", str(error))))
    text = textwrap.shorten(text, width=160, placeholder="...").rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
