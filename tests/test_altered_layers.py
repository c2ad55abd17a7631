"""Layers of Keras that somebody changed after they were made, which no configuration shows."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Dense

import kito
from kito.graph.layer import to_numpy
from kito.testing import check_declines, check_equivalent, randomize
from tests.folds import FOLDS


def flat(*row, shape=(8,), **options):
    x = inputs = keras.Input(shape, **options)
    for layer in row:
        x = layer(x)
    return keras.Model(inputs, x)


def same(model, data, rules=None):
    """What the result is for data, which must be what the model gives, and the report."""
    report = kito.Report()
    fast = kito.optimize(model, rules, report=report)
    one, other = (to_numpy(each(data, training=False)) for each in (model, fast))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * (np.abs(one).max() or 1))
    assert other.dtype == one.dtype
    return report


@pytest.mark.parametrize("kind", ["dense", "embedding"])
def test_the_alpha_of_lora_is_copied(kind):
    rng = np.random.default_rng(0)
    if kind == "dense":
        layer, data = Dense(4, activation="tanh"), rng.normal(size=(2, 8)).astype("float32")
        model = flat(layer)
    else:
        layer, data = layers.Embedding(7, 8), rng.integers(0, 7, (2, 5))
        model = flat(layer, shape=(5,), dtype="int32")
    layer.enable_lora(2, lora_alpha=8)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    same(model, data)


@pytest.mark.filterwarnings("ignore:Layer 'dense")
@pytest.mark.parametrize("passes", [True, False])
def test_whether_a_layer_lets_masks_through_is_copied(passes):
    layer = layers.Conv1D(4, 3, padding="same") if passes else Dense(4)
    layer.supports_masking = passes
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(4, 4, mask_zero=True)(inputs)
    model = randomize(keras.Model(inputs, layers.LSTM(3)(layer(x))))
    data = np.array([[1, 2, 3, 0, 0, 0]], "int32")
    fast = kito.optimize(model)
    np.testing.assert_allclose(to_numpy(fast(data)), to_numpy(model(data)), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Layer 'conv")
def test_declines_a_layer_that_was_told_to_let_masks_through():
    layer = layers.Conv1D(4, 1, name="conv")
    layer.supports_masking = True
    inputs = keras.Input((6,), dtype="int32")
    x = BatchNormalization()(layer(layers.Embedding(4, 4, mask_zero=True)(inputs)))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    check_declines(model, FOLDS, reason="a mask runs through conv, and the rewrite would change it")


def test_a_layer_that_does_not_cast_is_copied():
    model = flat(Dense(4, autocast=False), dtype="float64")
    report = same(model, np.ones((2, 8)))
    assert not report.notes


def test_declines_a_layer_that_does_not_cast():
    model = flat(
        Dense(4, autocast=False, name="dense"), layers.ReLU(autocast=False), dtype="float64"
    )
    report = same(model, np.ones((2, 8)))
    [declined] = report.declined
    assert declined.reason.startswith("dense has autocast=False")


def by_names(name, dtype):
    """A policy for the layer of that name, and another one for all others."""
    policy = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
    policy[name] = keras.dtype_policies.DTypePolicy(dtype)
    return policy


def test_a_layer_with_a_policy_that_goes_by_names_is_copied():
    model = flat(Dense(4, name="one", dtype=by_names("one", "mixed_bfloat16")))
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    check_equivalent(model, fast)
    assert not report.notes
    assert fast.get_layer("one").kernel is not model.get_layer("one").kernel
    assert fast.get_layer("one").compute_dtype == "bfloat16"


def test_declines_a_policy_that_goes_by_names():
    """What a rule makes may have another name, and so another policy."""
    policy = by_names("one", "mixed_bfloat16")
    model = flat(Dense(4, name="one", dtype=policy), BatchNormalization(name="bn", dtype=policy))
    check_declines(model, FOLDS, reason="one has a dtype policy that goes by its name")


@keras.saving.register_keras_serializable("test_altered_layers")
class Backbone(keras.Model):
    """It says the policies of its layers by their paths, as those of keras-hub do."""

    def __init__(self, dtype=None, **options):
        inputs = keras.Input((8,))
        x = BatchNormalization()(Dense(4, dtype=dtype, name="one")(inputs))
        super().__init__(inputs, x, **options)

    def get_config(self):
        policies = keras.dtype_policies.DTypePolicyMap()
        policies["one"] = self.get_layer("one").dtype_policy
        return {"dtype": keras.dtype_policies.serialize(policies)}


def test_policies_are_left_as_they_are():
    """Keras takes the names of policies away to write them down."""
    model = Backbone()
    policy = model.get_layer("one").dtype_policy
    kito.optimize(model, rules=[])
    assert policy.name == keras.config.dtype_policy().name == "float32"
    check_equivalent(model, kito.optimize(model))


def test_a_quantized_model_that_says_the_policies_of_its_layers_is_copied(tmp_path):
    backbone = Backbone()
    backbone.quantize("int8", filters="one")
    inputs = keras.Input((8,))
    x = BatchNormalization()(Dense(3)(backbone(inputs)))
    model = randomize(keras.Model(inputs, x), seed=1)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.notes
    assert type(fast.get_layer(backbone.name)) is type(backbone)
    check_equivalent(model, fast)
    fast.save(tmp_path / "fast.keras")
    check_equivalent(model, keras.models.load_model(tmp_path / "fast.keras"))
    assert keras.config.dtype_policy().name == "float32"


class Thrice:
    """A function with settings, of a class that nobody registered."""

    def __call__(self, x):
        return 3 * x

    def get_config(self):
        return {}


@pytest.mark.parametrize("inside", [True, False])
def test_declines_an_activation_of_a_class_that_keras_does_not_find(inside):
    dense = Dense(4, activation=Thrice() if inside else None, name="dense")
    act = [] if inside else [layers.Activation(Thrice(), name="act")]
    model = randomize(flat(dense, *act, BatchNormalization(), layers.ReLU()))
    report = same(model, np.ones((2, 8)))
    name = "dense" if inside else "act"
    assert any(
        each.reason == f"{name} has an activation that its configuration can't carry"
        for each in report.declined
    )


class Uncast(keras.Model):
    """Takes its inputs in the precision in which they come."""

    def __init__(self):
        super().__init__(autocast=False)
        self.norm = layers.LayerNormalization(dtype="float32")
        self.dense, self.bn = Dense(4), BatchNormalization()

    def call(self, x):
        return self.bn(self.dense(self.norm(x)))


def test_inputs_of_a_model_that_does_not_cast_stay_as_they_are():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = Uncast()
    data = (np.random.default_rng(0).normal(size=(4, 8)) + 1000).astype("float32")
    model(data)
    fast = kito.optimize(model, FOLDS)
    assert fast.inputs[0].dtype == "float32"
    one, other = (ops.convert_to_numpy(ops.cast(each(data), "float32")) for each in (model, fast))
    np.testing.assert_allclose(other, one, rtol=0, atol=0.05 * np.abs(one).max())


def without_bias():
    layer = Dense(4, bias_initializer="ones", name="dense")
    model = randomize(flat(layer, BatchNormalization()))
    layer.bias = None
    return model


def test_a_bias_that_was_taken_away_stays_away():
    check_declines(
        without_bias(), FOLDS, reason="dense computes with other weights than those that it was"
    )


def test_a_layer_without_its_bias_is_no_duplicate():
    inputs = keras.Input((8,))
    one, two = Dense(4, bias_initializer="ones"), Dense(4, bias_initializer="ones")
    model = keras.Model(inputs, [layers.ReLU()(one(inputs)), layers.ELU()(two(inputs))])
    two.set_weights(one.get_weights())
    one.bias = None
    data = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    for first, second in zip(model(data), kito.optimize(model)(data), strict=True):
        np.testing.assert_allclose(to_numpy(first), to_numpy(second), rtol=0, atol=1e-6)


def test_a_layer_without_its_bias_is_shared():
    model = without_bias()
    report = same(model, np.ones((2, 8), "float32"))
    assert "dense (Dense) is shared with the source model" in report.notes[0]


def test_a_kernel_that_is_made_of_another_one_is_kept():
    inputs = keras.Input((5,), dtype="int32")
    table, dense = layers.Embedding(6, 8), Dense(6)
    model = keras.Model(inputs, BatchNormalization()(dense(table(inputs))))
    randomize(model)
    object.__setattr__(dense, "_kernel", ops.transpose(table.embeddings))
    report = same(model, np.arange(5)[None])
    assert not report.applied


def test_a_kernel_that_is_no_weight_of_a_layer_of_ones_own_is_copied():
    class Smooth(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.kernel = ops.ones((8, 8)) / 8

        def call(self, x):
            return x @ self.kernel

    model = randomize(flat(Dense(8), BatchNormalization(), Smooth()))
    report = same(model, np.ones((2, 8), "float32"), FOLDS)
    assert report.folded == {"dense_batchnorm": 1}
    assert not report.notes


class Call:
    """An activation that is an object."""

    def __call__(self, x):
        return ops.relu(x)


ACTIVATIONS = [partial(keras.activations.gelu, approximate=True), Call()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=["partial", "object"])
@pytest.mark.parametrize(
    "row",
    [
        lambda f: [Dense(4), layers.Activation(f)],
        lambda f: [Dense(4, activation=f), Dense(4)],
        lambda f: [Dense(4, activation=f), BatchNormalization()],
        lambda f: [layers.Reshape((4, 2)), layers.EinsumDense("abc,cd->abd", (4, 3), activation=f)],
        lambda f: [layers.Reshape((4, 2)), layers.Conv1D(4, 3, activation=f), BatchNormalization()],
        lambda f: [layers.Reshape((4, 2)), layers.LSTM(4, activation=f)],
        lambda f: [layers.Reshape((4, 2)), layers.TimeDistributed(Dense(4, activation=f))],
    ],
)
def test_activations_that_no_configuration_can_have(row, activation):
    model = randomize(flat(*row(activation)))
    report = same(model, np.random.default_rng(0).normal(size=(2, 8)).astype("float32"))
    assert not report.faults


def test_flags_of_a_layer_are_copied():
    layer = layers.CategoryEncoding(4, output_mode="multi_hot", sparse=True)
    model = flat(layer, shape=(3,), dtype="int32")
    [_, copy] = kito.optimize(model).layers
    assert copy.sparse


def test_states_between_batches_are_copied():
    inputs = keras.Input(batch_shape=(2, 5, 8))
    lstm = layers.LSTM(4, stateful=True, name="lstm")
    model = randomize(keras.Model(inputs, lstm(inputs)))
    data = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    model(data)
    before = [to_numpy(state) for state in lstm.states]
    fast = kito.optimize(model, verify=data)
    assert kito.compare(model, fast, data).relative < 1e-6
    for state, copied, old in zip(lstm.states, fast.layers[1].states, before, strict=True):
        np.testing.assert_array_equal(to_numpy(state), old)
        np.testing.assert_array_equal(to_numpy(copied), old)
    np.testing.assert_allclose(to_numpy(fast(data)), to_numpy(model(data)), rtol=0, atol=1e-6)


def inner():
    return keras.Sequential([keras.Input((8,)), Dense(8), BatchNormalization()], name="inner")


def thrice(layer):
    """Let a layer give three times what it gives."""
    call = layer.call
    layer.call = lambda x, training=None, mask=None: call(x, training=training) * 3.0
    return layer


@pytest.mark.parametrize("where", ["nested", "top", "time distributed"])
def test_a_call_that_somebody_put_on_a_model(where):
    if where == "nested":
        model = flat(thrice(inner()))
    elif where == "top":
        model = thrice(flat(Dense(8), BatchNormalization()))
    else:
        model = flat(thrice(layers.TimeDistributed(inner())), shape=(5, 8))
    data = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
    same(randomize(model), data.astype("float32"))


def test_a_model_of_a_class_with_another_call_operator_is_copied():
    class Twice(keras.Model):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs) * 2.0

    inputs = keras.Input((8,))
    model = randomize(Twice(inputs, BatchNormalization()(Dense(4)(inputs))))
    report = same(model, np.ones((2, 8)))
    assert "a `__call__` of its own" in report.notes[0]


def test_a_nested_model_that_is_called_with_training_true():
    model = inner()
    inputs = keras.Input((8,))
    outer = randomize(keras.Model(inputs, model(inputs, training=True)))
    report = kito.Report()
    fast = kito.optimize(outer, FOLDS, report=report)
    [declined] = report.declined
    assert declined.reason == "the model 'inner' around it is called with training=True"
    data = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    np.testing.assert_allclose(to_numpy(fast(data)), to_numpy(outer(data)), rtol=0, atol=1e-6)


class Scale(layers.Layer):
    """Without a configuration."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


