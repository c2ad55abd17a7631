"""Global pooling -> Reshape to (1, ..., 1, channels): global pooling that keeps its axes."""

from __future__ import annotations

from keras.layers import (
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalAveragePooling3D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GlobalMaxPooling3D,
    Reshape,
)

from kito.definition import Decline, Layer, Node, chain, rule

POOLING = {
    GlobalAveragePooling1D: 1,
    GlobalAveragePooling2D: 2,
    GlobalAveragePooling3D: 3,
    GlobalMaxPooling1D: 1,
    GlobalMaxPooling2D: 2,
    GlobalMaxPooling3D: 3,
}


@rule(chain(pool=tuple(POOLING), reshape=Reshape), opens=False)
def global_pooling_reshape(pool: Node, reshape: Node) -> Layer:
    """Let a global pooling keep the axes that a Reshape puts back."""
    if pool.keepdims:
        raise Decline(f"{pool.name} keeps its axes already")
    batch, channels = pool.output.shape
    ones = (1,) * POOLING[pool.layer.cls]
    kept = (*ones, channels) if pool.data_format == "channels_last" else (channels, *ones)
    if reshape.output.shape != (batch, *kept):
        raise Decline(f"{reshape.name} makes {reshape.output.shape[1:]}, not {kept}")
    if pool.output.dtype != reshape.output.dtype:
        raise Decline(f"{reshape.name} turns {pool.output.dtype} into {reshape.output.dtype}")
    return pool.evolve(keepdims=True)
