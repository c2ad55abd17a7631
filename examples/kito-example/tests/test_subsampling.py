"""The rule: it fires where it is right to, declines where it is not, and changes no answer."""

import keras
import pytest
from keras.layers import AveragePooling2D, Conv2D, MaxPooling2D
from kito_example.subsampling import example_subsampling_conv

from kito.testing import check_declines, check_rewrites, validate

RULES = [example_subsampling_conv]


def model_of(pool, conv, shape=(9, 9, 4)):
    return keras.Sequential([keras.Input(shape), pool, conv])


@pytest.mark.parametrize("pooling", [AveragePooling2D, MaxPooling2D])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [1, 2, (2, 1)])
def test_the_convolution_takes_the_strides(pooling, padding, strides):
    pool = pooling(1, strides=2, padding=padding)
    fast = check_rewrites(model_of(pool, Conv2D(5, 1, strides=strides)), RULES, times=1)
    [conv] = fast.layers
    across, along = (strides, strides) if isinstance(strides, int) else strides
    assert conv.strides == (2 * across, 2 * along)


def test_sizes_that_are_not_known():
    model = model_of(MaxPooling2D(1, strides=3), Conv2D(5, 1), shape=(None, None, 4))
    check_rewrites(model, RULES, times=1)


def test_a_dilation_that_means_nothing():
    check_rewrites(model_of(MaxPooling2D(1, strides=2), Conv2D(5, 1, dilation_rate=2)), RULES)


@pytest.mark.parametrize(
    ("pool", "conv", "reason"),
    [
        ({}, {"kernel_size": 3}, "conv reads more than one pixel"),
        ({"data_format": "channels_first"}, {}, "pool has its channels on another axis than conv"),
        ({"dtype": "float16"}, {}, "conv turns float16 into float32"),
    ],
)
def test_declines(pool, conv, reason):
    first = AveragePooling2D(1, strides=2, name="pool", **pool)
    second = Conv2D(5, **{"kernel_size": 1, "name": "conv", **conv})
    check_declines(model_of(first, second), RULES, reason=reason)


def test_a_pooling_of_several_pixels_is_no_match():
    with pytest.raises(AssertionError, match="at least one"):
        check_rewrites(model_of(MaxPooling2D(2), Conv2D(5, 1)), RULES)


def test_random_models():
    assert validate(example_subsampling_conv).rewritten
