"""Layers and models that are called more than once."""

import keras
import pytest
from keras import layers
from keras.layers import BatchNormalization, Conv2D, Dense

import kito
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

SHAPE = (8, 8, 3)


def inputs_of(count, shape=SHAPE):
    return [keras.Input(shape, name=f"input_{index}") for index in range(count)]


def test_a_pair_that_is_called_twice_is_folded_once():
    inputs = inputs_of(2)
    conv, bn = Conv2D(4, 3), BatchNormalization(name="bn")
    model = keras.Model(inputs, [bn(conv(x)) for x in inputs])
    fast = check_rewrites(model, FOLDS, times=2)
    assert fast.count_params() == model.count_params() - 16
    assert fast.output_names == ["bn", "bn"]


def test_a_pair_that_is_called_on_other_sizes():
    inputs = [keras.Input((8, 8, 3)), keras.Input((16, 12, 3))]
    conv, bn = Conv2D(4, 3), BatchNormalization()
    model = keras.Model(inputs, [bn(conv(x)) for x in inputs])
    assert check_rewrites(model, FOLDS, times=2).count_params() == model.count_params() - 16


def test_a_pair_that_is_called_on_its_own_output():
    inputs = keras.Input(SHAPE)
    conv, bn = Conv2D(3, 3, padding="same"), BatchNormalization()
    x = inputs
    for _ in range(3):
        x = keras.ops.relu(bn(conv(x)))
    model = keras.Model(inputs, x)
    assert check_rewrites(model, FOLDS, times=3).count_params() == model.count_params() - 12


@pytest.mark.parametrize("times", [2, 3, 4])
@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: layers.Dropout(0.3), "identities"),
        (lambda: layers.Reshape(SHAPE), "same_shape"),
        (lambda: layers.ZeroPadding2D(1), "padding_padding"),
        (lambda: layers.Rescaling(2.0, offset=0.1), "affine_affine"),
        (lambda: Dense(3), "linear_linear"),
    ],
)
def test_a_layer_that_is_called_on_its_own_output(make, rule, times):
    layer = make()
    inputs = x = keras.Input(SHAPE)
    for _ in range(times):
        x = layer(x)
    model = keras.Model(inputs, layers.ReLU()(x))
    gone = times if rule in ("identities", "same_shape") else times - 1
    check_rewrites(model, [rule], times=gone)


def test_one_normalization_after_two_convolutions():
    inputs = inputs_of(2)
    bn = BatchNormalization(name="bn")
    convs = [Conv2D(4, 3, name="one"), Conv2D(4, 3, name="two")]
    outputs = [layers.ReLU()(bn(conv(x))) for conv, x in zip(convs, inputs, strict=True)]
    model = keras.Model(inputs, outputs)
    assert check_rewrites(model, FOLDS, times=2).count_params() == model.count_params() - 16


def test_a_small_convolution_with_two_normalizations_is_copied():
    inputs = inputs_of(2)
    conv = Conv2D(4, 1, name="conv")  # 16 weights, and 8 * 8 * 4 elements are saved
    model = keras.Model(inputs, [BatchNormalization()(conv(x)) for x in inputs])
    check_rewrites(model, FOLDS, times=2)
    report = kito.Report()
    kito.optimize(model, FOLDS, report=report)
    assert sum(row.parameters for row in report.applied) == -2 * 16 + 16


def test_a_large_convolution_with_two_normalizations_stays_shared():
    inputs = inputs_of(2, (4, 4, 64))
    conv = Conv2D(64, 3, name="conv")  # 36,928 weights, and 2 * 2 * 64 elements would be saved
    model = keras.Model(inputs, [BatchNormalization()(conv(x)) for x in inputs])
    fast = check_declines(
        model, FOLDS, reason="conv is called 2 times; a copy for this call would add"
    )
    assert fast.count_params() == model.count_params()


def test_a_head_over_five_levels_is_copied_only_where_it_pays():
    sizes = [64, 32, 16, 8, 4]
    inputs = [keras.Input((size, size, 8), name=f"p{size}") for size in sizes]
    conv = Conv2D(8, 3, padding="same")  # 584 weights
    model = keras.Model(inputs, [BatchNormalization()(conv(x)) for x in inputs])
    # 64 x 64 x 8, 32 x 32 x 8 and 16 x 16 x 8 elements are more than the weights; so are none of
    # 8 x 8 x 8 and 4 x 4 x 8
    check_rewrites(model, FOLDS, times=3)


