"""Dense -> BatchNormalization: one Dense layer.

A Dense layer acts on the last axis of its input, of any rank; the kernel is (inputs, units):

    scale * (x @ kernel + bias) + shift = x @ (kernel * scale) + (bias * scale + shift)
"""

from keras.layers import BatchNormalization, Dense

from kito.definition import Layer, Node, chain, rule
from kito.rules.batchnorm import bias_of, foldable, scaled


@rule(chain(dense=Dense, bn=BatchNormalization))
def dense_batchnorm(dense: Node, bn: Node) -> Layer:
    """Fold a BatchNormalization into the Dense layer before it."""
    scale, shift = foldable(bn, dense, channel_axis=-1)
    return dense.evolve(
        use_bias=True, kernel=scaled(dense.kernel, scale), bias=bias_of(dense) * scale + shift
    )
