"""Affine maps that belong to a linear layer on the other side of the border of a nested model."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D, Dense, ReLU

import kito
from kito.testing import check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

SHAPE = (8, 8, 3)
RULES = [*FOLDS, "affine_linear"]


def chain(*inside, shape=SHAPE, name=None):
    return keras.Sequential([keras.Input(shape), *inside], name=name)


def around(*parts, shape=SHAPE, dtype="float32"):
    inputs = x = keras.Input(shape, dtype=dtype)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def behind():
    return around(chain(Conv2D(4, 3), name="nested"), BatchNormalization(), ReLU())


def at_the_beginning():
    nested = chain(BatchNormalization(), ReLU(), shape=(6, 6, 4), name="nested")
    return around(Conv2D(4, 3), nested)


def in_front():
    return around(BatchNormalization(), chain(Conv2D(4, 3), ReLU(), name="nested"))


def at_the_end():
    nested = chain(layers.MaxPooling2D(), BatchNormalization(), name="nested")
    return around(nested, Conv2D(4, 3), ReLU())


def from_one_into_another():
    first = chain(Conv2D(4, 3), name="nested")
    return keras.Sequential(
        [keras.Input(SHAPE), first, chain(BatchNormalization(), ReLU(), shape=(6, 6, 4))]
    )


def two_deep():
    inner = chain(Conv2D(4, 3), name="inner")
    return around(chain(ReLU(), inner, name="nested"), BatchNormalization(), ReLU())


def one_of_several_outputs():
    inputs = keras.Input(SHAPE)
    nested = keras.Model(inputs, {"a": Conv2D(4, 3)(inputs), "b": ReLU()(inputs)}, name="nested")
    outputs = nested(x := keras.Input(SHAPE))
    return keras.Model(x, [ReLU()(BatchNormalization()(outputs["a"])), outputs["b"]])


def one_of_several_inputs():
    one, other = keras.Input((6, 6, 4)), keras.Input((6, 6, 4))
    x = layers.Add()([ReLU()(BatchNormalization()(one)), other])
    nested = keras.Model([one, other], x, name="nested")
    x = keras.Input(SHAPE)
    return keras.Model(x, nested([Conv2D(4, 3)(x), ReLU()(Conv2D(4, 3)(x))]))


def behind_one_inside():
    return around(chain(Conv2D(4, 3), BatchNormalization()), BatchNormalization(), ReLU())


def behind_a_dropout():
    nested = chain(BatchNormalization(), ReLU(), shape=(6, 6, 4))
    return around(Conv2D(4, 3), layers.Dropout(0.5), nested)


def behind_a_dropout_inside():
    nested = chain(layers.Dropout(0.5), BatchNormalization(), ReLU(), shape=(6, 6, 4))
    return around(Conv2D(4, 3), nested)


def behind_the_last_of_a_chain():
    first = chain(Conv2D(4, 3), layers.Activation("linear"))
    second = chain(BatchNormalization(), layers.Rescaling(2.0, 1.0), shape=(6, 6, 4))
    return around(first, BatchNormalization(), second, BatchNormalization(), ReLU())


def in_front_of_what_becomes_linear():
    spectral = layers.SpectralNormalization(Conv2D(4, 3))
    return around(layers.MaxPooling2D(), BatchNormalization(), chain(spectral, shape=(4, 4, 3)))


@pytest.mark.parametrize(
    "made",
    [
        behind_one_inside,
        behind_a_dropout,
        behind_a_dropout_inside,
        behind_the_last_of_a_chain,
        in_front_of_what_becomes_linear,
    ],
)
def test_a_second_run_finds_nothing_that_others_were_in_the_way_of(made):
    fast = check_rewrites(made())
    assert not any(isinstance(each, BatchNormalization) for each in fast._flatten_layers())
    assert not any(isinstance(each, layers.DepthwiseConv2D) for each in fast._flatten_layers())
    model = randomize(made())  # without the rules that clear the way
    fast, report = kito.optimize(model, RULES), kito.Report()
    check_equivalent(model, kito.optimize(fast, RULES, report=report))
    assert not report.applied


@pytest.mark.parametrize(
    "made",
    [
        behind,
        at_the_beginning,
        in_front,
        at_the_end,
        from_one_into_another,
        two_deep,
        one_of_several_outputs,
        one_of_several_inputs,
    ],
)
def test_folds_across_the_border_of_a_nested_model(made, tmp_path):
    model = made()
    fast = check_rewrites(model, RULES, times=1)
    assert not any(isinstance(each, BatchNormalization) for each in fast._flatten_layers())
    assert type(fast.get_layer("nested")) is type(model.get_layer("nested"))
    fast.save(tmp_path / "fast.keras")
    check_equivalent(model, keras.models.load_model(tmp_path / "fast.keras"))


@pytest.mark.parametrize("rules", [None, ["affine_linear"]])
def test_a_model_of_which_nothing_is_left_is_none(rules):
    prepare = chain(layers.Rescaling(1 / 255.0), name="nested")
    fast = check_rewrites(around(prepare, Conv2D(4, 3), ReLU()), rules)
    kept = [keras.layers.InputLayer, Conv2D, ReLU]
    assert [type(each) for each in fast.layers] == (kept if rules else kept[:2])


def stays(model, rules=RULES):
    """Assert that a model with a nested one comes back as it is."""
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, rules, report=report)
    assert not report.applied
    check_equivalent(model, fast)
    names = [[each.name for each in m._flatten_layers(include_self=False)] for m in (model, fast)]
    assert names[0] == names[1]


def test_stays_where_nothing_folds():
    """The offset would be missing in the padding."""
    base = chain(Conv2D(4, 3, padding="same"), ReLU(), name="nested")
    stays(around(layers.Rescaling(1 / 127.5, -1.0), base), ["affine_linear"])


def test_stays_where_no_rule_asks_for_it():
    stays(behind(), ["linear_linear"])
    stays(behind(), [])


def test_stays_where_the_model_is_called_twice():
    nested = chain(Conv2D(3, 3, padding="same"), name="nested")
    stays(around(nested, BatchNormalization(), nested))


def test_stays_where_its_output_is_read_twice():
    x = keras.Input(SHAPE)
    y = chain(Conv2D(4, 3), name="nested")(x)
    stays(keras.Model(x, [ReLU()(BatchNormalization()(y)), layers.Softmax()(y)]))
    y = chain(Conv2D(4, 3), name="nested")(x)
    stays(keras.Model(x, [ReLU()(BatchNormalization()(y)), y]))


def test_stays_where_its_output_is_read_inside():
    x = keras.Input(SHAPE)
    y = Conv2D(4, 3)(x)
    nested = keras.Model(x, [y, ReLU()(y)], name="nested")
    one, other = nested(x := keras.Input(SHAPE))
    stays(keras.Model(x, [ReLU()(BatchNormalization()(one)), other]))
    y = Conv2D(4, 3)(x)
    one, other = keras.Model(x, [y, y], name="nested")(x := keras.Input(SHAPE))
    stays(keras.Model(x, [ReLU()(BatchNormalization()(one)), other]))


def test_stays_where_its_input_is_read_twice():
    x = keras.Input((6, 6, 4))
    nested = keras.Model(x, layers.Add()([BatchNormalization()(x), x]), name="nested")
    stays(around(Conv2D(4, 3), nested))
    x = keras.Input((6, 6, 4))
    nested = keras.Model(x, [ReLU()(BatchNormalization()(x)), x], name="nested")
    stays(around(Conv2D(4, 3), nested))


def test_stays_where_the_layer_is_called_elsewhere():
    bn, x = BatchNormalization(), keras.Input(SHAPE)
    y = chain(Conv2D(3, 3, padding="same"), name="nested")(x)
    stays(keras.Model(x, [ReLU()(bn(y)), ReLU()(bn(x))]))


def test_stays_where_it_is_the_output_of_the_model():
    """Which is called as the layer is."""
    model = around(chain(Conv2D(4, 3), name="nested"), BatchNormalization(name="bn"))
    stays(model)


def test_stays_where_the_model_casts():
    nested = chain(Conv2D(4, 3, dtype="float16"), name="nested")
    nested.dtype_policy = keras.DTypePolicy("float16")
    stays(around(nested, BatchNormalization(dtype="float32"), ReLU()))


def test_stays_where_the_border_casts():
    x = keras.Input(SHAPE, dtype="float16")
    y = ReLU(dtype="float16")(Conv2D(4, 3, dtype="float16")(x))
    nested = keras.Model(x, y, name="nested")
    nested.dtype_policy = keras.DTypePolicy("float16")
    stays(around(BatchNormalization(), nested))


def test_stays_where_the_type_changes():
    nested = chain(Conv2D(4, 3), name="nested")
    model = around(layers.Rescaling(1 / 255.0), nested, dtype="uint8")
    fast = kito.optimize(model, ["affine_linear"])
    assert fast.get_layer("nested").inputs[0].dtype == "float32"
    x = np.random.default_rng(0).integers(0, 255, (2, *SHAPE)).astype("uint8")
    np.testing.assert_allclose(fast.predict(x), model.predict(x), rtol=1e-5, atol=1e-6)


def test_stays_where_the_normalization_is_in_training():
    x = keras.Input(SHAPE)
    y = chain(Conv2D(4, 3), name="nested")(x)
    stays(keras.Model(x, ReLU()(BatchNormalization()(y, training=True))))


def test_names_are_free():
    """In each of the models a layer has the name of one in the other."""
    nested = chain(ReLU(name="bn"), Dense(4, name="dense"), shape=(3,), name="nested")
    model = around(nested, BatchNormalization(name="bn"), ReLU(name="dense"), shape=(3,))
    fast = check_rewrites(model, FOLDS, times=1)
    assert [each.name for each in fast.get_layer("nested").layers] == ["bn", "nested_bn"]


def test_many_at_once():
    parts = []
    for _ in range(4):
        parts += [chain(Conv2D(3, 1)), chain(BatchNormalization(), ReLU()), ReLU()]
    check_rewrites(around(*parts), FOLDS, times=4)


def test_sizes_are_those_of_the_graph():
    """The nested model was made for any size."""
    nested = chain(Conv2D(4, 3), shape=(None, None, 3), name="nested")
    fast = check_rewrites(around(nested, BatchNormalization(), ReLU()), FOLDS, times=1)
    assert fast.get_layer("nested").output_shape == (None, None, None, 4)
    assert fast.output_shape == (None, 6, 6, 4)


def test_stays_where_a_mask_runs_through():
    x = keras.Input((5, 3))
    nested = keras.Model(x, Dense(4)(x), name="nested")
    nested.supports_masking = True
    stays(around(layers.Masking(), nested, BatchNormalization(), layers.LSTM(2), shape=(5, 3)))


@keras.saving.register_keras_serializable("test_crossing")
class Block(layers.Layer):
    """In its place there is a nested model."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.bn, self.last = Dense(4), BatchNormalization(), self.at_the_end()

    def at_the_end(self):
        return ReLU()

    def build(self, shape):
        self.dense.build(shape)
        self.bn.build((*shape[:-1], 4))
        self.last.build((*shape[:-1], 4))

    def call(self, x):
        return self.last(self.bn(self.dense(x)))


