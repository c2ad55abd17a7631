"""Layers that kito does not rewrite: copied with all their state, or shared when nobody can."""

from dataclasses import dataclass
from enum import Enum
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D, Dense

import kito
from kito.graph.layer import to_numpy
from kito.testing import check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS


class Scale(layers.Layer):
    """Not registered, with an argument that Keras can't save."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale", initializer="ones")

    def call(self, x):
        return self.function(x * self.scale)


def test_layers_without_a_config_are_shared_and_noted():
    model = keras.Sequential(
        [keras.Input((4,)), Dense(3), BatchNormalization(), Scale(keras.ops.tanh, name="scale")]
    )
    fast = check_rewrites(model, FOLDS, times=1)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert "scale (Scale) is shared with the source model" in report.notes[0]
    assert fast.layers[1].scale is model.layers[2].scale
    assert len(model.layers[2]._inbound_nodes) == 1


def test_a_configuration_that_forgets_an_argument_is_not_trusted():
    class Forgetful(layers.Layer):
        def __init__(self, factor=1.0, **options):
            super().__init__(**options)
            self.factor = factor

        def call(self, x):
            return x * self.factor

        def get_config(self):
            return super().get_config()

    model = keras.Sequential([keras.Input((4,)), Dense(3), BatchNormalization(), Forgetful(2.0)])
    check_rewrites(model, FOLDS, times=1)
    report = kito.Report()
    kito.optimize(model, FOLDS, report=report)
    assert "its configuration does not carry factor" in report.notes[0]


@dataclass
class Options:
    factor: float


@pytest.mark.parametrize(
    "held",
    [
        lambda factor: layers.LeakyReLU(negative_slope=factor),
        lambda factor: partial(keras.ops.leaky_relu, negative_slope=factor),
        Options,
        np.float32,
        keras.ops.convert_to_tensor,
    ],
)
def test_a_configuration_that_forgets_what_a_layer_made_of_an_argument_is_not_trusted(held):
    class Forgetful(layers.Layer):
        def __init__(self, factor=1.0, **options):
            super().__init__(**options)
            self.held = held(factor)

        def call(self, x):
            if isinstance(self.held, Options):
                return x * self.held.factor
            return self.held(x) if callable(self.held) else x * self.held

        def get_config(self):
            return super().get_config()

    for factor, shared in ((0.5, True), (1.0, False)):
        model = keras.Sequential(
            [keras.Input((4,)), Dense(3), BatchNormalization(), Forgetful(factor, name="held")]
        )
        check_rewrites(model, FOLDS, times=1)
        report = kito.Report()
        kito.optimize(model, FOLDS, report=report)
        assert any("held (Forgetful) is shared" in note for note in report.notes) == shared


def test_a_layer_with_a_constructor_of_any_arguments_is_copied():
    class Any(layers.Dense):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)

    model = keras.Sequential([keras.Input((4,)), Dense(3), BatchNormalization(), Any(2)])
    fast = check_rewrites(model, FOLDS, times=1)
    assert fast.layers[-1].kernel is not model.layers[-1].kernel


def test_functions_that_a_layer_makes_are_no_argument():
    class Skip(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.skip = lambda x: x

        def call(self, x):
            return self.skip(x)

    model = keras.Sequential([keras.Input((4,)), Dense(3), BatchNormalization(), Skip()])
    report = kito.Report()
    kito.optimize(randomize(model), FOLDS, report=report)
    assert not report.notes


def test_lambda_layers_are_shared():
    inputs = keras.Input((4,))
    x = layers.Lambda(lambda x: x * 2)(BatchNormalization()(Dense(3)(inputs)))
    check_rewrites(keras.Model(inputs, x), FOLDS, times=1)


def test_a_custom_layer_that_only_its_module_knows():
    class Plain(layers.Layer):
        def call(self, x):
            return x + 1

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((4, 3))
    x = layers.TimeDistributed(Plain())(BatchNormalization()(Dense(3)(inputs)))
    model = randomize(keras.Model(inputs, x))
    report = kito.Report()
    kito.optimize(model, FOLDS, report=report)
    assert not report.notes


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tensors of text")
def test_preprocessing_state_is_copied():
    words = layers.StringLookup(num_oov_indices=1)
    words.adapt(np.array([["b"], ["a"], ["b"]]))
    numbers = layers.Normalization()
    numbers.adapt(np.random.default_rng(0).normal(3, 2, (50, 2)))
    text, x = keras.Input((1,), dtype="string"), keras.Input((2,))
    embedded = layers.Flatten()(layers.Embedding(3, 4)(words(text)))
    y = BatchNormalization()(Dense(3)(layers.Concatenate()([embedded, numbers(x)])))
    model = keras.Model([text, x], y)
    fast = kito.optimize(model, FOLDS)
    data = [np.array([["a"], ["b"], ["c"]], object), np.ones((3, 2), "float32")]
    data = [keras.ops.convert_to_tensor(each) for each in data]
    assert np.allclose(model(data), fast(data), atol=1e-5)


@pytest.mark.parametrize("mode", ["int", "one_hot"])
def test_bins_that_were_learned_are_copied(mode):
    bins = layers.Discretization(num_bins=4, output_mode=mode)
    bins.adapt(np.random.default_rng(0).normal(0, 1, (50, 1)))
    model = keras.Sequential([keras.Input((1,)), bins])
    check_equivalent(model, kito.optimize(model, FOLDS))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tensors of text")
@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.TextVectorization(output_mode="tf_idf"),
        lambda: layers.StringLookup(output_mode="tf_idf"),
        lambda: layers.StringLookup(output_mode="count", num_oov_indices=2),
    ],
)
def test_words_that_were_learned_are_copied(layer):
    words = layer()
    words.adapt(np.array([["b"], ["a"], ["b"], ["d"]]))
    model = keras.Sequential([keras.Input((1,), dtype="string"), words, Dense(3)])
    fast = kito.optimize(model, FOLDS)
    data = keras.ops.convert_to_tensor(np.array([["a"], ["b"], ["c"]], object))
    assert np.array_equal(model(data), fast(data))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        lambda: layers.GRU(3, return_sequences=True),
        lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], return_sequences=True),
        lambda: layers.Dropout(0.5),
        lambda: layers.GaussianNoise(0.5),
        lambda: layers.LayerNormalization(),
        lambda: layers.GroupNormalization(2),
        lambda: layers.PReLU(),
        lambda: layers.TimeDistributed(Dense(4)),
        lambda: layers.Conv1D(4, 3, activation="relu"),
        lambda: layers.UnitNormalization(),
        lambda: layers.Discretization(bin_boundaries=[0.0, 1.0]),
    ],
)
def test_every_kind_of_layer_survives(layer):
    inputs = keras.Input((6, 4))
    x = BatchNormalization()(Dense(4)(inputs))
    check_rewrites(keras.Model(inputs, layer()(x)), FOLDS, times=1)


@pytest.mark.parametrize("make", [layers.Identity, partial(layers.ELU, alpha=0.3)])
def test_layers_whose_configuration_a_policy_hides_are_copied(make, tmp_path):
    """Keras notes what some of its layers are made with, and can't if a policy is among it."""
    policy = keras.DTypePolicy("float32")

    class Held(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.part = make(dtype=policy)

        def call(self, x):
            return self.part(x)

    for layer in (make(dtype=policy), Held()):
        with pytest.raises(NotImplementedError):
            (layer.part if isinstance(layer, Held) else layer).get_config()
        model = keras.Sequential([keras.Input((4,)), Dense(3), BatchNormalization(), layer])
        fast = check_rewrites(model, FOLDS, times=1)
        assert fast.layers[-1] is not layer
        report = kito.Report()
        kito.optimize(model, FOLDS, report=report)
        assert not report.notes
    saved = keras.Sequential([keras.Input((4,)), make(dtype=policy)])
    kito.optimize(saved).save(tmp_path / "it.keras")
    check_equivalent(saved, keras.models.load_model(tmp_path / "it.keras"))


def test_initializers_stay_in_the_config():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            Conv2D(4, 3, kernel_initializer="orthogonal", bias_initializer="ones"),
            BatchNormalization(),
            Dense(2, kernel_initializer="he_normal"),
        ]
    )
    fast = kito.optimize(model, FOLDS)
    assert isinstance(fast.layers[0].kernel_initializer, keras.initializers.Orthogonal)
    assert isinstance(fast.layers[0].bias_initializer, keras.initializers.Ones)
    assert isinstance(fast.layers[1].kernel_initializer, keras.initializers.HeNormal)


