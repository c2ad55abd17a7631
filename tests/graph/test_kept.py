"""What stays without a word of a rule, and what stands around it; what a model costs."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import BatchNormalization, Conv2D, Dense

import kito
from kito import Report, explain, optimize
from kito.graph.keras_internals import sublayers
from kito.graph.layer import to_numpy
from kito.testing import check_equivalent, randomize
from tests.folds import FOLDS

IMAGE = (8, 8, 4)


def added(*names):
    inputs = keras.Input(IMAGE, name="image")
    x = layers.Add(name="add")([inputs, Conv2D(4, 3, padding="same", name="conv")(inputs)])
    x = BatchNormalization(name="bn")(x)
    return keras.Model(inputs, layers.ReLU(name="relu")(x), name="net")


def test_a_normalization_behind_an_addition():
    [kept] = explain(added(), FOLDS).unmatched
    assert kept.rule == "conv_batchnorm"
    assert kept.layers == ("bn",)
    assert kept.reason == "bn follows add (Add) and feeds relu (ReLU): no rule matches there"
    assert "no rule matches there" in str(explain(added(), FOLDS))


@keras.saving.register_keras_serializable("test_kept")
class NormalizedCell(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.state_size = 4
        self.dense, self.bn = Dense(4, name="dense"), BatchNormalization(name="bn")

    def build(self, shape):
        self.dense.build(shape)
        self.bn.build((None, 4))

    def call(self, x, states):
        y = self.bn(self.dense(x)) + states[0]
        return y, [y]


@pytest.mark.parametrize("around", [lambda rnn: rnn, layers.Bidirectional])
def test_a_normalization_in_the_cell_of_an_rnn(around):
    rnn = around(layers.RNN(NormalizedCell(name="cell"), name="rnn"))
    model = keras.Sequential([keras.Input((5, 3)), rnn])
    reasons = [kept.reason for kept in explain(model, FOLDS).unmatched]
    name = f"{rnn.name} ({type(rnn).__name__})"
    assert reasons
    assert set(reasons) == {f"bn stands inside {name}, into which no rule looks"}


class Ours(BatchNormalization):
    def call(self, inputs, training=None):
        return super().call(inputs, training=training) * 2.0


class OursToo(Conv2D):
    def call(self, inputs):
        return super().call(inputs) * 2.0


def test_a_subclass_of_a_normalization():
    model = keras.Sequential([keras.Input(IMAGE), Conv2D(4, 3, name="conv"), Ours(name="bn")])
    [kept] = explain(model, FOLDS).unmatched
    assert kept.layers == ("bn",)
    reason = "bn (Ours, a subclass of BatchNormalization) may compute something else"
    assert kept.reason == reason


def test_a_normalization_behind_a_subclass():
    model = keras.Sequential([keras.Input(IMAGE), OursToo(4, 3, name="conv")])
    model.add(BatchNormalization(name="bn"))
    [kept] = explain(model, FOLDS).unmatched
    assert "bn follows conv (OursToo, a subclass of Conv2D) and feeds" in kept.reason


def test_several_readers_and_an_output():
    inputs = keras.Input(IMAGE, name="image")
    x = BatchNormalization(name="bn")(inputs)
    model = keras.Model(inputs, [x, layers.ReLU(name="one")(x), layers.ReLU(name="two")(x)])
    [kept] = explain(model, FOLDS).unmatched
    assert "follows image (InputLayer) and feeds" in kept.reason
    assert all(name in kept.reason for name in ("one (ReLU)", "two (ReLU)", "an output"))


def test_nothing_is_said_twice():
    inputs = keras.Input(IMAGE)
    x = Conv2D(4, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, BatchNormalization(name="bn")(x))
    report = explain(model, FOLDS)
    assert len(report.declined) == 1
    assert not report.unmatched


def test_nothing_is_said_of_what_went():
    report = Report()
    model = keras.Sequential([keras.Input(IMAGE), Conv2D(4, 3), BatchNormalization()])
    optimize(model, FOLDS, report=report)
    assert report.applied
    assert not report.unmatched


def test_what_is_taken_back_is_said():
    """A model with a class of its own loses that only for a rewrite which is worth it."""

    class Net(keras.Model):
        def __init__(self):
            inputs = keras.Input(IMAGE)
            x = layers.ReLU(name="relu")(Conv2D(4, 3, name="conv")(inputs))
            super().__init__(inputs, BatchNormalization(name="bn")(x), name="net")

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls()

    model = Net()
    rules = ["linear_activation", "lone_batchnorm"]
    report = explain(model, rules)
    assert not report.applied
    [declined] = report.declined
    assert (declined.rule, declined.layers) == ("lone_batchnorm", ("bn",))
    assert declined.reason.startswith("this alone is no reason to take net apart")
    assert len(explain(keras.Model(model.inputs, model.outputs), rules).applied) == 2


class Written(keras.Model):
    def __init__(self):
        super().__init__(name="written")
        self.conv = Conv2D(4, 3, activation="relu", name="conv")
        self.bn = BatchNormalization(name="bn")

    def call(self, x):
        return self.bn(self.conv(x))


class Uncopied(layers.Layer):
    """A layer that only its author can make."""

    def __init__(self, size):
        super().__init__(name="uncopied")
        self.size = size
        self.bn = BatchNormalization(name="bn")

    def call(self, x):
        return keras.ops.relu(self.bn(x))


def test_what_loses_its_class_anyway_is_rewritten():
    written = Written()
    data = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype("float32")
    written(data)
    inputs = keras.Input(IMAGE)
    for model in (written, keras.Model(inputs, Uncopied(2)(inputs))):
        report = Report()
        fast = optimize(randomize(model), [*FOLDS, "lone_batchnorm"], report=report)
        assert report.folded == {"lone_batchnorm": 1}
        assert not any(isinstance(part, BatchNormalization) for part in sublayers(fast))
        expected, answer = (to_numpy(each(data, training=False)) for each in (model, fast))
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


class Kept(Uncopied):
    """One that Keras makes again, but then it lacks what somebody added."""

    def __init__(self, size=2, **options):
        super().__init__(size)

    def get_config(self):
        return {"size": self.size}


@pytest.mark.parametrize("lacks", [False, True])
def test_what_is_taken_back_is_not_in_the_result(lacks):
    """If there is no copy, what it calls takes its place, and then nothing is taken back."""
    inputs = keras.Input(IMAGE)
    block = Kept()
    model = randomize(keras.Model(inputs, block(inputs)))
    if lacks:
        block.factor = 2.0
    report = Report()
    fast = optimize(model, [*FOLDS, "lone_batchnorm"], report=report)
    assert bool(report.applied) == lacks
    assert sum(isinstance(part, BatchNormalization) for part in sublayers(fast)) == 1 - lacks
    check_equivalent(model, fast)


def test_nothing_is_said_of_what_was_not_asked_for():
    assert not explain(added(), ["grouped_depthwise"]).unmatched


@pytest.mark.parametrize(
    ("layer", "rule"),
    [
        (layers.ZeroPadding2D(1, name="layer"), "padding_conv"),
        (layers.Rescaling(0.5, name="layer"), "affine_linear"),
        (layers.LayerNormalization(name="layer"), "layer_normalization_dense"),
        (layers.LayerNormalization(scale=False, center=False, name="layer"), None),
        (Conv2D(4, 3, name="layer"), None),
    ],
)
def test_other_layers(layer, rule):
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential([keras.Input(IMAGE), layer, layers.Softmax(name="end")])
    rules = ["padding_conv", "affine_linear", "layer_normalization_dense", "grouped_depthwise"]
    assert [kept.rule for kept in explain(model, rules).unmatched] == [rule] * (rule is not None)


def test_in_a_nested_model():
    inner = added()
    inputs = keras.Input(IMAGE)
    model = keras.Model(inputs, layers.Softmax()(inner(inputs)))
    [kept] = explain(model, FOLDS).unmatched
    assert kept.path == ("net",)


# Multiply-adds, as they are counted by hand


def size_of(*row, shape=IMAGE):
    report = explain(keras.Sequential([keras.Input(shape), *row]), [])
    before, after = report.size["multiply-adds"]
    assert before == after
    return before


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (Conv2D(6, 3), (8, 8, 4), 6 * 6 * 9 * 4 * 6),
        (Conv2D(6, 3, padding="same", strides=2, use_bias=False), (8, 8, 4), 4 * 4 * 9 * 4 * 6),
        (Conv2D(6, 3, groups=2), (8, 8, 4), 6 * 6 * 9 * 2 * 6),
        (Conv2D(6, 3, data_format="channels_first"), (4, 8, 8), 6 * 6 * 9 * 4 * 6),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 4), 6 * 6 * 9 * 4 * 2),
        (layers.SeparableConv2D(6, 3), (8, 8, 4), 6 * 6 * (9 * 4 + 4 * 6)),
        (layers.Conv2DTranspose(6, 3, strides=2), (8, 8, 4), 8 * 8 * 9 * 4 * 6),
        (Dense(5), (8, 8, 4), 8 * 8 * 4 * 5),
        (Dense(5), (None, 4), 4 * 5),
        (layers.EinsumDense("abc,cde->abde", (7, 2, 5)), (7, 4), 7 * 4 * 2 * 5),
        (layers.EinsumDense("ab,bc->ac", (5, 1)), (4,), 4 * 5),  # Keras infers (None, 5, 1)
        (BatchNormalization(), (8, 8, 4), 0),
    ],
)
def test_multiply_adds(layer, shape, expected):
    assert size_of(type(layer).from_config(layer.get_config()), shape=shape) == expected


def test_multiply_adds_of_rows_that_a_reshape_made():
    model = keras.Sequential([keras.Input(IMAGE), Dense(5, activation="gelu", name="dense")])
    report = Report()
    optimize(randomize(model), ["dense_rows"], report=report)
    assert report.applied
    assert report.size["multiply-adds"] == (8 * 8 * 4 * 5, 8 * 8 * 4 * 5)


def test_a_nested_model_counts_as_often_as_it_is_called():
    inner = keras.Sequential([keras.Input((4,)), Dense(4), BatchNormalization()])
    one, two = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([one, two], layers.Add()([inner(one), inner(two)]))
    size = explain(model, FOLDS).size
    assert size["multiply-adds"] == (32, 32)
    assert size["passes"] == (3, 1)
    assert size["parameters"] == (36, 20)


def test_published_figures():
    model = keras.applications.MobileNetV2(weights=None)
    before, after = kito.explain(model).size["multiply-adds"]
    assert before == after == pytest.approx(300e6, rel=0.01)  # arXiv:1801.04381, table 4


@pytest.mark.parametrize(
    "layer", [layers.GroupNormalization(4), layers.RMSNormalization(), layers.UnitNormalization()]
)
def test_a_normalization_by_a_statistic_of_the_input(layer):
    model = keras.Sequential([keras.Input((6, 6, 8)), layers.Conv2D(8, 3), layer])
    [kept] = kito.explain(model).unmatched
    assert (kept.rule, kept.layers) == ("conv_batchnorm", (layer.name,))
    assert "divides by a statistic of each input" in kept.reason


def test_why_shared_layers_do_not_fold_is_said_of_a_class_that_stays():
    """A rewrite that is no reason to take it apart is tried first there, and taken back."""

    @keras.saving.register_keras_serializable("test_kept")
    class Head(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.conv = layers.SeparableConv2D(8, 3, padding="same")
            self.norms = [layers.BatchNormalization() for _ in range(3)]

        def call(self, levels):
            return [norm(self.conv(x)) for x, norm in zip(levels, self.norms, strict=True)]

    levels = [keras.Input((None, None, 8)) for _ in range(3)]
    report = kito.explain(randomize(keras.Model(levels, Head(name="head")(levels))))
    assert not report.applied
    said = {each.reason for each in report.declined if each.rule == "separable_conv_batchnorm"}
    assert any("is called 3 times" in reason for reason in said)
