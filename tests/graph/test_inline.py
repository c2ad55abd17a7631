"""Models inside composite layers are laid open with them."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import BatchNormalization, Conv2D

import kito
from kito.graph.keras_internals import sublayers
from kito.graph.layer import to_numpy
from kito.testing import check_equivalent, check_rewrites, randomize

SHAPE = (8, 8, 4)
RULES = ["conv_batchnorm", "parallel_branches", "padding_conv", "identities"]


def branch(window, **options):
    """A convolution with its normalization, as models for PyTorch have them."""
    row = [
        layers.ZeroPadding2D(window // 2),
        Conv2D(4, window, use_bias=False, name="conv"),
        BatchNormalization(name="bn"),
    ]
    return keras.Sequential(row, **options)


class RepVGGBlock(layers.Layer):
    """Two branches, each a model, and a normalization."""

    def __init__(self, dense=None, one=None, **options):
        super().__init__(**options)
        self.dense, self.one = dense or branch(3), one or branch(1)
        self.bn = BatchNormalization(name="bn")

    def build(self, shape):
        for part in (self.dense, self.one, self.bn):
            if not part.built:
                part.build(shape)

    def call(self, x):
        return self.dense(x) + self.one(x) + self.bn(x)

    def compute_output_shape(self, shape):
        return shape


def around(block, **inputs):
    x = keras.Input(**{"shape": SHAPE, **inputs})
    return keras.Model(x, layers.ReLU()(block(x)))


def kinds(model):
    return [type(layer) for layer in sublayers(model) if type(layer) is not layers.InputLayer]


def count(model, cls):
    return kinds(model).count(cls)


@pytest.mark.parametrize("shape", [SHAPE, (None, None, 4)])
def test_branches_in_models_become_one_convolution(shape):
    fast = check_rewrites(around(RepVGGBlock(), shape=shape), RULES)
    assert count(fast, BatchNormalization) == 0
    if None not in shape:  # of other sizes it is not known what "same" would pad
        assert count(fast, Conv2D) == 1
        assert count(fast, keras.Sequential) == 0


def test_a_model_in_a_model():
    dense = keras.Sequential([keras.Sequential([branch(3)]), layers.Dropout(0.5)])
    fast = check_rewrites(around(RepVGGBlock(dense)), RULES)
    assert count(fast, Conv2D) == 1


def test_models_that_are_called_one_after_the_other():
    class Row(RepVGGBlock):
        def call(self, x):
            return self.one(self.dense(x))

    fast = check_rewrites(around(Row()), RULES)
    assert count(fast, keras.Sequential) == 0
    assert count(fast, Conv2D) == 2
    assert count(fast, BatchNormalization) == 0


def test_a_model_of_several_outputs():
    class Split(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            x = keras.Input(SHAPE)
            y = BatchNormalization()(Conv2D(4, 3, padding="same")(x))
            self.model = keras.Model(x, {"one": y, "two": layers.ReLU()(y), "given": x})

        def call(self, x):
            parts = self.model(x)
            return [parts["two"], parts["one"] * 2.0, parts["given"]]

    x = keras.Input(SHAPE)
    model = keras.Model(x, Split()(x))
    fast = check_rewrites(model, RULES, times=1)
    assert fast.output_shape == model.output_shape


def test_a_model_that_is_called_twice_stays_one():
    class Twice(RepVGGBlock):
        def call(self, x):
            return self.dense(self.dense(x)) + self.one(x)

    fast = check_rewrites(around(Twice()), RULES)
    assert count(fast, keras.Sequential) == 1
    assert count(fast, Conv2D) == 2


def test_a_layer_of_the_model_that_the_block_calls_too_stays_one():
    class Both(RepVGGBlock):
        def call(self, x):
            return self.dense(x) + self.dense.layers[1](x)[:, :1, :1]

    fast = check_rewrites(around(Both()), RULES)
    assert count(fast, keras.Sequential) == 1


def test_a_model_that_somebody_calls_elsewhere_too_stays_one():
    x = keras.Input(SHAPE)
    shared = branch(3)
    model = keras.Model(x, [RepVGGBlock(shared)(x), layers.ReLU()(shared(x))])
    fast = check_rewrites(model, RULES)
    assert count(fast, keras.Sequential) == 1


class Head(layers.Layer):
    """Holds a Sequential that is built for what it is called on first."""

    def __init__(self, **options):
        super().__init__(**options)
        self.stem = keras.Sequential(
            [layers.ZeroPadding2D(1), Conv2D(4, 3), BatchNormalization(), layers.ReLU()]
        )
        self.conv, self.bn = Conv2D(2, 1), BatchNormalization()

    def call(self, x):
        return self.bn(self.conv(self.stem(x)))


class Network(keras.Model):
    def __init__(self, levels):
        super().__init__()
        self.levels, self.head, self.pool = levels, Head(), layers.MaxPooling2D()

    def call(self, x):
        found = []
        for _ in range(self.levels):
            found.append(self.head(x))
            x = self.pool(x)
        return found


@pytest.mark.parametrize("levels", [2, 3])
def test_a_model_that_was_built_for_one_size(levels):
    model = Network(levels)
    data = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype("float32")
    model(data)
    report = kito.Report()
    fast = kito.optimize(randomize(model), ["conv_batchnorm"], report=report)
    assert report.folded == {"conv_batchnorm": 2}
    data = np.concatenate([data, data + 1])
    for one, other in zip(model(data), fast(data), strict=True):
        np.testing.assert_allclose(to_numpy(other), to_numpy(one), rtol=0, atol=1e-4)


def test_a_model_that_casts_is_not_laid_open():
    inside = keras.Input(SHAPE, dtype="float16")
    y = Conv2D(4, 3, padding="same", dtype="float32")(inside)
    dense = keras.Model(inside, layers.ReLU(dtype="float32")(y))
    model = around(RepVGGBlock(dense))
    fast = check_rewrites(model, ["conv_batchnorm"])
    assert count(fast, type(dense)) == 3  # the result, the block, and this one


def test_the_models_of_a_model_keep_their_names():
    x = keras.Input(SHAPE)
    model = keras.Model(x, branch(3, name="stem")(x))
    fast = check_rewrites(model, RULES)
    assert type(fast.get_layer("stem")) is keras.Sequential


def test_a_block_in_which_nothing_is_rewritten_is_copied_as_it_is():
    model = randomize(around(RepVGGBlock(name="block")))
    fast = kito.optimize(model, ["dense_batchnorm"])
    assert type(fast.get_layer("block")) is RepVGGBlock
    check_equivalent(model, fast)