def test_saves_and_loads(tmp_path):
    model = keras.Sequential([keras.Input((6, 6, 3)), Conv2D(4, 3), BatchNormalization()])
    fast = check_rewrites(model, FOLDS)
    fast.save(tmp_path / "fast.keras")
    loaded = keras.saving.load_model(tmp_path / "fast.keras")
    data = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    assert np.array_equal(fast.predict_on_batch(data), loaded.predict_on_batch(data))


def relu(x):
    """Keras has a function of that name, and would save this one as that."""
    return x * x


def squared(x):
    """Keras could not load this one."""
    return x * x


@pytest.mark.parametrize("function", [relu, squared])
@pytest.mark.parametrize("make", [layers.Activation, lambda f: layers.LSTM(3, activation=f)])
def test_functions_that_a_configuration_does_not_carry_are_not_lost(make, function):
    model = keras.Sequential([keras.Input((5, 4)), make(function)])
    report = kito.Report()
    check_equivalent(randomize(model), kito.optimize(model, FOLDS, report=report))
    assert "is shared with the source model" in report.notes[0]


def scaling(factor):
    def scaled(x, *, by=factor):
        return x * by

    return scaled


def adding(table):
    def scaled(x):
        return ops.add(x, table)

    return scaled


LARGE = np.zeros((40, 40), "float32")
OTHER = LARGE.copy()
OTHER[20, 20] = 1.0


