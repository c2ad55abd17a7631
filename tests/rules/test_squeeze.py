"""Convolution with one position -> Dense."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import Conv1D, Conv2D, Conv3D, Dense, Reshape

from kito import explain
from kito.rules.squeeze import squeeze_dense
from kito.testing import check_declines, check_rewrites

# Keras 3.15 on PyTorch gives a product of float64 matrices as float32.
FLOAT64 = "float32" if keras.backend.backend() == "torch" else "float64"
RULES = [squeeze_dense]


def model_of(conv, shape):
    return keras.Sequential([keras.Input(shape), conv])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("cls", "shape"), [(Conv1D, (1, 3)), (Conv2D, (1, 1, 3)), (Conv3D, (1, 1, 1, 3))]
)
def test_one_position_is_a_dense_layer(cls, shape, padding, use_bias):
    keras.config.set_dtype_policy(FLOAT64)
    conv = cls(4, 1, padding=padding, use_bias=use_bias, activation="softmax", name="conv")
    fast = check_rewrites(model_of(conv, shape), RULES, times=1)
    [layer] = fast.layers
    assert type(layer) is Dense
    assert layer.name == "conv"


@pytest.mark.parametrize(
    ("cls", "shape"), [(Conv1D, (5, 3)), (Conv2D, (4, 5, 3)), (Conv3D, (2, 3, 4, 3))]
)
def test_a_window_that_covers_the_input_is_a_dense_layer(cls, shape):
    keras.config.set_dtype_policy(FLOAT64)
    conv = cls(6, shape[:-1], activation="relu", name="conv")
    fast = check_rewrites(model_of(conv, shape), RULES, times=1)
    assert [type(layer) for layer in fast.layers] == [Reshape, Dense]
    assert [layer.name for layer in fast.layers] == ["conv_row", "conv"]


def test_works_in_squeeze_and_excitation():
    x = keras.Input((8, 8, 6))
    squeezed = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    squeezed = Conv2D(2, 1, activation="silu")(squeezed)
    excited = Conv2D(6, 1, activation="sigmoid")(squeezed)
    model = keras.Model(x, keras.layers.Multiply()([x, excited]))
    check_rewrites(model, RULES, times=2)


@settings(max_examples=10, deadline=None)
@given(
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.integers(1, 4),
    filters=st.integers(1, 4),
)
def test_any_window(window, channels, filters):
    keras.config.set_dtype_policy(FLOAT64)
    model = model_of(Conv2D(filters, window), (*window, channels))
    check_rewrites(model, RULES, times=1)


def test_is_not_used_unless_named():
    assert not squeeze_dense.is_default("tensorflow")


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (Conv2D(4, 3), (4, 3, 3)),
        (Conv2D(4, 1), (None, None, 3)),
        (Conv2D(4, 1, padding="same"), (1, 2, 3)),
    ],
)
def test_does_not_mention_other_sizes(conv, shape):
    report = explain(model_of(conv, shape), RULES)
    assert not report.applied
    assert not report.declined


def test_declines_a_window_that_reads_padding():
    model = model_of(Conv2D(4, 3, padding="same"), (1, 1, 3))
    check_declines(model, RULES, reason="reads padding")


def test_declines_strides_that_leave_a_part_unread():
    model = model_of(Conv2D(4, 2, strides=2), (3, 3, 3))
    check_declines(model, RULES, reason="may not read its whole input")


def test_declines_a_dilation():
    model = model_of(Conv2D(4, 2, dilation_rate=2), (3, 3, 3))
    check_declines(model, RULES, reason="may not read its whole input")


def test_declines_groups():
    check_declines(model_of(Conv2D(4, 1, groups=2), (1, 1, 4)), RULES, reason="has groups")


def test_declines_channels_first():
    conv = Conv2D(4, 1, data_format="channels_first")
    check_declines(model_of(conv, (3, 1, 1)), RULES, reason="is channels_first")


@pytest.mark.filterwarnings("ignore:Layer 'conv1d'")
def test_declines_a_mask_that_the_dense_layer_would_pass_on():
    x = keras.Input((1, 3))
    model = keras.Model(x, Conv1D(4, 1)(keras.layers.Masking()(x)))
    check_declines(model, RULES, reason="a mask runs through")
