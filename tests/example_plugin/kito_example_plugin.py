"""Two Dense layers with nothing between them are one: x @ (first @ second)."""

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
    bias = (first.bias if first.use_bias else 0.0) @ second.kernel if first.use_bias else 0.0
    return second.evolve(
        use_bias=True, kernel=kernel, bias=bias + (second.bias if second.use_bias else 0.0)
    )


@hookimpl
def register_rules():
    return [example_dense_dense]
