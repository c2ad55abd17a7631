"""Composite layers in a TimeDistributed: optimized inside, as if they were called directly."""

import keras
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D, TimeDistributed

import kito
from kito.graph.keras_internals import sublayers
from kito.testing import check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

STEPS = (3, 6, 6, 2)


@keras.saving.register_keras_serializable("test_wrapped_composites")
class Block(layers.Layer):
    def __init__(self, filters=4, **options):
        super().__init__(**options)
        self.filters = filters
        self.conv = Conv2D(filters, 3, padding="same", name="conv")
        self.bn = BatchNormalization(name="bn")
        self.dropout = layers.Dropout(0.5)

    def build(self, shape):
        self.conv.build(shape)
        self.bn.build((*shape[:-1], self.filters))

    def call(self, x, training=None):
        x = self.bn(self.conv(x), training=training)
        return ops.relu(self.dropout(x, training=training))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable("test_wrapped_composites")
class Noise(Block):
    def call(self, x, training=None):
        return super().call(x, training=training) + keras.random.normal((*ops.shape(x)[:-1], 1))


@keras.saving.register_keras_serializable("test_wrapped_composites")
class Scaled(Block):
    """It computes something else of what was cast before."""

    def call(self, x, training=None):
        return ops.sin(super().call(x * 100.3, training=training))


@keras.saving.register_keras_serializable("test_wrapped_composites")
class Units(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.bn = layers.Dense(4), BatchNormalization()

    def build(self, shape):
        self.dense.build(shape)
        self.bn.build((*shape[:-1], 4))

    def call(self, x):
        return self.bn(self.dense(x))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


class Written(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.block = Block(name="block")

    def build(self, shape):
        self.block.build(shape)

    def call(self, x):
        return self.block(x) * 2.0

    def compute_output_shape(self, shape):
        return self.block.compute_output_shape(shape)


def model_of(layer, shape=STEPS, dtype=None):
    inputs = keras.Input(shape)
    outputs = TimeDistributed(layer, name="steps", dtype=dtype)(inputs)
    return randomize(keras.Model(inputs, outputs))


def count(model, cls):
    return sum(type(layer) is cls for layer in sublayers(model))


@pytest.mark.parametrize("layer", [Block, Written])
def test_a_composite_is_optimized_inside(layer):
    model = model_of(layer(name="inner"))
    fast = check_rewrites(model, FOLDS, times=1)
    assert not count(fast, BatchNormalization)
    steps = fast.get_layer("steps")
    assert type(steps) is TimeDistributed
    assert type(steps.layer) is not layer
    assert isinstance(model.get_layer("steps").layer, layer)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="it has no sizes that are not known")
def test_for_any_number_of_steps():
    fast = check_rewrites(model_of(Block(name="inner"), (None, *STEPS[1:])), FOLDS, times=1)
    assert fast.output_shape == (None, None, 6, 6, 4)


def test_calls_of_several_sizes():
    steps = TimeDistributed(Block(name="inner"), name="steps")
    inputs = [keras.Input(STEPS), keras.Input((5, 8, 8, 2))]
    model = randomize(keras.Model(inputs, [steps(each) for each in inputs]))
    check_rewrites(model, FOLDS, times=1)


def test_a_composite_that_is_called_elsewhere_too():
    block = Block(name="inner")
    inputs = [keras.Input(STEPS), keras.Input(STEPS[1:])]
    outputs = [TimeDistributed(block, name="steps")(inputs[0]), block(inputs[1])]
    model = randomize(keras.Model(inputs, outputs))
    fast = check_rewrites(model, FOLDS, times=1)
    assert fast.count_params() == model.count_params() - 16  # four filters, four vectors


def test_its_flag_trainable_is_kept():
    block = Block(name="inner")
    block.trainable = False
    fast = kito.optimize(model_of(block), FOLDS)
    assert not fast.trainable_weights


def test_a_composite_that_draws_is_kept():
    model = model_of(Noise(name="inner"))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert any(note.startswith("inner (Noise) is kept whole") for note in report.notes)
    assert type(fast.get_layer("steps").layer) is Noise


def test_what_computes_in_another_dtype_is_kept():
    """The wrapper casts to its own dtype, and runs the `call` of what it holds, without a cast."""
    model = model_of(Scaled(name="inner"), dtype="bfloat16")
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    check_equivalent(model, fast)
    assert not report.applied
    (note,) = report.notes
    assert note.startswith("steps (TimeDistributed) is kept whole: inner in it computes in another")


def test_a_composite_that_gets_a_mask_is_kept():
    inputs = keras.Input((3, 2))
    outputs = TimeDistributed(Units(name="inner"), name="steps")(layers.Masking()(inputs))
    model = randomize(keras.Model(inputs, outputs))
    report = kito.Report()
    check_equivalent(model, kito.optimize(model, FOLDS, report=report))
    assert not report.applied
    (note,) = report.notes
    assert note == "inner (Units) is kept whole: a mask runs through it"


class Unsaid(layers.Layer):
    """Nobody can copy it."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * 2.0


def test_a_model_in_a_time_distributed_that_holds_what_nobody_can_copy():
    step = keras.Input((4,))
    x = BatchNormalization()(layers.Dense(4)(step))
    held = keras.Model(step, Unsaid(object())(x))
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, TimeDistributed(held, name="steps")(inputs))
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, strict=True, report=report)
    assert report.folded == {"dense_batchnorm": 1}
    assert fast.get_layer("steps").layer is not held
    check_equivalent(model, fast)
