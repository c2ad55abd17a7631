"""Linear layer -> Rescaling, Normalization or arithmetic with constants."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from keras.layers import Conv2D, Dense, Normalization, Rescaling

from kito import explain
from kito.rules.linear_affine import linear_affine
from kito.testing import check_declines, check_rewrites, randomize
from tests.exact import BOUND, DOUBLE

RULES = [linear_affine]
SHAPES = {1: (9, 3), 2: (9, 8, 3), 3: (6, 7, 8, 3)}
# Each has six filters.
LINEAR = {
    "Conv1D": (1, lambda **options: layers.Conv1D(6, 3, **options)),
    "Conv2D": (2, lambda **options: layers.Conv2D(6, 3, groups=3, **options)),
    "Conv3D": (3, lambda **options: layers.Conv3D(6, 3, **options)),
    "Conv1DTranspose": (1, lambda **options: layers.Conv1DTranspose(6, 3, **options)),
    "Conv2DTranspose": (2, lambda **options: layers.Conv2DTranspose(6, 3, **options)),
    "Conv3DTranspose": (3, lambda **options: layers.Conv3DTranspose(6, 3, **options)),
    "Dense": (2, lambda **options: layers.Dense(6, **options)),
    "DepthwiseConv1D": (
        1,
        lambda **options: layers.DepthwiseConv1D(3, depth_multiplier=2, **options),
    ),
    "DepthwiseConv2D": (
        2,
        lambda **options: layers.DepthwiseConv2D(3, depth_multiplier=2, **options),
    ),
    "SeparableConv1D": (1, lambda **options: layers.SeparableConv1D(6, 3, **options)),
    "SeparableConv2D": (2, lambda **options: layers.SeparableConv2D(6, 3, **options)),
}
VECTOR = np.array([0.5, -2.0, 3.0, 1.0, 0.0, -1.0])


def model_of(linear, function, shape=SHAPES[2], **inputs):
    x = keras.Input(shape, **inputs)
    return keras.Model(x, function(linear(x)))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", LINEAR)
def test_folds(kind, use_bias):
    keras.config.set_dtype_policy(DOUBLE)
    rank, linear = LINEAR[kind]
    affine = Rescaling([*VECTOR], offset=[*-VECTOR], name="affine")
    model = model_of(linear(use_bias=use_bias), affine, SHAPES[rank], dtype=DOUBLE)
    fast = check_rewrites(model, RULES, times=1, tolerance=BOUND)
    assert fast.layers[-1].name == "affine"
    assert fast.layers[-1].use_bias


@pytest.mark.parametrize("kind", LINEAR)
def test_a_scale_needs_no_bias(kind):
    rank, linear = LINEAR[kind]
    fast = check_rewrites(model_of(linear(use_bias=False), Rescaling(2.0), SHAPES[rank]), RULES)
    assert not fast.layers[-1].use_bias


@pytest.mark.parametrize(
    "function",
    [
        lambda x: Normalization(mean=[*VECTOR], variance=[*np.abs(VECTOR) + 0.1])(x),
        lambda x: Normalization(mean=[*VECTOR], variance=[*np.abs(VECTOR) + 0.1], invert=True)(x),
        lambda x: x * VECTOR.astype(DOUBLE),
        lambda x: x + VECTOR.astype(DOUBLE),
        lambda x: x / 3,
        lambda x: 1 - x,
        lambda x: x - 1000,
    ],
)
def test_folds_any_affine_map(function):
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(Dense(6), function, dtype=DOUBLE)
    check_rewrites(model, RULES, times=1, tolerance=BOUND)


def test_folds_several_in_a_row():
    fast = check_rewrites(model_of(Conv2D(4, 3), lambda x: (1 - x * 2) / 3), RULES, times=3)
    assert len(fast.layers) == 2


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(sorted(LINEAR)),
    padding=st.sampled_from(["valid", "same"]),
    strides=st.integers(1, 2),
    numbers=st.lists(st.sampled_from([-3.5, 0.0, 0.25, 2.0]), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_random_layers(kind, padding, strides, numbers, seed):
    keras.config.set_dtype_policy(DOUBLE)
    rank, linear = LINEAR[kind]
    options = {} if kind == "Dense" else {"padding": padding, "strides": strides}
    model = model_of(linear(**options), lambda x: x * np.array(numbers, DOUBLE) + 1, SHAPES[rank])
    check_rewrites(model, RULES, times=2, tolerance=BOUND, seed=seed)


def test_folds_channels_first():
    conv = Conv2D(6, 3, data_format="channels_first")
    model = model_of(conv, lambda x: x * VECTOR.astype("float32")[:, None, None], (3, 9, 11))
    check_rewrites(model, RULES, times=1)


def test_unknown_sizes_stay_unknown():
    model = model_of(Conv2D(4, 3), Rescaling(2.0, 1.0), (None, None, 3))
    assert check_rewrites(model, RULES).output_shape == (None, None, None, 4)


@pytest.mark.parametrize("kind", LINEAR)
def test_declines_an_activation_in_between(kind):
    rank, linear = LINEAR[kind]
    model = model_of(linear(activation="relu"), Rescaling(2.0), SHAPES[rank])
    check_declines(model, RULES, reason="applies its activation (relu) before rescaling")


def test_declines_another_axis():
    constant = np.arange(1, 9, dtype="float32")[:, None]
    model = model_of(Conv2D(6, 3, padding="same"), lambda x: x * constant)
    check_declines(model, RULES, reason="varies along axis 2, the channels are axis 3")


def test_declines_the_last_axis_of_channels_first():
    conv = Conv2D(6, 3, data_format="channels_first")
    model = model_of(conv, lambda x: x * VECTOR.astype("float32"), (3, 9, 8))
    check_declines(model, RULES, reason="varies along axis 3, the channels are axis 1")


@pytest.mark.parametrize(
    ("use_bias", "function"), [(True, lambda x: x * 2), (False, lambda x: x + 2)]
)
def test_declines_channels_first_as_wide_as_deep(use_bias, function):
    # Keras on TensorFlow adds the bias along the width there.
    conv = Conv2D(6, 3, data_format="channels_first", use_bias=use_bias)
    model = randomize(model_of(conv, function, (3, 9, 8)))
    (declined,) = explain(model, RULES).declined
    assert "wrong axis" in declined.reason


def test_a_scale_folds_channels_first_as_wide_as_deep():
    conv = Conv2D(6, 3, data_format="channels_first", use_bias=False)
    check_rewrites(model_of(conv, lambda x: x * 2, (3, 9, 8)), RULES, times=1)


@pytest.mark.skipif(DOUBLE != "float64", reason="Keras has no float64 operations here")
def test_declines_a_change_of_dtype():
    check_declines(
        model_of(Dense(6), lambda x: x * VECTOR), RULES, reason="turns float32 into float64"
    )


def test_declines_a_layer_of_another_dtype():
    model = model_of(Dense(6), Rescaling(2.0, dtype="float64"))
    check_declines(model, RULES, reason="turns float32 into float64")


def test_declines_a_larger_shape():
    model = model_of(Dense(1), lambda x: x * VECTOR.astype("float32"))
    check_declines(model, RULES, reason="turns the shape")


def test_declines_a_scale_that_float16_has_not():
    keras.config.set_dtype_policy("float16")
    check_declines(model_of(Dense(4), Rescaling(1000.0)), RULES, reason="range of float16")


def test_declines_an_output_that_is_used_as_well():
    x = keras.Input((9,))
    y = Dense(3, name="dense")(x)
    model = keras.Model(x, [y, Rescaling(2.0)(y)])
    check_declines(model, RULES, reason="dense is an output of the model")


def test_declines_a_mask_that_ends_there():
    x = keras.Input((5,), dtype="int32")
    y = Dense(3)(layers.Embedding(7, 4, mask_zero=True)(x)) * 2.0
    y = layers.GlobalAveragePooling1D()(y)
    check_declines(keras.Model(x, y), RULES, reason="a mask runs through dense")


def test_does_not_match_a_product_of_tensors():
    x = keras.Input((9,))
    report = explain(keras.Model(x, Dense(9)(x) * x), RULES)
    assert not report.applied
    assert not report.declined


def test_does_not_match_a_subclass():
    class Squared(Dense):
        def call(self, inputs):
            return super().call(inputs) ** 2

    report = explain(model_of(Squared(3), Rescaling(2.0)), RULES)
    assert not report.applied
    assert not report.declined
