"""Large models, a kind each: little work in each layer, so that structure is all that costs.

A size is the number of layers, except where the kind says otherwise. Keras walks up a model by
recursion, one step a layer: `room_for` lets Python go as deep.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

Tensor = keras.KerasTensor


@dataclass(frozen=True)
class Kind:
    """Models that are built alike.

    Attributes:
        build: makes the model of a size.
        sizes: those that are measured.
        unit: what a size counts.
    """

    build: Callable[[int], keras.Model]
    sizes: tuple[int, ...]
    unit: str = "layers"


def room_for(size: int) -> None:
    """Let Keras build a chain of so many layers."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 2 * size + 1_000))


def conv_bn_relu(x: Tensor, gamma: float = 1.0) -> Tensor:
    """Three layers, of which one will be left."""
    norm = layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(gamma))
    return layers.ReLU()(norm(layers.Conv2D(2, 1)(x)))


def chain(size: int) -> keras.Model:
    """Convolution, normalization, ReLU, and so on."""
    room_for(size)
    inputs = x = keras.Input((4, 4, 2))
    for _ in range(size // 3):
        x = conv_bn_relu(x)
    return keras.Model(inputs, x)


def residual(size: int) -> keras.Model:
    """Blocks of seven layers whose input is added to what they give."""
    room_for(size)
    inputs = x = keras.Input((4, 4, 2))
    for _ in range(size // 7):
        # So small that hundreds of blocks do not overflow.
        x = layers.Add()([x, conv_bn_relu(conv_bn_relu(x), gamma=0.01)])
    return keras.Model(inputs, x)


def wide(size: int) -> keras.Model:
    """Parallel branches of five layers behind one layer, which are concatenated."""
    inputs = keras.Input((4, 4, 2))
    trunk = layers.Conv2D(2, 1)(inputs)
    branches = [
        layers.Dropout(0.5)(layers.Activation("relu")(conv_bn_relu(trunk)))
        for _ in range(size // 5)
    ]
    return keras.Model(inputs, layers.Concatenate()(branches))


def outputs(size: int) -> keras.Model:
    """A trunk with an output, which is a head of three layers, behind each block."""
    room_for(5 * size)
    inputs = x = keras.Input((4, 4, 2))
    heads = []
    for _ in range(size):
        x = conv_bn_relu(x)
        heads.append(layers.BatchNormalization()(layers.Dense(2)(layers.Flatten()(x))))
    return keras.Model(inputs, heads)


def shared(size: int) -> keras.Model:
    """Calls of one convolution and one normalization, each on another tensor."""
    inputs = keras.Input((4, 4, 2))
    conv, bn = layers.Conv2D(2, 1), layers.BatchNormalization()
    return keras.Model(
        inputs, layers.Concatenate()([bn(conv(inputs * (n + 1.5))) for n in range(size)])
    )


def nested(depth: int) -> keras.Model:
    """A model in a model in a model, each with layers of its own before and behind."""
    model = None
    for level in range(depth):
        inputs = keras.Input((4, 4, 2))
        x = conv_bn_relu(inputs)
        if model is not None:
            x = model(x)
        model = keras.Model(inputs, conv_bn_relu(x), name=f"level_{level}")
    return model


@keras.saving.register_keras_serializable("scale")
class Shell(layers.Layer):
    """A layer written in Python, which calls another one inside."""

    def __init__(self, depth: int, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
        self.conv = layers.Conv2D(2, 1)
        self.bn = layers.BatchNormalization()
        self.inner = Shell(depth - 1) if depth > 1 else None

    def build(self, shape):
        """Build the layers inside, which keep the shape."""
        for each in (self.conv, self.bn, self.inner):
            if each is not None:
                each.build(shape)

    def call(self, x):
        """The layers inside, one after the other."""
        x = self.bn(self.conv(x))
        return x if self.inner is None else self.inner(x)

    def get_config(self):
        """What `from_config` needs."""
        return super().get_config() | {"depth": self.depth}


def composite(depth: int) -> keras.Model:
    """A layer written in Python that holds such a layer, and so on."""
    inputs = keras.Input((4, 4, 2))
    return keras.Model(inputs, Shell(depth)(inputs))


def heavy(megabytes: int) -> keras.Model:
    """Dense layers of 100 MB each, with normalizations and ReLU."""
    units = 5_000
    # A few random numbers, over and over: so many would take most of the time. Not a single one:
    # then all roundings of a sum go in one direction, and two orders of addition lie far apart.
    numbers = np.random.default_rng(0).standard_normal(10_007).astype("float32")
    kernel = np.resize(numbers / np.sqrt(units), (units, units))
    inputs = x = keras.Input((units,))
    for _ in range(megabytes // 100):
        dense = layers.Dense(units, kernel_initializer="zeros")
        x = dense(x)
        dense.kernel.assign(kernel)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, x)


THOUSANDS = (1_250, 2_500, 5_000)
KINDS = {
    "chain": Kind(chain, THOUSANDS),
    "residual": Kind(residual, THOUSANDS),
    "wide": Kind(wide, THOUSANDS),
    # Each call is three operations: more of them take TensorFlow many minutes to compile.
    "shared": Kind(shared, (300, 600, 1_250), "calls"),
    "outputs": Kind(outputs, (50, 100, 200), "outputs"),
    "nested": Kind(nested, (12, 25, 50), "models"),
    "composite": Kind(composite, (12, 25, 50), "depth"),
    "heavy": Kind(heavy, (500, 1_000, 2_000), "MB"),
}
