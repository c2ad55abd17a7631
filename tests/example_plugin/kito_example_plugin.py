"""Two Dense layers with nothing between them are one: x @ (first @ second)."""

import numpy as np
from keras.layers import Dense

from kito import Decline, chain, hookimpl, rule


@rule(chain(first=Dense, second=Dense), default=False)
def example_dense_dense(first, second):
    """Multiply the kernels of two Dense layers."""
    if first.activation != "linear":
        raise Decline(f"{first.name} has an activation")
    kernel = first.kernel.astype("float64") @ second.kernel
    if kernel.size > first.kernel.size + second.kernel.size:
        raise Decline("the product is larger than its factors")
    bias = np.zeros(kernel.shape[-1])
    if first.use_bias:
        bias += first.bias @ second.kernel
    if second.use_bias:
        bias += second.bias
    return second.evolve(use_bias=True, kernel=kernel, bias=bias)


@hookimpl
def register_rules():
    return [example_dense_dense]
