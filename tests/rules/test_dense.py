"""Dense -> BatchNormalization."""

import keras
import pytest
from keras.layers import BatchNormalization, Dense

from kito.rules.dense import dense_batchnorm
from kito.testing import check_declines, check_rewrites

RULES = [dense_batchnorm]


def model_of(dense, bn, shape=(4,)):
    return keras.Sequential([keras.Input(shape), dense, bn])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (None, 4), (2, 3, 4)])
def test_folds(shape, scale, center, use_bias):
    keras.config.set_dtype_policy("float64")
    bn = BatchNormalization(scale=scale, center=center)
    check_rewrites(model_of(Dense(4, use_bias=use_bias), bn, shape), RULES, times=1)


def test_declines_an_activation_in_between():
    model = model_of(Dense(4, activation="relu"), BatchNormalization())
    check_declines(model, RULES, reason="applies its activation")


def test_declines_another_axis():
    model = model_of(Dense(4), BatchNormalization(axis=1), (4, 4))
    check_declines(model, RULES, reason="normalizes axis 1, the channels of dense are axis 2")
