"""Sequential models that are called on other sizes than those they were built for."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D

import kito
from kito.graph.keras_internals import sublayers
from kito.graph.layer import to_numpy
from kito.testing import randomize
from tests.folds import FOLDS


class ConvBN(layers.Layer):
    def __init__(self, filters, **options):
        super().__init__(**options)
        self.conv, self.bn = Conv2D(filters, 3, padding="same"), BatchNormalization()

    def call(self, x):
        return ops.relu(self.bn(self.conv(x)))


class Stage(layers.Layer):
    """Blocks in a Sequential that has no Input, as ports of torchvision have them."""

    def __init__(self, **options):
        super().__init__(**options)
        self.blocks = keras.Sequential([ConvBN(8), ConvBN(8)])

    def call(self, x):
        return self.blocks(x)


class Network(keras.Model):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def call(self, x):
        return self.part(x)


def pictures(size, channels=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, size, size, channels)).astype("float32")


def check(model, *sizes, folds=2):
    """Every normalization is folded, and the answers are the same, for pictures of these sizes."""
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert sum(report.folded.values()) == folds
    assert not any(isinstance(part, BatchNormalization) for part in sublayers(fast))
    for size in sizes:
        pairs = [map(to_numpy, keras.tree.flatten(each(pictures(size)))) for each in (model, fast)]
        for one, other in zip(*pairs, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())
    return fast


@pytest.mark.parametrize("part", [Stage, lambda: Stage().blocks])
def test_a_model_that_was_called_on_one_picture_takes_any(part):
    model = Network(part())
    model(pictures(32)[:1])
    check(model, 32, 48)


def test_a_layer_that_was_called_on_another_size_first():
    stage = Stage()
    stage(keras.Input((32, 32, 3)))
    inputs = keras.Input((None, None, 3))
    check(keras.Model(inputs, stage(inputs)), 32, 48)


class Detector(keras.Model):
    """One head for two levels, of which it gives the boxes in rows."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = ConvBN(8), layers.MaxPooling2D()
        row = [Conv2D(8, 3, padding="same"), BatchNormalization(), layers.ReLU(), Conv2D(4, 1)]
        self.head = keras.Sequential(row)

    def call(self, x):
        x, rows = self.stem(x), []
        for level in (x, self.pool(x)):
            boxes = self.head(level)
            rows.append(ops.reshape(boxes, (-1, boxes.shape[1] * boxes.shape[2], 4)))
        return ops.concatenate(rows, axis=1)


def test_a_head_over_levels():
    model = Detector()
    model(pictures(16)[:1])
    check(model, 16)


def test_a_head_in_a_layer_over_levels():
    class Heads(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.head = keras.Sequential([ConvBN(8)])

        def call(self, levels):
            return [self.head(level) for level in levels]

    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, Heads()([inputs, layers.MaxPooling2D()(inputs)]))
    check(model, 16, folds=1)


def test_a_model_that_a_composite_calls_too_on_another_size():
    """The composite is traced after those in the model."""

    class Half(layers.Layer):
        def __init__(self, blocks, **options):
            super().__init__(**options)
            self.blocks, self.conv, self.bn = blocks, Conv2D(3, 1), BatchNormalization()

        def call(self, x):
            return self.blocks(self.bn(self.conv(x))[:, ::2, ::2])

    inputs = keras.Input((16, 16, 3))
    blocks = keras.Sequential([ConvBN(8), ConvBN(8)])
    model = keras.Model(inputs, [blocks(inputs), Half(blocks)(inputs)])
    fast = check(model, 16, folds=3)
    assert fast.count_params() == model.count_params() - 2 * 4 * 8 - 4 * 3


def test_a_model_of_which_no_general_size_is_known_stays_in_its_layer():
    class Numbers(layers.Layer):
        """Says what it returns, for sizes that are numbers."""

        def call(self, x):
            return ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))

        def compute_output_shape(self, shape):
            return (shape[0], shape[1] * shape[2], shape[3])

    class Two(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            row = [Conv2D(4, 3), BatchNormalization(), Numbers()]
            self.part, self.pool = keras.Sequential(row), layers.MaxPooling2D()

        def call(self, x):
            return ops.concatenate([self.part(x), self.part(self.pool(x))], axis=1)

    inputs = keras.Input((8, 8, 3))
    model = randomize(keras.Model(inputs, Two()(inputs)))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert "it calls a Sequential on sizes of which Keras can't infer" in report.notes[0]
    np.testing.assert_allclose(to_numpy(fast(pictures(8))), to_numpy(model(pictures(8))))
