"""Networks of blocks that are layers of their own, as people write them.

Keras can copy and load all of these; none is one of its own layers. The networks are small, but as
deep as those that they are like.
"""

# ruff: noqa: D102 (what the methods of a layer are for, Keras says)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

register = keras.saving.register_keras_serializable("blocks")


class Block(layers.Layer):
    """A layer that is made of the number of its channels."""

    def __init__(self, filters: int, **options: Any) -> None:
        super().__init__(**options)
        self.filters = filters

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters}


@register
class ConvUnit(Block):
    """A convolution, its normalization, and an activation or none."""

    def __init__(
        self, filters: int, size: int = 3, strides: int = 1, relu: bool = True, **options: Any
    ) -> None:
        super().__init__(filters, **options)
        self.size, self.strides, self.relu = size, strides, relu
        self.conv = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)
        self.bn = layers.BatchNormalization()

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.bn(self.conv(x), training=training)
        return ops.relu(x) if self.relu else x

    def get_config(self) -> dict[str, Any]:
        own = {"size": self.size, "strides": self.strides, "relu": self.relu}
        return {**super().get_config(), **own}


@register
class Residual(Block):
    """The basic block of ResNet, of blocks."""

    def __init__(self, filters: int, strides: int = 1, **options: Any) -> None:
        super().__init__(filters, **options)
        self.strides = strides
        self.first = ConvUnit(filters, strides=strides)
        self.second = ConvUnit(filters, relu=False)
        self.shortcut = ConvUnit(filters, 1, strides, relu=False) if strides > 1 else None

    def call(self, x: Any, training: bool | None = None) -> Any:
        y = self.second(self.first(x, training=training), training=training)
        if self.shortcut is not None:
            x = self.shortcut(x, training=training)
        return ops.relu(x + y)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strides": self.strides}


@register
class InvertedResidual(Block):
    """The block of EfficientNet, with squeeze and excitation."""

    def __init__(self, filters: int, **options: Any) -> None:
        super().__init__(filters, **options)
        self.expand = layers.Conv2D(4 * filters, 1, use_bias=False)
        self.depthwise = layers.DepthwiseConv2D(3, padding="same", use_bias=False)
        self.project = layers.Conv2D(filters, 1, use_bias=False)
        self.normalizations = [layers.BatchNormalization() for _ in range(3)]
        self.squeeze = layers.GlobalAveragePooling2D(keepdims=True)
        self.reduce = layers.Conv2D(filters, 1, activation="silu")
        self.excite = layers.Conv2D(4 * filters, 1, activation="sigmoid")

    def call(self, x: Any) -> Any:
        first, second, third = self.normalizations
        y = ops.silu(first(self.expand(x)))
        y = ops.silu(second(self.depthwise(y)))
        y *= self.excite(self.reduce(self.squeeze(y)))
        return x + third(self.project(y))


