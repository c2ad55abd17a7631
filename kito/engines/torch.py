"""PyTorch, where it is the backend of Keras: the model as a module, in inference mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kito.engines.engine import Arrays, Run
from kito.engines.keras import KerasEngine

if TYPE_CHECKING:
    import keras


class TorchEngine(KerasEngine):
    """PyTorch without what Keras does around each call."""

    name = "torch"
    target = "torch"
    loads_with = ("torch",)
    backends = ("torch",)

    def run(self, model: keras.Model) -> Run:
        """The model, called as a module."""
        import keras
        import torch

        def run(inputs: Arrays) -> Arrays:
            with torch.inference_mode():
                tensors = [keras.ops.convert_to_tensor(each) for each in inputs]
                outputs = keras.tree.flatten(model(tensors, training=False))
                return [keras.ops.convert_to_numpy(each) for each in outputs]

        return run
