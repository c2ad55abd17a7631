"""Where TensorFlow computes wrongly, kito leaves the model as it is."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D, Conv3D, Dropout, LeakyReLU, SeparableConv2D

import kito
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

IMAGE, VOLUME = (8, 8, 4), (6, 6, 6, 4)


def residual(conv, activation, shape=IMAGE, between=None, merge=None):
    inputs = keras.Input(shape)
    x = BatchNormalization()(conv(inputs))
    x = between(x) if between else x
    x = (merge or layers.Add())([x, inputs])
    return keras.Model(inputs, activation(x))


@pytest.mark.parametrize("activation", [LeakyReLU(0.1), layers.ReLU(negative_slope=0.3)])
@pytest.mark.parametrize(
    ("conv", "shape"), [(Conv2D, IMAGE), (Conv3D, VOLUME), (SeparableConv2D, IMAGE)]
)
def test_declines_a_bias_before_an_addition_and_a_leaky_relu(conv, shape, activation):
    model = residual(conv(4, 3, padding="same", use_bias=False), activation, shape)
    check_declines(model, FOLDS, reason="TensorFlow would fuse these")


def test_declines_it_behind_a_dropout():
    conv = Conv2D(4, 3, padding="same", use_bias=False)
    check_declines(
        residual(conv, LeakyReLU(0.1), between=Dropout(0.5)), FOLDS, reason="is a leaky ReLU"
    )


def test_declines_it_with_operations():
    inputs = keras.Input(IMAGE)
    x = BatchNormalization()(Conv2D(4, 1, use_bias=False)(inputs))
    model = keras.Model(inputs, ops.leaky_relu(x + inputs, 0.1))
    check_declines(model, FOLDS, reason="TensorFlow would fuse these")


def test_declines_it_across_the_border_of_a_submodel():
    inner_input = keras.Input(IMAGE)
    x = BatchNormalization()(Conv2D(4, 1, use_bias=False)(inner_input))
    inner = keras.Model(inner_input, x)
    inputs = keras.Input(IMAGE)
    model = keras.Model(inputs, LeakyReLU(0.1)(layers.Add()([inner(inputs), inputs])))
    check_declines(model, FOLDS, reason="TensorFlow would fuse these")


def test_declines_a_bias_before_an_addition_and_mish():
    conv = Conv2D(4, 3, padding="same", use_bias=False)
    check_declines(residual(conv, layers.Activation("mish")), FOLDS, reason="is mish")


@pytest.mark.parametrize("activation", [LeakyReLU(0.2), layers.ReLU(), layers.ELU(0.3)])
def test_folds_before_other_activations(activation):
    check_rewrites(residual(Conv2D(4, 3, padding="same"), activation), FOLDS, times=1)


def test_folds_before_other_merges():
    conv = Conv2D(4, 3, padding="same", use_bias=False)
    check_rewrites(residual(conv, LeakyReLU(0.1), merge=layers.Multiply()), FOLDS, times=1)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a fault of TensorFlow")
def test_tensorflow_still_computes_wrongly():
    # When this fails, TensorFlow is mended and the guard can go.
    inputs = keras.Input(IMAGE)
    x = Conv2D(4, 3, padding="same", bias_initializer="ones")(inputs)
    model = keras.Model(inputs, LeakyReLU(0.01)(layers.Add()([x, inputs])))
    data = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype("float32")
    assert not np.allclose(model.predict_on_batch(data), model(data), atol=1e-3)


@pytest.mark.parametrize("activation", [LeakyReLU(0.1), layers.Activation("mish")])
def test_no_rule_leads_there(activation):
    for bias in (False, True):
        conv = Conv2D(4, 3, padding="same", use_bias=False)
        model = randomize(residual(conv, activation, between=layers.Rescaling(2.0, offset=bias)))
        check_equivalent(model, kito.optimize(model))