@pytest.mark.parametrize("size", [8, 1])
def test_a_wrapper_that_can_not_be_copied_stays_around_its_model(size):
    wrapped = keras.Sequential([keras.Input((size,)), Dense(size), Scale(2.0)])
    model = randomize(flat(layers.TimeDistributed(wrapped, name="times"), shape=(5, size)))
    report = same(model, np.ones((2, 5, size), "float32"))
    assert any("is shared with the source model" in note for note in report.notes)


def test_a_wrapper_around_a_wrapper_of_a_model():
    model = flat(layers.TimeDistributed(layers.TimeDistributed(inner())), shape=(5, 6, 8))
    report = same(randomize(model), np.ones((2, 5, 6, 8), "float32"))
    assert not report.faults


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has no sparse tensors there")
def test_sparse_tensors_stay_so():
    inputs = keras.Input((6,), sparse=True)
    model = keras.Model(inputs, inputs * 2.0 / 3.0)
    [declined] = kito.explain(model, ["affine_affine"]).declined
    assert declined.reason.endswith("reads a sparse tensor")
    dense = Dense(3, use_bias=False)(inputs)
    check = kito.explain(randomize(keras.Model(inputs, BatchNormalization()(dense))), FOLDS)
    assert check.folded == {"dense_batchnorm": 1}