@keras.saving.register_keras_serializable("test_crossing")
class Normalized(Block):
    def at_the_end(self):
        return BatchNormalization()

    def call(self, x):
        return self.last(ops.relu(self.bn(self.dense(x))))


def test_folds_across_the_border_of_what_is_taken_apart():
    model = around(ReLU(), BatchNormalization(), Block(), shape=(4,))
    fast = check_rewrites(model, RULES, times=2)
    assert not any(isinstance(each, BatchNormalization) for each in fast._flatten_layers())


def test_folds_out_of_what_is_taken_apart():
    fast = check_rewrites(around(Normalized(), Dense(3), shape=(4,)), RULES, times=2)
    assert not any(isinstance(each, BatchNormalization) for each in fast._flatten_layers())


def test_stays_in_front_of_what_keeps_its_class():
    model = randomize(around(BatchNormalization(), Block(), shape=(4,)))
    fast = kito.optimize(model, ["affine_linear"])
    check_equivalent(model, fast)
    assert type(fast.layers[-1]) is Block


def test_a_policy_of_the_nested_model_casts_nothing():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        nested = chain_of_functions(shape=(4,))
    finally:
        keras.config.set_dtype_policy("float32")
    model = around(nested, Dense(3, dtype="mixed_bfloat16"), shape=(4,))
    check_rewrites(model, RULES, times=1)


def chain_of_functions(shape):
    inputs = keras.Input(shape, dtype="float32")
    return keras.Model(inputs, BatchNormalization()(ReLU()(inputs)), name="nested")