def picking(columns):
    def scaled(x):
        return ops.stack([x[..., column] for column in columns], axis=-1)

    return scaled


@pytest.mark.parametrize(
    ("registered", "used"),
    [
        (scaling(2.0), scaling(3.0)),
        (adding(LARGE), adding(OTHER)),
        (picking({1}), picking({2})),
        (picking(range(2)), picking(range(3))),
    ],
)
def test_functions_of_the_same_code_differ_in_what_they_hold(registered, used):
    with keras.saving.custom_object_scope({"scaled": registered}):
        inputs = keras.Input((40, 40))
        model = keras.Model(inputs, layers.Activation(used)(inputs))
        report = kito.Report()
        check_equivalent(model, kito.optimize(model, report=report))
    assert "lacks the activation" in report.notes[0]


def test_an_activation_is_that_of_its_name_if_it_does_the_same():
    with keras.saving.custom_object_scope({"scaled": scaling(2.0)}):
        row = [Dense(3), BatchNormalization(), layers.Activation(scaling(2.0))]
        fast = check_rewrites(keras.Sequential([keras.Input((4,)), *row]), times=2)
    assert len(fast.layers) == 1


def test_functions_of_tensorflow_are_those_of_keras():
    nn = pytest.importorskip("tensorflow").nn
    if keras.backend.backend() != "tensorflow":
        pytest.skip("these are for TensorFlow only")
    row = [Conv2D(4, 3, activation=nn.relu), layers.Activation(nn.elu)]
    model = keras.Sequential([keras.Input((6, 6, 3)), *row])
    report = kito.Report()
    check_equivalent(randomize(model), kito.optimize(model, FOLDS, report=report))
    assert not report.notes


