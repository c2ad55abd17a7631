"""Depthwise convolution -> BatchNormalization."""

import keras
import pytest
from keras.layers import BatchNormalization, DepthwiseConv1D, DepthwiseConv2D

from kito.rules.depthwise import depthwise_conv_batchnorm
from kito.testing import check_declines, check_rewrites

RULES = [depthwise_conv_batchnorm]
SHAPES = {DepthwiseConv1D: (9, 3), DepthwiseConv2D: (9, 8, 3)}


def model_of(conv, bn, shape=None):
    return keras.Sequential([keras.Input(shape or SHAPES[type(conv)]), conv, bn])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("depth_multiplier", [1, 2, 3])  # 3 x 3: transposed, it has the same shape
@pytest.mark.parametrize("cls", SHAPES)
def test_folds(cls, depth_multiplier, scale, center, use_bias):
    keras.config.set_dtype_policy("float64")
    conv = cls(3, depth_multiplier=depth_multiplier, use_bias=use_bias)
    bn = BatchNormalization(scale=scale, center=center)
    check_rewrites(model_of(conv, bn), RULES, times=1)


@pytest.mark.parametrize("cls", SHAPES)
@pytest.mark.parametrize(
    "options",
    [{"strides": 2}, {"strides": 2, "padding": "same"}, {"dilation_rate": 2, "padding": "same"}],
    ids=str,
)
def test_folds_whatever_the_geometry(cls, options):
    model = model_of(cls(3, depth_multiplier=2, **options), BatchNormalization())
    check_rewrites(model, RULES, times=1)


def test_folds_channels_first():
    conv = DepthwiseConv2D(3, depth_multiplier=2, data_format="channels_first")
    check_rewrites(model_of(conv, BatchNormalization(axis=1), (3, 9, 9)), RULES, times=1)


def test_declines_an_activation_in_between():
    model = model_of(DepthwiseConv2D(3, activation="relu6"), BatchNormalization())
    check_declines(model, RULES, reason="applies its activation")


def test_declines_another_axis():
    model = model_of(DepthwiseConv2D(3, padding="same"), BatchNormalization(axis=1), (3, 3, 3))
    check_declines(model, RULES, reason="normalizes axis 1")
