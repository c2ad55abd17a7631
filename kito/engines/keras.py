"""Keras itself, which runs the model by `predict_on_batch`."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from kito.engines.engine import Arrays, Engine, Run, Settings
from kito.errors import InputError

if TYPE_CHECKING:
    import keras

FILE = "model.keras"


class KerasEngine(Engine):
    """Keras, on its running backend.

    In the process that has the model it runs this very model, and so one that can't be saved too.
    """

    name = "keras"
    loads_with = ("keras",)
    holds_model = True

    @property
    def target(self) -> str:  # type: ignore[override]
        """The running backend of Keras."""
        import keras

        return str(keras.backend.backend())

    def run(self, model: keras.Model) -> Run:
        """The model as a function; the other engines that run inside Keras have their own."""
        import keras

        one_at_a_time = threading.Lock()  # on JAX, Keras lends its weights to a call

        def run(arrays: Arrays) -> Arrays:
            with one_at_a_time:
                return list(keras.tree.flatten(model.predict_on_batch(arrays)))

        return run

    def open(self, model: keras.Model, folder: str, settings: Settings) -> Run:
        """Run the model as it is."""
        if settings.threads is not None:
            raise InputError("the number of threads is that of Keras' backend; set it there")
        return self.run(model)

    def save(self, model: keras.Model, folder: str, precision: str | None) -> None:
        """Write a `.keras` file."""
        model.save(os.path.join(folder, FILE))

    def load(self, folder: str, settings: Settings) -> Run:
        """Read the `.keras` file; the classes of custom layers have to be registered before."""
        import keras

        model = keras.saving.load_model(os.path.join(folder, FILE))
        return self.open(model, folder, settings)
