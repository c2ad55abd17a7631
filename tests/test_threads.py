"""The source as others see it: threads that use it meanwhile, and what its last call left."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D

import kito
from kito.graph.layer import to_numpy
from kito.graph.untouched import untouched
from kito.testing import check_equivalent, randomize
from tests.folds import FOLDS

SHAPE = (8, 8, 3)


class Block(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.bn = Conv2D(3, 3, padding="same"), BatchNormalization()

    def build(self, shape):
        self.conv.build(shape)
        self.bn.build(shape)

    def call(self, x):
        return ops.relu(self.bn(self.conv(x)))


def network():
    inputs = x = keras.Input(SHAPE)
    for _ in range(4):
        x = Block()(x)
    return randomize(keras.Model(inputs, x))


def optimized(model):
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report, strict=True)
    assert report.folded == {"conv_batchnorm": 4}
    return fast


@pytest.mark.parametrize("several", [False, True])
def test_threads_optimize_at_the_same_time(several):
    models = [network() for _ in range(4)] if several else [network()] * 4
    states = [dict(vars(part)) for part in models[0]._flatten_layers()]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(optimized, models))
    assert [dict(vars(part)) for part in models[0]._flatten_layers()] == states
    for model, fast in zip(models, results, strict=True):
        check_equivalent(model, fast)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it is a state of TensorFlow")
def test_functions_are_compiled_afterwards():
    import tensorflow as tf

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(optimized, [network() for _ in range(4)]))
    assert not tf.config.functions_run_eagerly()


def test_another_thread_may_train_what_is_read():
    model = network()
    kernel = model.layers[1].conv.kernel
    changed = np.asarray(ops.convert_to_numpy(kernel)) + 1
    with untouched(model), ThreadPoolExecutor(1) as thread:
        thread.submit(kernel.assign, changed).result()
    np.testing.assert_array_equal(ops.convert_to_numpy(kernel), changed)


def test_losses_of_the_last_call_stay():
    class Regularized(Block):
        def __init__(self, **options):
            super().__init__(**options)
            self.conv = Conv2D(3, 3, padding="same", activity_regularizer="l2")

    inputs = keras.Input(SHAPE)
    model = randomize(keras.Model(inputs, Regularized()(inputs)))
    model(np.ones((2, *SHAPE), "float32"))
    before = [float(to_numpy(each)) for each in model.losses]
    kito.optimize(model, FOLDS)
    assert before
    assert [float(to_numpy(each)) for each in model.losses] == before