@pytest.mark.parametrize(
    ("function", "name"),
    [("silu", "silu"), ("swish", "silu"), ("softmax", "softmax"), ("log_softmax", "log_softmax")],
)
def test_functions_that_keras_has_by_another_name_can_be_saved(function, name, tmp_path):
    nn = pytest.importorskip("tensorflow").nn
    if keras.backend.backend() != "tensorflow":
        pytest.skip("these are for TensorFlow only")
    function = getattr(nn, function)
    row = [Conv2D(4, 3, activation=function), layers.Activation(function), Conv2D(4, 3)]
    model = keras.Sequential([keras.Input((7, 7, 3)), *row, BatchNormalization()])
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    assert not report.notes
    fast.save(tmp_path / "fast.keras")
    loaded = keras.saving.load_model(tmp_path / "fast.keras")
    check_equivalent(model, loaded)
    assert [layer.activation for layer in loaded.layers[:2]] == [
        getattr(keras.activations, name)
    ] * 2


def attention_model():
    inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    return keras.Model(inputs, layers.Dropout(0.1)(Dense(3, name="dense")(x)))


@pytest.mark.parametrize("frozen", ["all", "layer", "part"])
def test_what_is_frozen_is_copied_and_stays_so(frozen):
    model = attention_model()
    attention = model.get_layer("attention")
    {"all": model, "layer": attention, "part": attention.query_dense}[frozen].trainable = False
    report = kito.Report()
    fast = kito.optimize(randomize(model), report=report)
    assert not report.notes
    flags = [[weight.trainable for weight in each.weights] for each in (model, fast)]
    assert flags[0] == flags[1]
    assert not {id(each) for each in model.variables} & {id(each) for each in fast.variables}


def test_a_normalization_goes_by_what_it_went_by():
    data = np.random.default_rng(0).normal(100, 20, (16, 3)).astype("float32")
    norm = layers.Normalization()
    norm.adapt(data)
    adapted = keras.Sequential([keras.Input((3,)), norm, layers.Dropout(0.5)])
    model = keras.models.clone_model(adapted)
    model.set_weights(
        adapted.get_weights()
    )  # which Keras does not compute with until it loads them
    check_equivalent(model, kito.optimize(model))


class Inside(layers.Layer):
    """Without a `build`: its first call builds what it holds."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inside = keras.Sequential([Dense(4, activation="relu"), Dense(3)])

    def call(self, x):
        return self.inside(x) + x


@pytest.mark.filterwarnings("ignore:`build")
def test_a_layer_without_a_build_is_copied_in_a_sequential_model():
    inputs = keras.Input((5, 3))
    inner = keras.Sequential([Inside(name="inside"), layers.Dropout(0.5)])
    model = randomize(keras.Model(inputs, Dense(2)(inner(inputs))))
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    assert not report.notes
    check_equivalent(model, fast)


class Mode(Enum):
    ONE, THREE = 1, 3


class Factor:
    def __init__(self, value=1.0):
        self.value = value


class Forgetful(layers.Layer):
    """Its configuration has neither of its arguments, which have other values than at first."""

    def __init__(self, mode=Mode.ONE, factor=None, **options):
        super().__init__(**options)
        self.mode, self.factor = mode, factor or Factor()

    def call(self, x):
        return x * self.mode.value * self.factor.value

    def get_config(self):
        return super().get_config()


@pytest.mark.parametrize("given", [{"mode": Mode.THREE}, {"factor": Factor(3.0)}])
def test_objects_that_a_configuration_forgets_are_not_lost(given):
    rows = [Conv2D(4, 3), BatchNormalization(), Forgetful(**given)]
    model = randomize(keras.Sequential([keras.Input((8, 8, 3)), *rows]))
    report = kito.Report()
    check_equivalent(model, kito.optimize(model, report=report))
    assert any(f"does not carry {next(iter(given))}" in note for note in report.notes)


def test_objects_that_are_equal_are_copied():
    rows = [Conv2D(4, 3), BatchNormalization(), Forgetful()]
    report = kito.Report()
    kito.optimize(randomize(keras.Sequential([keras.Input((8, 8, 3)), *rows])), report=report)
    assert not report.notes


@keras.saving.register_keras_serializable("test_copies")
class Scores(layers.Layer):
    """Keeps the weights of its attention, as people do to look at them."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(2, 4)
        self.last_scores = None
        self.all_scores = []

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        x, self.last_scores = self.attention(x, x, return_attention_scores=True)
        self.all_scores = [self.last_scores]
        return x

    def compute_output_shape(self, shape):
        return shape