@pytest.mark.parametrize("is_output", [False, True])
def test_each_call_of_a_convolution_has_an_activation_of_its_own(is_output):
    inputs = [keras.Input((size, size, 16)) for size in (32, 16, 8)]
    conv = Conv2D(16, 3, padding="same", name="conv")
    outputs = [layers.ReLU(name=f"relu_{number}")(conv(x)) for number, x in enumerate(inputs)]
    if not is_output:
        outputs = [layers.GlobalMaxPooling2D()(x) for x in outputs]
    model = keras.Model(inputs, outputs)
    fast = check_rewrites(model, ["linear_activation"], times=3)
    assert fast.count_params() == model.count_params()
    assert fast.output_names == model.output_names


def test_calls_of_a_convolution_with_other_activations_stay_apart():
    inputs = [keras.Input((size, size, 16)) for size in (16, 16, 8, 8)]
    conv = Conv2D(16, 3, padding="same", name="conv")
    names = ("relu", "tanh", "relu", "tanh")
    outputs = [layers.Activation(name)(conv(x)) for name, x in zip(names, inputs, strict=True)]
    model = keras.Model(inputs, [layers.GlobalMaxPooling2D()(x) for x in outputs])
    fast = check_rewrites(model, ["linear_activation"], times=4)
    kernels = [each for each in fast.layers if isinstance(each, Conv2D)]
    assert len(kernels) == 2


def test_sizes_that_are_not_known_count_as_one():
    inputs = inputs_of(2, (None, None, 16))
    conv = Conv2D(16, 3)
    model = keras.Model(inputs, [BatchNormalization()(conv(x)) for x in inputs])
    check_declines(model, FOLDS, reason="would add")


def test_a_convolution_that_is_normalized_in_one_call_only():
    inputs = inputs_of(2, (4, 4, 64))
    conv = Conv2D(64, 3, name="conv")
    model = keras.Model(inputs, [BatchNormalization()(conv(inputs[0])), conv(inputs[1])])
    check_declines(model, FOLDS, reason="conv is called 2 times")


def test_a_layer_shared_between_a_model_and_its_submodel():
    conv = Conv2D(64, 3, padding="same", name="conv")
    inner_input = keras.Input((4, 4, 64))
    inner = keras.Model(inner_input, conv(inner_input), name="inner")
    inputs = keras.Input((4, 4, 64))
    model = keras.Model(inputs, BatchNormalization()(conv(inner(inputs))))
    fast = check_declines(model, FOLDS, reason="conv is called 2 times")
    assert fast.count_params() == model.count_params()


def test_a_submodel_that_is_called_twice_is_one_model():
    inner_input = keras.Input(SHAPE)
    inner = keras.Model(
        inner_input, BatchNormalization()(Conv2D(3, 3, padding="same")(inner_input))
    )
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, inner(layers.ReLU()(inner(inputs))))
    assert check_rewrites(model, FOLDS, times=1).count_params() == 84


def test_a_submodel_shared_by_two_others():
    core_input = keras.Input(SHAPE)
    core = keras.Model(core_input, BatchNormalization()(Dense(3)(core_input)), name="core")

    def around(name):
        inputs = keras.Input(SHAPE)
        return keras.Model(inputs, layers.ReLU()(core(inputs)), name=name)

    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, [around("left")(inputs), around("right")(inputs)])
    assert check_rewrites(model, FOLDS, times=1).count_params() == 12


@pytest.mark.parametrize("bns", [1, 2])
def test_shared_layers_that_do_not_change_stay_shared(bns):
    inputs = inputs_of(2)
    dense = Dense(7, activation="relu")
    norms = [BatchNormalization() for _ in range(bns)]
    outputs = [norms[index % bns](dense(x)) for index, x in enumerate(inputs)]
    model = keras.Model(inputs, outputs)
    fast = check_declines(model, FOLDS, reason="applies its activation")
    assert fast.count_params() == model.count_params()


@keras.saving.register_keras_serializable("test_sharing")
class Row(layers.Layer):
    def __init__(self, parts, **options):
        super().__init__(**options)
        self.parts = list(parts)

    def get_config(self):
        parts = [keras.saving.serialize_keras_object(part) for part in self.parts]
        return {**super().get_config(), "parts": parts}

    @classmethod
    def from_config(cls, config):
        parts = [keras.saving.deserialize_keras_object(part) for part in config.pop("parts")]
        return cls(parts, **config)

    def build(self, shape):
        for part in self.parts:
            if not part.built:
                part.build(shape)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def in_a_sequential(*row):
    return keras.Sequential([keras.Input(SHAPE), *row])


def around(*row):
    x = inputs = keras.Input(SHAPE)
    for layer in row:
        x = layer(x)
    return keras.Model(inputs, x)


