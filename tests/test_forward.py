"""Models whose class computes something else in `predict` than in a call."""

import keras
import numpy as np
import pytest
from keras.layers import BatchNormalization, Conv2D, GlobalAveragePooling2D, Input

import kito
from kito.bench import measure
from kito.forward import as_called
from kito.graph.layer import to_numpy
from kito.testing import randomize


class Labels:
    """`predict` would say which class it is, and may not be asked here."""

    def predict_step(self, *args):
        raise AssertionError("only a call gives scores")


class Classifier(Labels, keras.Model):
    pass


class Written(Labels, keras.Model):
    """The same as a subclassed model."""

    def __init__(self):
        super().__init__()
        self.convolution, self.normalization = Conv2D(4, 3), BatchNormalization()
        self.pooling = GlobalAveragePooling2D()

    def call(self, inputs):
        return self.pooling(self.normalization(self.convolution(inputs)))


def functional():
    inputs = x = Input((8, 8, 3))
    for layer in (Conv2D(4, 3), BatchNormalization(), GlobalAveragePooling2D(name="scores")):
        x = layer(x)
    return randomize(Classifier(inputs, x))


def subclassed():
    model = Written()
    model(np.zeros((1, 8, 8, 3), "float32"))
    return randomize(model)


@pytest.fixture
def inputs():
    return np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype("float32")


@pytest.fixture(params=[functional, subclassed])
def model(request):
    return request.param()


def test_a_rewrite_is_compared_with_what_a_call_gives(model, inputs):
    report = kito.Report()
    fast = kito.optimize(model, verify=True, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    assert report.verification.passed
    assert kito.compare(model, fast, inputs, repeats=1).relative < 1e-5
    assert kito.compare_two_models_results(model, fast, 4) < 1e-5
    np.testing.assert_allclose(
        fast.predict(inputs, verbose=0), to_numpy(model(inputs)), rtol=1e-4, atol=1e-5
    )


def test_the_report_names_what_the_result_lacks(model):
    report = kito.Report()
    kito.optimize(model, report=report)
    [note] = report.notes
    assert "without the predict_step of" in note


class Trained(keras.Model):
    def train_step(self, *args):
        return {"loss": 0.0 * keras.ops.sum(args[-1])}


def test_a_note_says_that_the_result_is_trained_otherwise():
    inputs = Input((8, 8, 3))
    model = Trained(inputs, BatchNormalization()(Conv2D(4, 3)(inputs)))
    report = kito.Report()
    kito.optimize(model, report=report)
    [note] = report.notes
    assert "without the train_step of Trained: to train on" in note


def test_a_model_of_its_class_keeps_its_steps():
    inputs = Input((8, 8, 3))
    model = Classifier(inputs, Conv2D(4, 3)(inputs))
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    assert type(fast) is Classifier
    assert not report.notes


def test_a_predictor_gives_what_a_call_gives(model, inputs):
    predictor = kito.predictor(model, "keras")
    np.testing.assert_allclose(predictor(inputs), to_numpy(model(inputs)), rtol=1e-4, atol=1e-5)


def test_a_model_without_such_steps_is_used_as_it_is():
    model = keras.Sequential([Input((8, 8, 3)), Conv2D(4, 3)])
    assert as_called(model) is model


def test_steps_put_on_an_object_are_seen():
    model = keras.Sequential([Input((8, 8, 3)), Conv2D(4, 3)])
    model.predict_step = lambda *args: None
    assert as_called(model) is not model


def test_the_source_keeps_no_trace_of_it(model):
    number = len(model._inbound_nodes)
    kito.verify(model, model)
    assert len(model._inbound_nodes) == number


def test_the_bench_times_calls():
    timings = measure(functional(), (1,), seconds=0.01).timings
    assert any(each.way == "keras" and each.median for each in timings)


class Optional(keras.Model):
    """It takes more than its inputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = Conv2D(3, 3), BatchNormalization()

    def call(self, x, scale=None, *others, flip=False, training=None, **more):
        y = self.bn(self.conv(x), training=training)
        y = y[:, :, ::-1] if flip else y
        return y if scale is None else y * scale


def test_a_note_says_which_arguments_the_result_does_not_take():
    model = Optional()
    model(np.ones((2, 8, 8, 3), "float32"))
    report = kito.Report()
    kito.optimize(randomize(model), report=report)
    assert report.notes == [
        "the result takes no scale, *others, flip, **more, as the call of Optional does, and "
        "computes what that does with the defaults"
    ]
