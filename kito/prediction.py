"""A predictor: an engine, and what it takes and returns. Nothing here needs Keras."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from shutil import copytree
from typing import Any

import numpy as np

from kito.batches import batches
from kito.choice import Choice
from kito.discovery import engine_named
from kito.engines.engine import Arrays, Run, Settings
from kito.errors import InputError
from kito.progress import doing
from kito.signature import Signature
from kito.writing import FilePath, whole_folder

DESCRIPTION = "predictor.json"
ARTIFACT = "artifact"
FORMAT = 1


class Predictor:
    """A model in an engine. Several threads may call it at a time.

    Made by `kito.predictor` and `kito.load_predictor`; `print` shows why it has this engine.

    Attributes:
        engine: the name of its engine.
        precision: "bfloat16", "float16", or None for the model's own.
        signature: the inputs and outputs, with their names, shapes and dtypes.
        choice: the engines that were tried.
        run: the engine's own function, from the list of inputs to that of outputs. It checks and
            converts nothing.
    """

    def __init__(
        self,
        run: Run,
        engine: str,
        precision: str | None,
        signature: Signature,
        choice: Choice,
        write: Callable[[str], object],
    ) -> None:
        self.engine = engine
        self.precision = precision
        self.signature = signature
        self.choice = choice
        self.run = run
        self._write = write

    def __call__(self, inputs: Any) -> Any:
        """The model's answers for one batch of any size.

        Args:
            inputs: arrays, or what numpy makes arrays of, in the structure that the model takes.

        Returns:
            Arrays in the structure, and of the shapes and dtypes, that the model returns.

        Raises:
            InputError: the inputs do not fit the model; the message names the one that does not.
        """
        return self.signature.pack(self._outputs(self.signature.flatten(inputs)))

    def predict(self, data: Any, batch_size: int = 32) -> Any:
        """The model's answers for many samples, with a progress bar.

        A model with a fixed batch size gets batches of that size, the last one filled up.

        Args:
            data: arrays in the structure that the model takes; or a tf.data.Dataset, a
                keras.utils.PyDataset, or anything else that gives one batch after the other: inputs
                or, in a tuple or list, inputs, targets and sample weights.
            batch_size: how many samples of arrays run at a time.

        Returns:
            Arrays in the structure that the model returns, for all samples.

        Raises:
            InputError: the data does not fit the model, or has no batch.
        """
        found = batches(self.signature, data, batch_size)
        collected: list[Arrays] = []
        with doing("predicting", found.number) as step:
            for arrays in found.arrays:
                collected.append(self._outputs(arrays))
                step()
        if not collected:
            raise InputError("the data has no batch")
        return self.signature.pack([np.concatenate(each) for each in zip(*collected, strict=True)])

    def save(self, folder: FilePath) -> None:
        """Write what `kito.load_predictor` reads: whole, or not at all.

        Args:
            folder: does not exist yet.

        Raises:
            InputError: it exists, or can't be written.
        """
        description = {
            "format": FORMAT,
            "engine": self.engine,
            "precision": self.precision,
            "signature": self.signature.to_dict(),
            "choice": self.choice.to_dict(),
        }
        with whole_folder(folder) as unfinished:
            with open(os.path.join(unfinished, DESCRIPTION), "w", encoding="utf-8") as file:
                json.dump(description, file, indent=2)
            self._write(os.path.join(unfinished, ARTIFACT))

    def __str__(self) -> str:
        return str(self.choice)

    def _outputs(self, arrays: Arrays) -> Arrays:
        """What the engine returns, for no samples and for less than its fixed number too."""
        fixed, missing = self.signature.fixed_batch, 0
        if self.signature.splits:
            number = len(arrays[0])
            missing = (fixed or max(number, 1)) - number
        if not missing:
            return self.run(arrays)
        if missing < 0:
            raise InputError(f"there is a batch of {number} samples; the model takes {fixed}")
        outputs = self.run([_filled(array, missing) for array in arrays])
        return [output[:number] for output in outputs]


def _filled(array: np.ndarray[Any, Any], missing: int) -> np.ndarray[Any, Any]:
    """The array with some samples more, of zeros or empty text."""
    fill = np.full(
        (missing, *array.shape[1:]), "" if array.dtype == object else 0, dtype=array.dtype
    )
    return np.concatenate([array, fill])


def load_predictor(
    folder: FilePath, *, threads: int | None = None, inputs: Any = None
) -> Predictor:
    """The predictor that was saved in a folder. It needs its engine's package, and no other.

    Args:
        threads: how many processors the engine uses; None is its default.
        inputs: one batch of the shapes that come most often, for which some engines are faster;
            None are the shapes that the engine was chosen on. All others work as well.

    Raises:
        InputError: there is none, its engine is not installed, or the inputs do not fit.
    """
    path = os.fspath(folder)
    try:
        with open(os.path.join(path, DESCRIPTION), encoding="utf-8") as file:
            description = json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' has no predictor that was saved by kito: {error}") from error
    if description["format"] != FORMAT:
        raise InputError(f"'{path}' was saved by another version of kito. Save it anew.")
    engine, precision = engine_named(description["engine"]), description["precision"]
    if lacks := engine.lacks_to_load():
        raise InputError(f"'{path}' needs the engine {engine.name}, but {lacks}")
    artifact = os.path.join(path, ARTIFACT)
    signature = Signature.from_dict(description["signature"])
    choice = Choice.from_dict(description["choice"])
    shapes = choice.shapes
    if inputs is not None:
        shapes = tuple(each.shape for each in signature.flatten(inputs))
    return Predictor(
        engine.load(artifact, Settings(precision, threads, shapes)),
        engine.name,
        precision,
        signature,
        choice,
        partial(copytree, artifact),
    )