def test_what_a_call_leaves_in_an_attribute_is_nothing_to_copy():
    inputs = keras.Input((6, 8))
    scores = Scores(name="scores")
    model = randomize(keras.Model(inputs, Dense(2)(layers.Dropout(0.1)(scores(inputs)))))
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    check_equivalent(model, fast)
    assert not report.notes
    assert isinstance(fast.get_layer("scores"), Scores)
    assert not {id(each) for each in model.variables} & {id(each) for each in fast.variables}


def test_a_class_stays_whatever_the_model_did_before():
    @keras.saving.register_keras_serializable("test_copies")
    class Net(keras.Model):
        def __init__(self, size=8, **options):
            inputs = keras.Input((16, size))
            x = layers.Dropout(0.1)(layers.Dense(size, "gelu")(inputs))
            super().__init__(inputs, layers.Dense(size)(x), **options)
            self.size = size

        def get_config(self):
            return {"size": self.size, "name": self.name}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    model, data = Net(), np.ones((2, 16, 8))
    model.compile("sgd", "mse")
    model.fit(data, data, verbose=0)
    model.evaluate(data, data, verbose=0)
    model.predict(data, verbose=0)
    assert type(kito.optimize(model)) is Net


class Penalized(layers.Layer):
    """Keras can't copy it: its configuration says something else."""

    def __init__(self, factor=1.0, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, x):
        self.add_loss(keras.ops.mean(x))
        return x * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": 1.0}


def test_the_losses_of_the_last_call_of_a_shared_layer_stay():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Penalized(3.0, name="penalized")(inputs))
    model(np.ones((2, 4), "float32"))
    [before] = model.losses
    report = kito.Report()
    kito.optimize(model, report=report)
    assert report.notes[0].startswith("penalized (Penalized) is shared with the source model")
    assert [id(each) for each in model.losses] == [id(before)]


@keras.saving.register_keras_serializable("test_copies")
class Whole(layers.Layer):
    """Its `build` builds all that it holds, as does its `call`."""

    made = called = 0

    def __init__(self, **options):
        super().__init__(**options)
        type(self).made += 1
        self.first, self.second = Dense(4, activation="relu"), Dense(3)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 4))

    def call(self, x):
        type(self).called += 1
        return self.second(self.first(x)) + x


@keras.saving.register_keras_serializable("test_copies")
class Half(Whole):
    """Its `build` does not build the second layer."""

    def build(self, shape):
        self.first.build(shape)


@pytest.mark.parametrize("block", [Whole, Half])
def test_a_call_of_a_copy_runs_only_to_build_what_is_inside(block):
    inputs = keras.Input((5, 3))
    model = randomize(keras.Model(inputs, Dense(2)(block(name="block")(inputs))))
    block.called = 0
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.notes
    assert (block.called == 0) == (block is Whole)
    check_equivalent(model, fast)


