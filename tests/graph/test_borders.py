"""Composites that hold a part of what folds are laid open, and no others."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D

import kito
from kito.graph.keras_internals import sublayers
from kito.graph.layer import to_numpy
from kito.testing import check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

SHAPE = (8, 8, 4)


@keras.saving.register_keras_serializable("test_borders")
class NormAct(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.bn = BatchNormalization(name="bn")

    def build(self, shape):
        self.bn.build(shape)

    def call(self, x, training=None):
        return ops.relu(self.bn(x, training=training))


class Conv(layers.Layer):
    """A convolution whose padding depends on its window."""

    def __init__(self, filters, window=3, **options):
        super().__init__(**options)
        self.pad, self.conv = layers.ZeroPadding2D(window // 2), Conv2D(filters, window)

    def call(self, x):
        return self.conv(self.pad(x))


class Block(layers.Layer):
    def __init__(self, first, second, **options):
        super().__init__(**options)
        self.first, self.second = first, second

    def call(self, x):
        return self.second(self.first(x))


def around(*row, **inputs):
    x = given = keras.Input(**{"shape": SHAPE, **inputs})
    for layer in row:
        x = layer(x)
    return keras.Model(given, x)


def count(model, cls):
    return sum(type(part) is cls for part in sublayers(model))


def same(model, other):
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    expected, answer = (to_numpy(each(data, training=False)) for each in (model, other))
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [SHAPE, (None, None, 4)])
@pytest.mark.parametrize(
    "row",
    [
        lambda: [Conv2D(4, 3), NormAct()],
        lambda: [Conv(4), BatchNormalization()],
        lambda: [Conv(4), NormAct()],
        lambda: [Block(Conv2D(4, 3), NormAct())],
        lambda: [Block(Conv(4), NormAct())],
        lambda: [Block(layers.ReLU(), Conv2D(4, 3)), Block(NormAct(), layers.ReLU())],
    ],
)
def test_a_normalization_folds_across_the_border(row, shape):
    model = around(*row(), shape=shape)
    fast = check_rewrites(model, FOLDS, times=1)
    assert not count(fast, BatchNormalization)


def test_across_the_border_of_a_subclassed_model():
    class Network(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = Conv2D(4, 3), NormAct()

        def call(self, x, training=None):
            return self.norm(self.conv(x), training=training)

    model = Network()
    model(np.zeros((1, *SHAPE), "float32"))
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    same(model, fast)


class ConvNorm(Conv):
    def __init__(self, filters, window=3, **options):
        super().__init__(filters, window, **options)
        self.bn = BatchNormalization()

    def call(self, x):
        return self.bn(super().call(x))


class Branches(layers.Layer):
    def __init__(self, identity=True, **options):
        super().__init__(**options)
        self.wide, self.narrow = ConvNorm(4), ConvNorm(4, 1)
        self.bn = BatchNormalization() if identity else None

    def call(self, x):
        y = self.wide(x) + self.narrow(x)
        return ops.relu(y + self.bn(x) if self.bn else y)


@pytest.mark.parametrize("identity", [True, False])
def test_branches_that_are_composites_become_one_convolution(identity):
    rules = ["conv_batchnorm", "parallel_branches", "padding_conv", "identities"]
    fast = check_rewrites(around(Branches(identity), Branches(identity)), rules)
    assert count(fast, Conv2D) == 2
    assert not count(fast, BatchNormalization)


def test_stays_a_layer_where_nothing_folds():
    """The convolution feeds two; the other composite reads an activation."""
    x = keras.Input(SHAPE)
    y = Conv2D(4, 3, name="conv")(x)
    norm, other = NormAct(name="norm"), NormAct(name="other")
    z = other(layers.Activation("tanh")(y))
    model = randomize(keras.Model(x, [norm(layers.Dropout(0.5)(y)), z]))
    fast = kito.optimize(model, FOLDS)
    assert type(fast.get_layer("norm")) is type(fast.get_layer("other")) is NormAct
    check_equivalent(model, fast)


def test_stays_a_layer_where_the_fold_declines():
    conv = Conv2D(4, 3, dtype="float32")
    row = [conv, NormAct(name="norm", dtype="float32"), Conv2D(4, 3), BatchNormalization()]
    model = around(*row)
    conv.enable_lora(2)
    report = kito.Report()
    wrong = kito.rule(kito.chain(conv=Conv2D, bn=BatchNormalization), name="never")(declines)
    fast = kito.optimize(randomize(model), [wrong, "identities"], report=report)
    assert type(fast.get_layer("norm")) is NormAct
    check_equivalent(model, fast)


def declines(conv, bn):
    raise kito.Decline(f"{conv.name} is not to be touched")


class Doubling(NormAct):
    """Does otherwise with data than with symbolic tensors."""

    def call(self, x, training=None):
        y = super().call(x, training=training)
        return y if isinstance(x, keras.KerasTensor) else y * 2.0


def test_a_trace_that_is_wrong_is_not_laid_open():
    model = around(Conv2D(4, 3), Doubling(name="doubling"))
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert not report.applied
    assert "doubling (Doubling) is kept whole: its call and the record" in report.notes[0]
    same(model, fast)


def test_a_composite_that_is_called_twice_stays_one():
    norm = NormAct()
    model = around(Conv2D(4, 3), norm, Conv2D(4, 3), norm)
    fast = kito.optimize(randomize(model), FOLDS)
    check_equivalent(model, fast)
    assert count(fast, NormAct) == 1


def test_a_composite_that_casts_stays():
    model = around(Conv2D(4, 3), NormAct(dtype="float64"))
    fast = kito.optimize(randomize(model), FOLDS)
    check_equivalent(model, fast)
    assert count(fast, BatchNormalization) == 1


def test_what_can_not_be_loaded_alone_stays_in_its_composite(tmp_path):
    @keras.saving.register_keras_serializable("test_borders")
    class Gated(NormAct):
        def __init__(self, **options):
            super().__init__(**options)
            self.gate = Gate()

        def call(self, x, training=None):
            return self.gate(super().call(x, training=training))

    model = around(Conv2D(4, 3), Gated(name="gated"))
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert "Keras can load the Gated, but not the Gate inside it" in report.notes[0]
    fast.save(tmp_path / "fast.keras")
    same(model, keras.saving.load_model(tmp_path / "fast.keras"))


class Gate(layers.Layer):
    """Not registered; it computes with a weight of its own."""

    def build(self, shape):
        self.slope = self.add_weight(shape=(1,), initializer="ones")

    def call(self, x):
        return x * ops.sigmoid(self.slope * x)


def test_an_activation_that_composites_share_is_no_reason_to_open_them():
    relu = layers.ReLU()
    model = around(*(Block(Block(Conv2D(4, 3), BatchNormalization()), relu) for _ in range(2)))
    fast = kito.optimize(randomize(model), FOLDS)
    assert [type(layer).__name__ for layer in fast.layers[1:]] == ["Functional", "Functional"]
    check_equivalent(model, fast)


class TwoOutputs(NormAct):
    def __init__(self, **options):
        super().__init__(**options)
        self.convs = [Conv2D(4, 1), Conv2D(4, 1, activation="tanh")]

    def call(self, x, training=None):
        y = super().call(x)
        return [conv(y) for conv in self.convs]


class Repeated(NormAct):
    """What gives the output is called twice."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv = Conv2D(4, 3, padding="same")

    def call(self, x, training=None):
        return self.conv(ops.tanh(self.conv(super().call(x))))


