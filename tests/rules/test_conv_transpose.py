"""Transposed convolution -> BatchNormalization."""

import keras
import pytest
from keras.layers import BatchNormalization, Conv1DTranspose, Conv2DTranspose, Conv3DTranspose

from kito.rules.conv_transpose import conv_transpose_batchnorm
from kito.testing import check_declines, check_rewrites

RULES = [conv_transpose_batchnorm]
SHAPES = {Conv1DTranspose: (5, 4), Conv2DTranspose: (5, 4, 4), Conv3DTranspose: (3, 4, 5, 4)}


def model_of(conv, bn, shape=None):
    return keras.Sequential([keras.Input(shape or SHAPES[type(conv)]), conv, bn])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("filters", [4, 6])  # 4 in and 4 out: a swapped axis has the same shape
@pytest.mark.parametrize("cls", SHAPES)
def test_folds(cls, filters, scale, center, use_bias):
    keras.config.set_dtype_policy("float64")
    bn = BatchNormalization(scale=scale, center=center)
    check_rewrites(model_of(cls(filters, 3, use_bias=use_bias), bn), RULES, times=1)


@pytest.mark.parametrize("cls", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2},
        {"strides": 2, "padding": "same"},
        {"padding": "same"},
        {"strides": 3, "padding": "same", "output_padding": 1},
    ],
    ids=str,
)
def test_folds_whatever_the_geometry(cls, options):
    check_rewrites(model_of(cls(6, 3, **options), BatchNormalization()), RULES, times=1)


def test_folds_channels_first():
    conv = Conv2DTranspose(6, 3, data_format="channels_first")
    check_rewrites(model_of(conv, BatchNormalization(axis=1), (4, 5, 5)), RULES, times=1)


def test_declines_an_activation_in_between():
    model = model_of(Conv2DTranspose(4, 3, activation="relu"), BatchNormalization())
    check_declines(model, RULES, reason="applies its activation")


def test_declines_another_axis():
    conv = Conv2DTranspose(5, 3, padding="same")
    model = model_of(conv, BatchNormalization(axis=2), (5, 5, 5))
    check_declines(model, RULES, reason="normalizes axis 2")