@keras.saving.register_keras_serializable("test_copies")
class Around(layers.Layer):
    """A normalization that folds, and a composite in which there is nothing to do."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.normalization, self.inside = Dense(3), BatchNormalization(), Whole()

    def build(self, shape):
        self.dense.build(shape)
        self.normalization.build((*shape[:-1], 3))
        self.inside.build((*shape[:-1], 3))

    def call(self, x):
        return self.inside(self.normalization(self.dense(x)))


def test_the_copy_that_shows_that_a_layer_is_copied_is_that_of_the_result():
    inputs = keras.Input((5, 3))
    model = randomize(keras.Model(inputs, Around()(inputs)))
    Whole.made = 0
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert len(report.applied) == 1
    # One more to find out whether Keras makes any, and one to find out whether it loads it.
    assert Whole.made == 3
    check_equivalent(model, fast)


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor


class SlottedPrivately:
    __slots__ = ("__factor",)

    def __init__(self, factor):
        self.__factor = factor

    @property
    def factor(self):
        return self.__factor


@keras.saving.register_keras_serializable("test_copies")
class Hidden(layers.Layer):
    """Its configuration lacks what an object with a slot has."""

    def __init__(self, kind="Slotted", **options):
        super().__init__(**options)
        self.kind, self.held = kind, globals()[kind](1.0)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}

    def call(self, x):
        return x * self.held.factor


@pytest.mark.parametrize("kind", [Slotted, SlottedPrivately])
def test_values_in_slots_that_a_configuration_forgets_are_not_lost(kind):
    hidden, inputs = Hidden(kind.__name__), keras.Input((4,))
    hidden.held = kind(3.0)
    model = randomize(keras.Model(inputs, Dense(2)(hidden(inputs))))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert "does not carry held" in report.notes[0]
    check_equivalent(model, fast)


class Kept(keras.Model):
    """It has no `get_config`, and keeps what it was made with as its own."""

    def __init__(self, act="relu", factor=1.0, **options):
        super().__init__(**options)
        self._act, self._factor, self.dense = keras.activations.get(act), factor, Dense(5)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self._act(self.dense(x)) * self._factor


def test_what_a_nested_model_keeps_as_its_own_is_not_lost():
    inputs = keras.Input((5,))
    nested = Kept("tanh", 4.0, name="kept")
    model = randomize(keras.Model(inputs, nested(BatchNormalization()(Dense(5)(inputs)))))
    report = kito.Report()
    check_equivalent(model, kito.optimize(model, ["dense_batchnorm"], report=report))
    assert report.applied
    assert "its configuration does not carry _act, _factor" in report.notes[0]


class Measured(Kept):
    """Can't be traced."""

    def call(self, x):
        return super().call(x) * float(to_numpy(ops.max(x)) > 0)


def test_a_model_is_made_anew_of_what_it_keeps_as_its_own():
    model, data = Measured("tanh", 4.0), np.ones((2, 5), "float32")
    model(data)
    fast = kito.optimize(randomize(model))
    assert type(fast) is Measured
    np.testing.assert_array_equal(*(to_numpy(each(data)) for each in (model, fast)))


@keras.saving.register_keras_serializable("test_copies")
class Features(layers.Layer):
    """Draws numbers when it is built, which are no weights."""

    def __init__(self, **options):
        super().__init__(**options)
        self.initializer = keras.initializers.RandomNormal(seed=3)

    def build(self, shape):
        self.drawn = self.initializer((5, 8))

    def call(self, x):
        return ops.matmul(x, self.drawn)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 8)


def test_what_a_layer_draws_when_it_is_built_is_copied():
    inputs = keras.Input((5,))
    model = randomize(keras.Model(inputs, Features()(BatchNormalization()(Dense(5)(inputs)))))
    report = kito.Report()
    fast = kito.optimize(model, ["dense_batchnorm"], report=report)
    check_equivalent(model, fast)
    assert not report.notes


class Priors(keras.Initializer):
    """Nobody registered it."""

    def __call__(self, shape, dtype=None):
        return ops.zeros(shape, dtype) - 4.0


def test_an_initializer_that_nobody_registered_is_in_no_ones_way():
    own = {"bias_initializer": Priors()}
    rows = [keras.Input((6, 6, 3)), Conv2D(4, 3, **own), BatchNormalization(), Dense(2, **own)]
    report = kito.Report()
    model = randomize(keras.Sequential(rows))
    check_equivalent(model, kito.optimize(model, FOLDS, strict=True, report=report))
    assert report.folded == {"conv_batchnorm": 1}
    assert not report.notes


