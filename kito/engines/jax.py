"""JAX, where it is the backend of Keras: the model as one compiled function of its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kito.engines.engine import Arrays, Run
from kito.engines.keras import KerasEngine

if TYPE_CHECKING:
    import keras


class JaxEngine(KerasEngine):
    """JAX without what Keras does around each call. It compiles once for each shape."""

    name = "jax"
    target = "jax"
    loads_with = ("jax",)
    backends = ("jax",)

    def run(self, model: keras.Model) -> Run:
        """The compiled function, with the weights on the device."""
        import jax
        import keras
        from jax.numpy import array

        # Copies: when Keras runs the model it gives the buffers away, and puts others there.
        trainable = [array(variable.value) for variable in model.trainable_variables]
        others = [array(variable.value) for variable in model.non_trainable_variables]

        def outputs(trainable: list[Any], others: list[Any], inputs: Arrays) -> list[Any]:
            made, _ = model.stateless_call(trainable, others, inputs, training=False)
            return list(keras.tree.flatten(made))

        compiled = jax.jit(outputs)
        return lambda inputs: [np.asarray(each) for each in compiled(trainable, others, inputs)]
