"""What an engine is: an adapter over a package that runs models."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # a saved predictor is loaded without it
    import keras

Arrays = list[np.ndarray[Any, Any]]
Run = Callable[[Arrays], Arrays]
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Settings:
    """How an engine runs a model.

    Attributes:
        precision: "bfloat16", "float16", or None for that of the model.
        threads: how many processors it uses; None is its default.
        shapes: those of the inputs that come most often; empty if nobody said. All others have to
            work as well.
    """

    precision: str | None = None
    threads: int | None = None
    shapes: Shapes = ()


def position(name: str) -> int:
    """The place of a tensor that some package calls `input_2:0` or `output_2`, which is 2."""
    found = re.search(r"\b(?:input|output)_(\d+)\b", name)
    if found is None:
        raise ValueError(f"{name} is not the name of an input or output")
    return int(found[1])


class Engine(ABC):
    """Writes a model in the form that a package runs, and loads it from there with that package.

    What is written is what is tested and deployed: a predictor is loaded from what `save` wrote, in
    this process and in any other.

    Attributes:
        name: what users call it, such as "onnxruntime".
        target: the target of `kito.optimize` whose rules are the best for it.
        loads_with: the modules that `load` imports.
        saves_with: the modules that `save` imports besides.
        backends: the backends of Keras from which it can save; none is any.
        install: how its modules are installed, for people.
        precisions: those that it computes in by itself. `save` then gets a model as it is, else
            one whose layers compute in the precision.
        holds_model: whether `open` runs the model itself, and leaves the folder empty.
    """

    name: str
    target: str
    loads_with: tuple[str, ...] = ()
    saves_with: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    install: str = ""
    precisions: tuple[str, ...] = ()
    holds_model: bool = False

    @abstractmethod
    def save(self, model: keras.Model, folder: str, precision: str | None) -> None:
        """Write the model into an empty folder.

        Args:
            model: takes a list of tensors, named input_0, input_1 and so on, and returns a list,
                or what Keras makes of a list of one, the tensor alone.
            precision: "bfloat16", "float16", or None for that of the model.

        Raises:
            Exception: whatever says why the engine can't take the model.
        """

    @abstractmethod
    def load(self, folder: str, settings: Settings) -> Run:
        """What `save` wrote as a function, which several threads may call at a time.

        It maps the list of inputs, in C order and of the right shapes and dtypes, to the list of
        outputs. It may not import Keras if the engine needs it for nothing else.

        Args:
            settings: with the precision that `save` got.
        """

    def open(self, model: keras.Model, folder: str, settings: Settings) -> Run:
        """Save into an empty folder and load from there."""
        self.save(model, folder, settings.precision)
        return self.load(folder, settings)

    def lacks_to_load(self) -> str | None:
        """Why nothing can be loaded here; None if it can."""
        return self._missing(self.loads_with)

    def lacks_to_save(self) -> str | None:
        """Why no model can be saved and loaded here; None if it can."""
        import keras

        backend = keras.backend.backend()
        if self.backends and backend not in self.backends:
            return f"Keras runs on {backend}; it takes models from {', '.join(self.backends)}"
        return self._missing(self.loads_with + self.saves_with)

    def _missing(self, modules: tuple[str, ...]) -> str | None:
        missing = [name for name in modules if find_spec(name) is None]
        if not missing:
            return None
        how = f": {self.install}" if self.install else ""
        return f"{', '.join(missing)} is not installed{how}"
