"""How exactly the tests of a rule's algebra can compute.

On JAX and PyTorch Keras 3.15 computes parts of a float64 model in float32, and says so of the
results of its operations. There the algebra is tested in float32.
"""

import keras

DOUBLE = "float64" if keras.backend.backend() == "tensorflow" else "float32"
BOUND = {"float64": 1e-10, "float32": 1e-5}[DOUBLE]
