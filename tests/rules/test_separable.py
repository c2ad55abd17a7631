"""Separable convolution -> BatchNormalization."""

import keras
import pytest
from keras.layers import BatchNormalization, SeparableConv1D, SeparableConv2D

from kito.rules.separable import separable_conv_batchnorm
from kito.testing import check_declines, check_rewrites

RULES = [separable_conv_batchnorm]
SHAPES = {SeparableConv1D: (9, 3), SeparableConv2D: (9, 8, 3)}


def model_of(conv, bn, shape=None):
    return keras.Sequential([keras.Input(shape or SHAPES[type(conv)]), conv, bn])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("depth_multiplier", [1, 2])
@pytest.mark.parametrize("cls", SHAPES)
def test_folds(cls, depth_multiplier, scale, center, use_bias):
    keras.config.set_dtype_policy("float64")
    # 3 * depth_multiplier filters: the pointwise kernel is square
    conv = cls(3 * depth_multiplier, 3, depth_multiplier=depth_multiplier, use_bias=use_bias)
    bn = BatchNormalization(scale=scale, center=center)
    check_rewrites(model_of(conv, bn), RULES, times=1)


@pytest.mark.parametrize("cls", SHAPES)
@pytest.mark.parametrize(
    "options",
    [{"strides": 2}, {"strides": 2, "padding": "same"}, {"dilation_rate": 2, "padding": "same"}],
    ids=str,
)
def test_folds_whatever_the_geometry(cls, options):
    check_rewrites(model_of(cls(5, 3, **options), BatchNormalization()), RULES, times=1)


def test_folds_channels_first():
    conv = SeparableConv2D(5, 3, data_format="channels_first")
    check_rewrites(model_of(conv, BatchNormalization(axis=1), (3, 9, 9)), RULES, times=1)


def test_declines_an_activation_in_between():
    model = model_of(SeparableConv2D(5, 3, activation="relu"), BatchNormalization())
    check_declines(model, RULES, reason="applies its activation")


def test_declines_another_axis():
    model = model_of(SeparableConv2D(5, 3, padding="same"), BatchNormalization(axis=1), (5, 5, 3))
    check_declines(model, RULES, reason="normalizes axis 1")