class Places(Hidden):
    """Its configuration lacks where in a container something stands."""

    def __init__(self, **options):
        super().__init__(**options)
        self.held = {"scale": 2.0}

    def call(self, x):
        return x * self.held.get("scale", 1.0) + self.held.get("shift", 0.0)


def test_where_something_stands_is_not_lost():
    places, inputs = Places(), keras.Input((4,))
    places.held = {"shift": 2.0}
    model = randomize(keras.Model(inputs, Dense(2)(places(inputs))))
    check_equivalent(model, kito.optimize(model, FOLDS))


@keras.saving.register_keras_serializable("test_copies")
class Inverse(layers.Layer):
    """Computes with the weight that it draws when it is built."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(5, 5), initializer="orthogonal")
        self.inverse = np.linalg.inv(to_numpy(self.kernel))
        self.trace = float(np.trace(self.inverse))

    def call(self, x):
        return ops.matmul(x, self.kernel)

    def compute_output_shape(self, shape):
        return shape


def test_a_weight_that_is_read_when_it_is_built_is_drawn():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, Inverse(name="inverse")(BatchNormalization()(Dense(5)(inputs))))
    report = kito.Report()
    check_equivalent(model, kito.optimize(randomize(model), ["dense_batchnorm"], report=report))
    assert "does not carry inverse, trace" in report.notes[0]


class Fitted(Kept):
    """Keeps a value where models keep what `fit` returns, and where their graph is."""

    def build(self, shape):
        super().build(shape)
        self.history, self._nodes = 1.0, 1.0

    def call(self, x):
        return ops.while_loop(lambda y: False, lambda y: y, super().call(x)) * self.history


def test_what_models_keep_of_keras_is_told_from_what_they_keep():
    fitted = Fitted(name="fitted")
    inputs = keras.Input((5,))
    model = keras.Model(inputs, fitted(BatchNormalization()(Dense(5)(inputs))))
    fitted.history, fitted._nodes = 3.0, 2.0
    report = kito.Report()
    check_equivalent(model, kito.optimize(randomize(model), ["dense_batchnorm"], report=report))
    assert any("does not carry _nodes, history" in note for note in report.notes)


@keras.saving.register_keras_serializable("test_copies")
class Scored(layers.Layer):
    """Computes with a loss."""

    def __init__(self, **options):
        super().__init__(**options)
        self.loss = keras.losses.Huber(delta=1.0, reduction="none")

    def call(self, x):
        y = ops.while_loop(lambda y: False, lambda y: y, x)
        return self.loss(y, ops.zeros_like(y))

    def compute_output_shape(self, shape):
        return shape[:-1]


def test_the_loss_that_a_layer_computes_with_is_not_lost():
    scored, inputs = Scored(), keras.Input((5,))
    scored.loss = keras.losses.Huber(delta=0.1, reduction="none")
    model = randomize(keras.Model(inputs, scored(BatchNormalization()(Dense(5)(inputs)))))
    check_equivalent(model, kito.optimize(model, ["dense_batchnorm"]))


class Lazy(Measured):
    """Puts something into an attribute of its own when it is called first."""

    def __init__(self, **options):
        super().__init__(**options)
        self._table, self._sizes = None, {}

    def call(self, x):
        if self._table is None:
            self._table, self._sizes["x"] = np.arange(5.0), 5
        return super().call(x) + ops.cast(self._table, x.dtype)


def test_a_model_that_is_kept_whole_may_have_been_called():
    model, data = Lazy(), np.ones((2, 5), "float32")
    model(data)
    fast = kito.optimize(randomize(model))
    assert type(fast) is Lazy
    np.testing.assert_array_equal(*(to_numpy(each(data)) for each in (model, fast)))