def test_weights_that_two_composites_share_stay_shared():
    class Part(layers.Layer):
        def __init__(self, shared, **options):
            super().__init__(**options)
            self.shared, self.dense = shared, Dense(8)

        def build(self, shape):
            if not self.shared.built:
                self.shared.build(shape)
            self.dense.build((*shape, 8))

        def call(self, x):
            return ops.tanh(self.dense(self.shared(x)))

        def compute_output_shape(self, shape):
            return (*shape, 8)

        def compute_output_spec(self, x):
            return keras.KerasTensor((*x.shape, 8), "float32")

    one, two = (keras.Input((5,), dtype="int32") for _ in range(2))
    table = layers.Embedding(100, 8)
    x = Part(table)(one) + Part(table)(two)
    model = randomize(keras.Model([one, two], BatchNormalization()(Dense(8)(x))))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert fast.count_params() == model.count_params() - 4 * 8
    assert report.size["parameters"] == (model.count_params(), fast.count_params())
    check_equivalent(model, fast)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_composites_in_which_something_folds_share_a_layer(dtype, tmp_path):
    """Of two models that have it Keras would load none."""

    class Part(layers.Layer):
        def __init__(self, shared, **options):
            super().__init__(**options)
            self.shared, self.dense, self.bn = shared, Dense(8), BatchNormalization()

        def call(self, x):
            return ops.tanh(self.bn(self.dense(self.shared(x))))

    inputs = keras.Input((8,), dtype=dtype)
    shared = Dense(8, name="shared")
    one, two = Part(shared, name="one"), Part(shared, name="two")
    model = randomize(keras.Model(inputs, [one(inputs), two(one(inputs) * 2.0)]))
    fast = kito.optimize(model, FOLDS)
    assert fast.count_params() == model.count_params() - 2 * 4 * 8
    check_equivalent(model, fast)
    fast.save(tmp_path / "fast.keras")
    check_equivalent(fast, keras.saving.load_model(tmp_path / "fast.keras"))