def check_loads(model, folder):
    """Check the result, that it loads, and that a second run finds nothing."""
    randomize(model).save(folder / "model.keras")
    keras.saving.load_model(folder / "model.keras")
    report = kito.Report()
    fast = kito.optimize(model, report=report, strict=True)
    assert not report.notes
    check_equivalent(model, fast)
    fast.save(folder / "fast.keras")
    check_equivalent(fast, keras.saving.load_model(folder / "fast.keras"))
    assert not kito.explain(fast).applied
    return fast


def around_and_inside():
    row = Row([Conv2D(3, 1), layers.ReLU()], name="row")
    inside = in_a_sequential(Row([Conv2D(3, 1), row], name="outer"))
    return around(row, layers.ReLU(), inside)


def on_two_levels():
    bn = BatchNormalization()
    return around(Row([bn, Row([bn]), layers.ReLU()]))


def in_a_sequential_too():
    bn = BatchNormalization()
    return around(Row([bn, Row([in_a_sequential(Conv2D(3, 1), bn)])]))


@pytest.mark.parametrize("make", [around_and_inside, on_two_levels, in_a_sequential_too])
def test_composites_that_share_are_copied_as_they_are(make, tmp_path):
    model = make()
    fast = check_loads(model, tmp_path)
    assert [type(layer) for layer in fast.layers] == [type(layer) for layer in model.layers]
    assert fast.count_params() == model.count_params()


@keras.saving.register_keras_serializable("test_sharing")
class Tagged(Row):
    """Its configuration lacks what it is tagged with, so nobody can copy it."""

    def __init__(self, parts, tag=None, **options):
        super().__init__(parts, **options)
        self.tag = tag


def two_that_nobody_copies():
    conv = Conv2D(3, 1)
    inside = Tagged([conv, layers.Softmax()], tag=2)
    return around(Tagged([conv, layers.Softmax(), inside], tag=1), Conv2D(3, 1))


def a_sequential_in_one_that_nobody_copies():
    conv = Conv2D(3, 1)
    inside = Row([in_a_sequential(conv, layers.Softmax())])
    return around(Tagged([conv, layers.Softmax(), inside], tag=1), Conv2D(3, 1))


def a_sequential_in_one_with_a_fold():
    conv = Conv2D(3, 1)
    inside = in_a_sequential(conv, layers.Softmax())
    return around(Row([Conv2D(3, 1), BatchNormalization(), conv, layers.Softmax(), inside]))


def a_fold_in_one_that_a_model_shares():
    row = Row([Conv2D(3, 1), layers.ReLU()], name="row")
    folds = Row([Conv2D(3, 1), BatchNormalization(), layers.Softmax(), row], name="folds")
    return around(row, layers.Softmax(), in_a_sequential(folds))


@pytest.mark.parametrize(
    "make",
    [
        two_that_nobody_copies,
        a_sequential_in_one_that_nobody_copies,
        a_sequential_in_one_with_a_fold,
    ],
)
def test_what_takes_the_place_of_composites_that_share_can_be_loaded(make, tmp_path):
    fast = check_loads(make(), tmp_path)
    assert not any(isinstance(layer, Row) for layer in fast.layers)


def test_a_composite_stays_that_shares_a_layer_with_a_model_of_the_user(tmp_path):
    """Of what takes its place Keras would load none."""
    model = a_fold_in_one_that_a_model_shares()
    report = kito.Report()
    fast = kito.optimize(randomize(model), report=report, strict=True)
    assert "a model calls a layer that it calls too" in report.notes[0]
    check_equivalent(model, fast)
    fast.save(tmp_path / "fast.keras")
    check_equivalent(fast, keras.saving.load_model(tmp_path / "fast.keras"))
    assert fast.count_params() == model.count_params()
    assert kito.optimize(model, savable=False).count_params() < model.count_params()


def folding(activation):
    return [layers.Conv2D(3, 1), layers.BatchNormalization(), activation]


ROWS = {
    "behind": lambda act: [act, Row(folding(act))],
    "before": lambda act: [Row(folding(act)), act],
    "both": lambda act: [Row(folding(act)), Row(folding(act))],
    "inside": lambda act: [act, Row([Row(folding(act)), *folding(act)]), act],
    "sequential": lambda act: [
        act,
        Row([keras.Sequential([keras.Input((8, 8, 3)), *folding(act)]), act]),
    ],
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_an_activation_that_models_and_composites_share(row, tmp_path):
    """It has no weights; Keras loads it wrongly, or not, where two models call it."""
    x = inputs = keras.Input((8, 8, 3))
    for layer in row(layers.LeakyReLU(0.1)):
        x = layer(x)
    model = keras.Model(inputs, x)
    fast = check_rewrites(model, FOLDS)
    fast.save(tmp_path / "fast.keras")
    check_equivalent(model, keras.saving.load_model(tmp_path / "fast.keras"))
