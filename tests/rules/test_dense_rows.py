import keras
import pytest
from keras import layers
from keras.layers import Dense

import kito
from kito.rules.dense_rows import dense_rows
from kito.testing import check_declines, check_rewrites

RULES = [dense_rows]


def model_of(dense, shape=(6, 4), **options):
    inputs = keras.Input(shape, **options)
    return keras.Model(inputs, dense(inputs))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 4), (2, 3, 2, 4)])
def test_runs_on_rows(shape, use_bias):
    fast = check_rewrites(
        model_of(Dense(5, activation="gelu", use_bias=use_bias, name="d"), shape), RULES, times=1
    )
    (dense,) = (layer for layer in fast.layers if isinstance(layer, Dense))
    assert len(dense.input.shape) == 2
    assert fast.output_shape == (None, *shape[:-1], 5)
    assert fast.output_names == ["d"]


def test_a_fixed_batch_stays_fixed():
    inputs = keras.Input(batch_shape=(2, 6, 4))
    fast = check_rewrites(keras.Model(inputs, Dense(5, activation="gelu")(inputs)), RULES)
    assert fast.output_shape == (2, 6, 5)


def test_waits_for_the_rules_that_fold_into_the_layer():
    inputs = keras.Input((6, 4))
    x = layers.LayerNormalization()(inputs)
    x = layers.Activation("gelu")(layers.BatchNormalization()(Dense(5)(x)))
    rules = [
        "dense_batchnorm",
        "layer_normalization_dense",
        "linear_activation",
        dense_rows,
    ]
    fast = check_rewrites(keras.Model(inputs, x), rules, times=4)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in fast.layers)


@pytest.mark.parametrize("activation", ["relu", "silu", None])
def test_leaves_other_activations_alone(activation):
    assert not kito.explain(model_of(Dense(5, activation=activation)), RULES).applied


def test_leaves_rows_alone():
    assert not kito.explain(model_of(Dense(5, activation="gelu"), (4,)), RULES).applied


def test_declines_sizes_that_are_not_known():
    model = model_of(Dense(5, activation="gelu", name="d"), (None, 4))
    check_declines(model, RULES, reason="the sizes of d's output are not known")


def test_declines_what_is_empty():
    model = model_of(Dense(5, activation="gelu", name="d"), (0, 4))
    [declined] = kito.explain(model, RULES).declined
    assert declined.reason == "the output of d is empty"


def test_declines_other_precisions():
    model = model_of(Dense(5, activation="gelu", dtype="float64", name="d"))
    check_declines(model, RULES, reason="d computes in float64")


def test_declines_a_mask():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.LSTM(3)(Dense(5, activation="gelu")(x)))
    check_declines(model, RULES, reason="a mask runs through dense")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a function of TensorFlow")
def test_the_gelu_of_tensorflow_is_that_of_keras():
    import tensorflow as tf

    check_rewrites(model_of(Dense(5, activation=tf.nn.gelu)), RULES, times=1)