@register
class DropPath(layers.Layer):
    """Leaves out a branch in training, of some of the samples."""

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.rate, self.seeds = rate, keras.random.SeedGenerator(0)

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not training:
            return x
        shape = (ops.shape(x)[0], *(1,) * (len(x.shape) - 1))
        keep = keras.random.uniform(shape, seed=self.seeds) >= self.rate
        return x * ops.cast(keep, x.dtype) / (1 - self.rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


@register
class LayerScale(layers.Layer):
    """A factor for each channel."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones", name="gamma")

    def call(self, x: Any) -> Any:
        return x * self.gamma


@register
class ConvNeXtBlock(Block):
    """The block of ConvNeXt, with the BatchNormalization that smaller ones have."""

    def __init__(self, filters: int, **options: Any) -> None:
        super().__init__(filters, **options)
        self.depthwise = layers.DepthwiseConv2D(7, padding="same")
        self.norm = layers.BatchNormalization()
        self.expand = layers.Dense(4 * filters)
        self.project = layers.Dense(filters)
        self.scale, self.drop = LayerScale(), DropPath(0.1)

    def call(self, x: Any) -> Any:
        y = self.project(ops.gelu(self.expand(self.norm(self.depthwise(x)))))
        return x + self.drop(self.scale(y))


@register
class Branches(Block):
    """The block of Inception, each branch a Sequential."""

    def __init__(self, filters: int, **options: Any) -> None:
        super().__init__(filters, **options)

        def unit(size: int) -> list[layers.Layer]:
            conv = layers.Conv2D(filters // 4, size, padding="same", use_bias=False)
            return [conv, layers.BatchNormalization(), layers.ReLU()]

        pooling = layers.AveragePooling2D(3, 1, padding="same")
        self.branches = [
            keras.Sequential(unit(1)),
            keras.Sequential(unit(1) + unit(3)),
            keras.Sequential(unit(1) + unit(3) + unit(3)),
            keras.Sequential([pooling, *unit(1)]),
        ]

    def call(self, x: Any, training: bool | None = None) -> Any:
        return ops.concatenate([each(x, training=training) for each in self.branches], axis=-1)


@register
class AttentionBlock(Block):
    """The block of a vision transformer."""

    def __init__(self, filters: int, heads: int = 4, **options: Any) -> None:
        super().__init__(filters, **options)
        self.heads = heads
        self.first, self.second = layers.LayerNormalization(), layers.LayerNormalization()
        self.qkv, self.project = layers.Dense(3 * filters), layers.Dense(filters)
        self.expand, self.reduce = layers.Dense(4 * filters), layers.Dense(filters)
        self.dropout = layers.Dropout(0.1)

    def attention(self, x: Any) -> Any:
        batch, length, width = ops.shape(x)[0], x.shape[1], self.filters // self.heads
        qkv = ops.reshape(self.qkv(x), (batch, length, 3, self.heads, width))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)))
        weights = ops.softmax(q @ ops.transpose(k, (0, 1, 3, 2)) * width**-0.5)
        mixed = ops.transpose(weights @ v, (0, 2, 1, 3))
        return self.project(ops.reshape(mixed, (batch, length, self.filters)))

    def call(self, x: Any) -> Any:
        x += self.dropout(self.attention(self.first(x)))
        return x + self.dropout(self.reduce(ops.gelu(self.expand(self.second(x)))))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads}


def _of(size: int | None, blocks: list[Callable[[Any], Any]]) -> keras.Model:
    """A classifier with these blocks behind one convolution."""
    x = inputs = keras.Input((size, size, 3))
    x = ConvUnit(32, 7, 2)(x)
    for block in blocks:
        x = block(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _stages(depth: int) -> list[Callable[[Any], Any]]:
    filters = (32, 64, 128, 256)
    return [
        Residual(width, strides=2 if not number and width > filters[0] else 1)
        for width in filters
        for number in range(depth)
    ]


def residual(size: int | None = 64, depth: int = 4) -> keras.Model:
    """Four stages of residual blocks, (None, size, size, 3) -> (None, 10)."""
    return _of(size, _stages(depth))


def of_one_kind(kind: str, count: int = 12) -> keras.Model:
    """Blocks of one class, one behind the other, (None, 64, 64, 3) -> (None, 10)."""
    return _of(64, [globals()[kind](32) for _ in range(count)])


def vision_transformer(count: int = 12) -> keras.Model:
    """Blocks of attention over patches, (None, 32, 32, 3) -> (None, 10)."""
    x = inputs = keras.Input((32, 32, 3))
    x = layers.Reshape((64, 64))(layers.Conv2D(64, 4, 4)(x))
    for _ in range(count):
        x = AttentionBlock(64)(x)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


@register
class ResNet(keras.Model):
    """Residual blocks again, in a model that is a class."""

    def __init__(self, depth: int = 4, **options: Any) -> None:
        super().__init__(**options)
        self.depth, self.stem, self.blocks = depth, ConvUnit(32, 7, 2), _stages(depth)
        self.pooling, self.head = layers.GlobalAveragePooling2D(), layers.Dense(10)

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.stem(x, training=training)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.pooling(x))

    def get_config(self) -> dict[str, Any]:
        return {"depth": self.depth, "name": self.name}


def subclassed(size: int = 64) -> keras.Model:
    """A `ResNet` that has run, (None, size, size, 3) -> (None, 10)."""
    model = ResNet()
    model(keras.KerasTensor((None, size, size, 3)))
    return model
