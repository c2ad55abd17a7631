"""TimeDistributed(Dense) -> Dense."""

import keras
import pytest
from keras.layers import BatchNormalization, Dense, LayerNormalization, Masking, TimeDistributed

import kito
from kito.rules.time_distributed_dense import time_distributed_dense
from kito.testing import check_declines, check_rewrites, randomize

RULES = [time_distributed_dense]


def model_of(layer, shape=(5, 3), **options):
    return keras.Sequential([keras.Input(shape), TimeDistributed(layer, name="steps", **options)])


@pytest.mark.parametrize("shape", [(5, 3), (None, 3), (5, 2, 3), (None, None, 3)])
def test_unwraps(shape):
    fast = check_rewrites(model_of(Dense(4, activation="tanh"), shape), RULES, times=1)
    assert type(fast.layers[0]) is Dense
    assert fast.layers[0].name == "steps"


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16", "mixed_float16"])
def test_unwraps_in_all_dtypes(dtype):
    model = model_of(Dense(4, dtype=dtype), dtype=dtype)
    check_rewrites(model, RULES, times=1)


def test_a_mask_passes():
    inputs = keras.Input((5, 3))
    x = TimeDistributed(Dense(4))(Masking()(inputs))
    model = keras.Model(inputs, keras.layers.LSTM(2)(x))
    check_rewrites(model, RULES, times=1)


def test_opens_the_way_for_folds():
    model = keras.Sequential(
        [keras.Input((5, 3)), BatchNormalization(), TimeDistributed(Dense(4)), BatchNormalization()]
    )
    assert [type(layer) for layer in check_rewrites(model).layers] == [Dense]


def test_a_shared_layer_stays_one():
    steps, inputs = TimeDistributed(Dense(3)), keras.Input((5, 3))
    model = randomize(keras.Model(inputs, steps(steps(inputs))))
    fast = check_rewrites(model, RULES, times=2)
    assert fast.count_params() == model.count_params()


@pytest.mark.parametrize(
    ("inner", "outer"), [("float64", "float32"), ("mixed_bfloat16", "float32")]
)
def test_declines_another_dtype(inner, outer):
    model = model_of(Dense(4, dtype=inner, name="dense"), dtype=outer)
    check_declines(model, RULES, reason="dense in steps computes in another dtype")


@keras.saving.register_keras_serializable("test_time_distributed_dense")
def over_units(x):
    return keras.ops.softmax(x, axis=1)


@keras.saving.register_keras_serializable("test_time_distributed_dense")
def below_the_largest(x):
    return x - keras.ops.max(x)


@pytest.mark.parametrize("function", [over_units, below_the_largest, keras.layers.Softmax(axis=1)])
def test_declines_activations_of_several_axes(function):
    model = model_of(Dense(4, activation=function, name="dense"))
    check_declines(model, RULES, reason="the activation of dense in steps may tell")


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float64"])
def test_declines_another_dtype_next_to_a_normalization(dtype):
    model = model_of(Dense(4, dtype=dtype, name="dense"), dtype="float32")
    model.add(BatchNormalization())
    report = kito.Report()
    kito.optimize(randomize(model), report=report, strict=True)
    assert not report.applied


def test_other_layers_stay():
    model = model_of(LayerNormalization())
    assert not kito.explain(model, RULES).applied
