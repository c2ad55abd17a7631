"""Subclassed models of which Keras has not kept what dtype their inputs have."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Dense, Embedding

import kito
from kito.graph.layer import to_numpy
from kito.testing import randomize

WORDS = 30_000


class Reader(keras.Model):
    def __init__(self, embedding=None):
        super().__init__()
        self.embedding, self.dense = embedding or Embedding(WORDS, 4), Dense(3)
        self.normalization = BatchNormalization()

    def head(self, x):
        return self.normalization(self.dense(x))

    def call(self, ids):
        return self.head(self.embedding(ids))


class Positions(layers.Layer):
    """Reads words, and something else that it makes of them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.place = Embedding(WORDS, 4), Embedding(8, 4)

    def call(self, x):
        return self.embedding(x) + self.place(ops.zeros_like(x))


class ReaderOfPositions(Reader):
    def __init__(self):
        super().__init__(Positions())


class Places(layers.Layer):
    """Words and their places, which it makes of its own weights: that can't be recorded."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.place = Embedding(WORDS, 4), Embedding(8, 4)

    def call(self, x):
        return self.embedding(x) + self.place(ops.arange(3))


class ReaderOfPlaces(Reader):
    def __init__(self):
        super().__init__(Places())


class ReaderOfClasses(Reader):
    """Reads a float, though three of its fractions may make no difference."""

    def __init__(self):
        super().__init__()
        self.feature = Dense(3)

    def call(self, inputs):
        scores = self.head(self.embedding(inputs["ids"])[:, 0] + 0.0)
        return ops.argmax(scores + self.feature(inputs["feature"]), -1)


class ReaderOfTable(keras.Model):
    """`take` needs integers, and the other input is a float."""

    def __init__(self):
        super().__init__()
        self.head = BatchNormalization()

    def call(self, inputs):
        table = ops.reshape(ops.arange(12, dtype="float32"), (4, 3))
        taken = ops.take(table, inputs["ids"], axis=0)[:, 0]
        return self.head(taken + inputs["feature"])


class Threshold(Reader):
    """Works on floats, and not on integers."""

    def call(self, x):
        return self.head(self.embedding(ops.where(x >= 0.95, 1.0, 0.0)))


class ReaderOfBoth(Reader):
    def call(self, inputs):
        read = self.embedding(inputs["ids"])
        return self.head(read * ops.expand_dims(inputs["weight"], -1))


class Patches(Reader):
    """Reads floats, though it holds an Embedding."""

    def __init__(self):
        super().__init__()
        self.project = Dense(4)

    def call(self, x):
        return self.head(self.project(x) + self.embedding(ops.zeros_like(x[..., 0])))


class Ranges(Reader):
    """Tells 1.5 from 1 by the range in which it lies, and not from 1.4."""

    def __init__(self):
        super().__init__()
        self.ranges = layers.Discretization(bin_boundaries=[0.0, 1.0, 2.0])

    def call(self, x):
        return self.head(self.embedding(self.ranges(x)))


class Next(Reader):
    def call(self, x):
        return self.head(self.embedding(x)), x + 1


def built(model, data):
    model(data)
    randomize(model)
    for layer in model._flatten_layers():
        if isinstance(layer, Embedding):
            layer.embeddings.assign(np.random.default_rng(1).normal(size=layer.embeddings.shape))
    return model


IDS = np.array([[29_999, 20_001, 3], [257, 1_001, 20_003]], "int32")


def same_answers(model, data, tolerance):
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    assert report.folded["dense_batchnorm"] == 1
    expected, found = (to_numpy(each(data)).astype("float64") for each in (model, fast))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    return fast, report


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("cls", [Reader, ReaderOfPositions, ReaderOfPlaces])
def test_words_are_not_rounded(cls, policy):
    keras.config.set_dtype_policy(policy)
    model = built(cls(), IDS)
    tolerance = {"float32": 1e-5, "mixed_float16": 2e-2, "mixed_bfloat16": 1e-1}[policy]
    fast, report = same_answers(model, IDS, tolerance)
    assert fast.inputs[0].dtype == "int64"
    assert not report.notes


def test_each_input_has_its_own():
    data = {"ids": IDS, "weight": np.array([[0.5, 1.5, 2.25], [1, 2, 3]], "float32")}
    fast, _ = same_answers(built(ReaderOfBoth(), data), data, 1e-5)
    assert {each.name: each.dtype for each in fast.inputs} == {"ids": "int64", "weight": "float32"}


@pytest.mark.parametrize(
    ("cls", "data"),
    [
        (Patches, np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")),
        (Ranges, np.array([[-0.5, 0.5, 1.5]], "float32")),
        (Threshold, np.array([[0.94, 0.96, 1.5]], "float32")),
    ],
)
def test_floats_stay_floats(cls, data):
    fast, report = same_answers(built(cls(), data), data, 1e-5)
    assert fast.inputs[0].dtype == "float32"
    assert not report.notes


def test_a_feature_stays_a_float_where_classes_are_told():
    data = {"ids": IDS, "feature": np.array([[0.5, 1.5, 2.25], [1, 2, 3]], "float32")}
    fast = kito.optimize(built(ReaderOfClasses(), data))
    assert {each.name: each.dtype for each in fast.inputs} == {
        "ids": "int64",
        "feature": "float32",
    }


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="there `take` takes floats")
def test_which_of_several_inputs_are_integers_is_not_guessed():
    data = {"ids": IDS % 4, "feature": np.array([[0.5, 1.5, 2.25], [1, 2, 3]], "float32")}
    report, model = kito.Report(), built(ReaderOfTable(), data)
    fast = kito.optimize(model, report=report)
    assert type(fast) is ReaderOfTable
    assert any("can't be traced" in note for note in report.notes)
    np.testing.assert_array_equal(*(each.predict(data, verbose=0) for each in (model, fast)))


def test_a_sequence_of_words_may_have_any_length():
    fast = kito.optimize(built(Reader(), IDS))
    assert fast.inputs[0].shape == (None, None)


def test_what_answers_integers_otherwise_is_noted():
    report = kito.Report()
    kito.optimize(built(Next(), IDS), report=report)
    assert any("to integers the model answers otherwise" in note for note in report.notes)


def test_words_are_drawn_where_words_are_read():
    report = kito.Report()
    kito.optimize(built(Reader(), IDS), verify=True, report=report)
    assert report.verification.passed
    assert not report.verification.unfit
