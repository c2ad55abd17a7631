"""A layer that keeps what its calls compute changes with each, and may still compute the same."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Dense

import kito
from kito.testing import check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS


class Keeping(layers.Layer):
    """It keeps what it computes, for whoever wants to see that."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.bn = Dense(3), BatchNormalization()
        self.seen = []

    def build(self, shape):
        self.dense.build(shape)
        self.bn.build((*shape[:-1], 3))

    def call(self, x):
        self.seen = [x]
        y = self.bn(self.dense(x))
        self.seen.append(layers.add([y, y]))
        return self.seen[-1] * 2.0

    def compute_output_shape(self, shape):
        return (*shape[:-1], 3)


class KeepingModel(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner = Keeping(name="inner")
        self.last = None

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        self.last = self.inner(x)
        return self.last + 1.0


class First(Keeping):
    """It does otherwise in its first call."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = None

    def call(self, x):
        y = self.bn(self.dense(x))
        first, self.seen = self.seen is None, y
        return y if first else y * 3.0


class OfAKind(First):
    def call(self, x):
        y = self.bn(self.dense(x))
        first, self.seen = type(self.seen) is not type(y), y
        return y if first else y * 3.0


class Counting(First):
    def call(self, x):
        self.seen = (self.seen or 0) + 1
        return self.bn(self.dense(x)) * self.seen


class Late(First):
    """It does otherwise in its tenth call."""

    def call(self, x):
        self.seen = (self.seen or 0) + 1
        y = self.bn(self.dense(x))
        return y if self.seen < 10 else y * 3.0


class Averaging(First):
    def call(self, x):
        y = self.bn(self.dense(x))
        before, self.seen = self.seen, y
        return y if before is None else y + ops.mean(before)


class Appending(Keeping):
    """It has one list all the time, and reads how long that is."""

    def call(self, x):
        self.seen.append(x)
        return self.bn(self.dense(x)) * float(len(self.seen))


class Making(Keeping):
    """It makes a layer with other weights in each call."""

    def call(self, x):
        self.seen = Dense(3)
        return self.seen(self.bn(self.dense(x)))


def model_of(layer):
    inputs = keras.Input((4,))
    return randomize(keras.Model(inputs, layer(inputs)))


def test_what_a_call_sets_before_it_reads_it_is_no_state():
    model = model_of(Keeping(name="inner"))
    seen = model.get_layer("inner").seen
    kept = list(seen)
    fast = kito.optimize(model, FOLDS)
    assert model.get_layer("inner").seen is seen
    assert list(map(id, seen)) == list(map(id, kept))
    assert isinstance(fast.get_layer("inner"), keras.Model)
    check_rewrites(model, FOLDS, times=1)


def test_a_subclassed_model_may_keep_what_it_computes():
    model = KeepingModel()
    model(np.ones((2, 4)))
    fast = kito.optimize(randomize(model), FOLDS)
    assert kito.compare(model, fast).relative < 1e-6
    assert not any(isinstance(layer, BatchNormalization) for layer in fast._flatten_layers())


@pytest.mark.filterwarnings("ignore:.*unbuilt state")
@pytest.mark.parametrize("kind", [First, OfAKind, Counting, Late, Averaging, Appending, Making])
def test_what_depends_on_the_last_call_is_kept(kind):
    inner = kind(name="inner")
    model = model_of(inner)
    inner.seen = [] if kind in (Appending, Making) else None  # as before its first call
    report = kito.Report()
    kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert any(note.startswith("inner") and "kept whole" in note for note in report.notes)


def test_a_layer_that_keeps_is_kept_where_nothing_applies():
    model = model_of(Keeping(name="inner"))
    report = kito.Report()
    fast = kito.optimize(model, ["padding_conv"], report=report)
    check_equivalent(model, fast)
    assert isinstance(fast.get_layer("inner"), Keeping)
