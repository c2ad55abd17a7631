"""Dense -> BatchNormalization: one Dense layer.

A Dense layer acts on the last axis of its input, of any rank; the kernel is (inputs, units):

    scale * (x @ kernel + bias) + shift = x @ (kernel * scale) + (bias * scale + shift)
"""

from keras.layers import BatchNormalization, Dense

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import Float64, foldable, scaled, shifted


def scaled_and_shifted(dense: Node, scale: Float64, shift: Float64) -> Layer:
    """The Dense layer that computes `scale * y + shift` of its output `y`."""
    return dense.evolve(kernel=scaled(dense.kernel, scale), **shifted(dense, scale, shift))


@rule(chain(dense=Dense, bn=BatchNormalization))
def dense_batchnorm(dense: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the Dense layer before it."""
    return scaled_and_shifted(dense, *foldable(bn, dense, channel_axis=-1))