@pytest.mark.parametrize("cls", [NormAct, Repeated, TwoOutputs])
def test_outputs_keep_the_name_of_the_composite(cls):
    model = around(Conv2D(4, 3), cls(name="head"))
    fast = kito.optimize(randomize(model), FOLDS)
    assert not count(fast, cls)
    assert list(fast.output_names) == list(model.output_names) == ["head"] * len(model.outputs)
    check_equivalent(model, fast)


def test_a_fold_behind_a_layer_that_a_rule_unwraps():
    model = around(layers.SpectralNormalization(Conv2D(4, 3)), NormAct())
    model = randomize(model)
    fast = kito.optimize(model)
    assert not count(fast, BatchNormalization)
    check_equivalent(model, fast)
    assert not kito.explain(fast).applied


def test_a_second_run_finds_nothing():
    model = randomize(around(Conv(4), NormAct(), Block(Conv2D(4, 3), NormAct())))
    fast = kito.optimize(model, FOLDS)
    assert not kito.explain(fast, FOLDS).applied


@keras.saving.register_keras_serializable("test_borders")
class Holder(layers.Layer):
    """It calls what it is given, and a model inside that."""

    def __init__(self, held, **options):
        super().__init__(**options)
        self.held = held

    def get_config(self):
        return super().get_config() | {"held": keras.saving.serialize_keras_object(self.held)}

    @classmethod
    def from_config(cls, config):
        held = keras.saving.deserialize_keras_object(config.pop("held"))
        return cls(held, **config)


@keras.saving.register_keras_serializable("test_borders")
class Inner(Holder):
    def call(self, x):
        return self.held(x) + 1.0


@keras.saving.register_keras_serializable("test_borders")
class Outer(Holder):
    def call(self, x):
        return self.held(x) * 2.0 + self.held.held(x)


def test_what_is_laid_flat_wherever_it_is_called_is_laid_open_before(tmp_path):
    """The sum in `Inner` and the factor in `Outer` meet; in the second run they would, too."""
    unit = keras.Sequential([Conv2D(4, 3, padding="same"), BatchNormalization(), layers.ReLU()])
    inner = Inner(unit, name="inner")
    model = randomize(around(Outer(inner, name="outer"), inner))
    report = kito.Report()
    rules = [*FOLDS, "affine_affine", "linear_activation"]
    fast = kito.optimize(model, rules, report=report)
    assert report.folded["affine_affine"] == 1
    check_equivalent(model, fast)
    fast.save(tmp_path / "fast.keras")
    check_equivalent(model, keras.saving.load_model(tmp_path / "fast.keras"))
    assert not kito.explain(fast, rules).applied
