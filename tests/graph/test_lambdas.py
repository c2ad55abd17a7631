"""Lambda layers inside composites."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kito
from kito.graph.layer import to_numpy
from kito.testing import check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

register = keras.saving.register_keras_serializable("test_lambdas")


@register
class Block(layers.Layer):
    """As a ResidualBlock of keras-tcn, where nothing has to be matched."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv = layers.Conv1D(3, 3, padding="causal")
        self.bn = layers.BatchNormalization()
        self.function = self.made()

    def made(self):
        return layers.Lambda(lambda x: x)

    def call(self, x):
        return ops.relu(self.bn(self.conv(x))) + self.function(x)


@register
class Last(Block):
    def made(self):
        self.place = -1
        return layers.Lambda(
            lambda x: x[:, self.place :], output_shape=lambda shape: (shape[0], 1, 3)
        )


@register
class Scaled(Block):
    def made(self):
        return layers.Lambda(lambda x, by: x * by, arguments={"by": 2.0})


@register
class Several(Block):
    def made(self):
        return layers.Lambda(lambda pair: pair[0] + pair[1])

    def call(self, x):
        return ops.relu(self.function([self.bn(self.conv(x)), x]))


@register
class InTraining(Block):
    def made(self):
        return layers.Lambda(lambda x, training: x * 100.0 if training else x)


def of_tensors(x):
    if isinstance(x, keras.KerasTensor):
        raise TypeError(x)
    return x * 2.0


@register
class OfTensors(Block):
    def made(self):
        return layers.Lambda(lambda x: of_tensors(x))


@register
class Random(Block):
    def made(self):
        self.seed = keras.random.SeedGenerator(0)
        return layers.Lambda(lambda x: x + keras.random.normal((1, 1, 3), seed=self.seed))


@register
class Cast(Block):
    def made(self):
        return layers.Lambda(lambda x: x * 1.001, dtype="float16")

    def call(self, x):
        return ops.relu(self.bn(self.conv(x))) + ops.cast(self.function(x), "float32")


@register
class Closed(Block):
    """Its function calls a layer that stands nowhere else."""

    def made(self):
        dense = layers.Dense(3)
        dense.build((None, 8, 3))
        self.nodes = dense._inbound_nodes
        return layers.Lambda(lambda x: dense(x))


@register
class Counting(Block):
    def made(self):
        calls = []
        return layers.Lambda(lambda x: calls.append(1) or x)


def around(block):
    inputs = keras.Input((8, 3))
    return keras.Model(inputs, layers.Dense(2)(block(inputs)))


@pytest.mark.parametrize("kind", [Block, Last, Scaled, Several, InTraining])
def test_a_block_with_a_lambda_is_taken_apart(kind, tmp_path):
    model = around(kind())
    fast = check_rewrites(model, FOLDS, times=1)
    assert not any(type(each) is layers.Lambda for each in fast._flatten_layers())
    fast.save(tmp_path / "fast.keras")
    check_equivalent(model, keras.models.load_model(tmp_path / "fast.keras"))


def test_one_that_takes_no_symbolic_tensors_is_a_layer():
    model = randomize(around(OfTensors()))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert any("but not the Lambda inside" in note for note in report.notes)
    check_equivalent(model, fast)


@pytest.mark.parametrize("kind", [Closed, Counting])
def test_one_whose_function_took_something_along_is_a_layer(kind):
    block = kind()
    model = randomize(around(block))
    nodes = len(getattr(block, "nodes", ()))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, savable=False, report=report)
    assert any(type(each) is layers.Lambda for each in fast._flatten_layers())
    assert len(getattr(block, "nodes", ())) == nodes
    check_equivalent(model, fast)


def test_a_call_that_someone_gave_all_lambdas_is_put_back(monkeypatch):
    def call(layer, *args, **kwargs):
        return layers.Layer.__call__(layer, *args, **kwargs)

    monkeypatch.setattr(layers.Lambda, "__call__", call, raising=False)
    kito.optimize(randomize(around(Block())))
    assert vars(layers.Lambda)["__call__"] is call


def test_one_that_draws_numbers_is_kept_whole():
    report = kito.Report()
    kito.optimize(randomize(around(Random())), FOLDS, report=report)
    assert not report.applied


def test_one_that_casts_is_a_layer():
    model = randomize(around(Cast()))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, savable=False, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    assert any(type(each) is layers.Lambda for each in fast._flatten_layers())
    check_equivalent(model, fast, tolerance=1e-6)


def test_one_in_the_model_itself_stays():
    inputs = keras.Input((8, 3))
    model = keras.Model(inputs, layers.Lambda(lambda x: x + 1.0)(Block()(inputs)))
    fast = check_rewrites(model, FOLDS, times=1)
    assert sum(type(each) is layers.Lambda for each in fast._flatten_layers()) == 1
    assert "__call__" not in vars(layers.Lambda)


@register
class Masked(Block):
    """Its Lambda makes a mask, which the pooling behind it reads: nothing of random data is."""

    def __init__(self, **options):
        super().__init__(**options)
        self.pool = layers.GlobalAveragePooling1D()

    def made(self):
        return layers.Lambda(lambda x: x * 2, mask=lambda x, mask=None: ops.any(x != 0, axis=-1))

    def call(self, x):
        return ops.relu(self.bn(self.conv(x))) + self.pool(self.function(x))[:, None]


def test_one_that_makes_a_mask_is_a_layer():
    model = randomize(around(Masked()))
    data = np.random.default_rng(0).normal(size=(2, 8, 3)).astype("float32")
    data[:, 5:] = 0
    answers = [to_numpy(each(data)) for each in (model, kito.optimize(model, FOLDS))]
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-5)