@keras.saving.register_keras_serializable("test_altered_layers")
class Folding(layers.Layer):
    """A Dense layer that it may share, and a fold."""

    def __init__(self, shared=None, **options):
        super().__init__(**options)
        self.shared = shared or Dense(8, name="shared")
        self.dense, self.bn = Dense(8, name="dense"), BatchNormalization(name="bn")

    def build(self, shape):
        if not self.shared.built:
            self.shared.build(shape)
        self.dense.build(shape)
        self.bn.build(shape)

    def call(self, x):
        return self.bn(self.dense(ops.tanh(self.shared(x))))


class Holding(layers.Layer):
    """Composites in composites share a layer."""

    def __init__(self, shared, **options):
        super().__init__(**options)
        self.part = Folding(shared, name="part")

    def call(self, x):
        return ops.tanh(self.part(x)) + x


@keras.saving.register_keras_serializable("test_altered_layers")
class Plain(layers.Layer):
    """Nothing folds in it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = Dense(8, name="first"), Dense(8, name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build(shape)

    def call(self, x):
        return self.second(ops.tanh(self.first(x)))


class Reusing(Folding):
    """It calls a layer of what it holds."""

    def __init__(self, **options):
        super().__init__(**options)
        self.plain = Plain(name="plain")

    def call(self, x):
        y = super().call(x)
        return self.plain(y) + self.plain.first(y)


class Named(layers.Layer):
    """Two parts of one name, of which it calls a layer of the one besides."""

    def __init__(self, **options):
        super().__init__(**options)
        self.one, self.other = Holding(None, name="part"), Folding(name="part")

    def call(self, x):
        y = self.one(x)
        return [self.one.part.dense(x), self.other(y)]


def holding_one(x):
    shared = Dense(8, name="shared")
    return Holding(shared, name="two")(Holding(shared, name="one")(x))


@pytest.mark.parametrize("calls", [holding_one, Reusing(), Named()])
def test_layers_that_several_levels_share(calls, tmp_path):
    """Of models that have a layer in common Keras would load none."""
    inputs = keras.Input((8,))
    model = randomize(keras.Model(inputs, calls(inputs)))
    report = kito.Report()
    fast = kito.optimize(model, report=report, strict=True)
    assert "dense_batchnorm" in report.folded
    check_equivalent(model, fast)
    fast.save(tmp_path / "fast.keras")
    check_equivalent(fast, keras.saving.load_model(tmp_path / "fast.keras"))


class Sharing(layers.Layer):
    def __init__(self, shared, **options):
        super().__init__(**options)
        self.shared = shared

    def call(self, x):
        return self.shared(x)


def test_folds_between_composites_that_share_a_layer():
    """In the result they are no composites, so a second run would find the folds."""
    shared = Dense(8, name="shared")
    model = randomize(flat(Sharing(shared, name="one"), Sharing(shared, name="two")))
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    assert report.folded == {"linear_linear": 1}
    check_equivalent(model, fast)
    assert not kito.explain(fast).applied


def test_levels_in_a_sequential_share_a_layer(tmp_path):
    """It becomes a Functional model."""
    shared = Dense(8, name="shared")
    row = [Holding(shared, name="one"), Folding(shared, name="two")]
    model = randomize(keras.Sequential([keras.Input((8,)), *row]))
    report = kito.Report()
    fast = kito.optimize(model, report=report, strict=True)
    assert report.folded["dense_batchnorm"] == 2
    assert fast.count_params() == model.count_params() - 2 * 4 * 8
    check_equivalent(model, fast)
    fast.save(tmp_path / "fast.keras")
    check_equivalent(fast, keras.saving.load_model(tmp_path / "fast.keras"))


@pytest.mark.parametrize("sequential", [False, True])
def test_weights_that_copies_would_not_share_stay_in_the_source(sequential):
    """Nothing can take the place of these composites."""

    @keras.saving.register_keras_serializable("test_altered_layers")
    class Part(layers.Layer):
        def __init__(self, shared=None, **options):
            super().__init__(**options)
            self.shared, self.seed = shared, keras.random.SeedGenerator(0)

        def call(self, x):
            return self.shared(x) + keras.random.normal((8,), stddev=0.0, seed=self.seed)

    shared = Dense(8)
    row = [Part(shared), Part(shared), Dense(8), BatchNormalization()]
    model = keras.Sequential([keras.Input((8,)), *row]) if sequential else flat(*row)
    fast = kito.optimize(randomize(model), FOLDS)
    assert type(fast) is type(model)
    check_equivalent(model, fast)
    assert fast.count_params() == model.count_params() - 4 * 8


@keras.saving.register_keras_serializable("test_altered_layers")
class Tied(layers.Layer):
    """An output that is tied to what the model begins with."""

    def __init__(self, part, **options):
        super().__init__(**options)
        self.part, self.dense = part, Dense(8)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.part(self.dense(x))

    def get_config(self):
        return super().get_config() | {"part": keras.saving.serialize_keras_object(self.part)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("part")), **config)


@pytest.mark.parametrize("first", [True, False])
def test_a_layer_that_a_composite_holds_too_is_that_of_its_copy(first, tmp_path):
    inputs = keras.Input((8,))
    part = Dense(8, name="part")
    part.build((None, 8))
    head = Tied(part, name="head")
    x = head(part(inputs)) if first else part(head(inputs))
    model = randomize(keras.Model(inputs, BatchNormalization()(Dense(8)(x))))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.notes
    assert fast.get_layer("part") is fast.get_layer("head").part
    assert fast.get_layer("head") is not head
    check_equivalent(model, fast)
    assert fast.count_params() == model.count_params() - 4 * 8
    if first:  # the other one Keras does not load, of the source either
        fast.save(tmp_path / "fast.keras")
        check_equivalent(fast, keras.saving.load_model(tmp_path / "fast.keras"))


def test_what_is_doubled_is_said():
    """A model with a class of its own is copied whole, as it may save what its layers can't."""

    class Backbone(keras.Model):
        def __init__(self, **options):
            inputs = keras.Input((6,), dtype="int32")
            tokens = layers.Embedding(50, 8, name="tokens")
            super().__init__(inputs, layers.LayerNormalization()(tokens(inputs)), **options)
            self.tokens = tokens

        def get_config(self):
            return {"name": self.name}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    backbone = Backbone(name="backbone")
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Concatenate()([backbone(inputs), backbone.tokens(inputs)])
    model = randomize(keras.Model(inputs, BatchNormalization()(Dense(4)(x))))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    check_equivalent(model, fast)
    assert fast.count_params() == model.count_params() - 4 * 4 + 50 * 8
    assert any("the result has 400 parameters more" in note for note in report.notes)


def test_a_layer_of_two_sequentials_stays_one():
    shared = Dense(8)
    inputs = keras.Input((8,))
    one, two = (keras.Sequential([keras.Input((8,)), shared, Dense(3)]) for _ in range(2))
    x = layers.Concatenate()([one(inputs), two(inputs)])
    model = randomize(keras.Model(inputs, BatchNormalization()(Dense(8)(x))))
    fast = kito.optimize(model, FOLDS)
    check_equivalent(model, fast)
    assert fast.count_params() == model.count_params() - 4 * 8


def test_what_a_layer_and_a_composite_share_in_a_sequential_stays_shared():
    class Twice(layers.Layer):
        def __init__(self, shared, **options):
            super().__init__(**options)
            self.shared = shared

        def call(self, x):
            return self.shared(self.shared(x))

    shared = Dense(8)
    row = [Twice(shared), shared, Dense(8), BatchNormalization()]
    model = randomize(keras.Sequential([keras.Input((8,)), *row]))
    fast = kito.optimize(model, FOLDS)
    assert type(fast) is keras.Sequential
    check_equivalent(model, fast)
    assert fast.count_params() == model.count_params() - 4 * 8
