"""Linear layers -> Concatenate -> BatchNormalization."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from keras.layers import BatchNormalization, Concatenate, Conv2D, Dense

from kito import explain
from kito.rules.concatenate_batchnorm import concatenate_batchnorm
from kito.testing import check_declines, check_rewrites
from tests.exact import BOUND, DOUBLE

RULES = [concatenate_batchnorm]


def model_of(*branches, axis=-1, bn=None, shape=(9, 8, 3)):
    x = keras.Input(shape)
    joined = Concatenate(axis=axis, name="concat")([branch(x) for branch in branches])
    return keras.Model(x, (bn or BatchNormalization(epsilon=0.1, name="bn"))(joined))


def test_folds():
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(
        Conv2D(5, 3, padding="same", use_bias=False, name="one"),
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="two"),
        layers.SeparableConv2D(4, 3, padding="same", name="three"),
        layers.Conv2DTranspose(2, 3, padding="same", name="four"),
        Dense(1, name="five"),
    )
    fast = check_rewrites(model, RULES, times=1, tolerance=BOUND)
    names = {layer.name for layer in fast.layers[1:]}
    assert names == {"one", "two", "three", "four", "five", "bn"}
    assert type(fast.get_layer("bn")) is Concatenate


@pytest.mark.parametrize("axis", [-1, 3])
def test_folds_behind_the_operation(axis):
    x = keras.Input((9, 8, 3))
    joined = keras.ops.concatenate([Dense(2)(x), Conv2D(4, 3, padding="same")(x)], axis=axis)
    model = keras.Model(x, layers.ReLU()(BatchNormalization()(joined)))
    check_rewrites(model, RULES, times=1)


def test_declines_the_operation_along_another_axis():
    x = keras.Input((9, 8, 3))
    joined = keras.ops.concatenate([Dense(2)(x), Dense(2)(x)], axis=1)
    model = keras.Model(x, layers.ReLU()(BatchNormalization()(joined)))
    check_declines(model, RULES, reason="normalizes axis 3")


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_folds_whatever_the_normalization_has(scale, center):
    model = model_of(Dense(2), Dense(3), bn=BatchNormalization(scale=scale, center=center))
    check_rewrites(model, RULES, times=1)


def test_folds_channels_first():
    options = {"data_format": "channels_first", "padding": "same"}
    model = model_of(
        Conv2D(4, 3, **options),
        Conv2D(5, 1, **options),
        axis=1,
        bn=BatchNormalization(axis=1),
        shape=(3, 9, 11),
    )
    check_rewrites(model, RULES, times=1)


def test_folds_an_axis_that_is_given_from_the_front():
    model = model_of(Dense(2), Dense(3), axis=3, bn=BatchNormalization(axis=-1))
    check_rewrites(model, RULES, times=1)


def test_unknown_sizes_stay_unknown():
    model = model_of(Conv2D(4, 1), Conv2D(5, 1), shape=(None, None, 3))
    assert check_rewrites(model, RULES, times=1).output_shape == (None, None, None, 9)


def test_folds_several_in_a_row():
    x = keras.Input((9,))
    y = Concatenate()([Dense(2)(x), Dense(3)(x)])
    model = keras.Model(x, BatchNormalization()(BatchNormalization()(y)))
    check_rewrites(model, RULES, times=2)


@settings(max_examples=12, deadline=None)
@given(
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    window=st.integers(1, 3),
    use_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_widths(widths, window, use_bias, seed):
    keras.config.set_dtype_policy(DOUBLE)
    convs = [Conv2D(width, window, use_bias=use_bias) for width in widths]
    check_rewrites(model_of(*convs), RULES, times=1, tolerance=BOUND, seed=seed)


def test_declines_an_activation_of_one_branch():
    model = model_of(Dense(2), Dense(3, activation="relu", name="first"))
    check_declines(model, RULES, reason="first applies its activation (relu) before bn")


def test_declines_another_axis_of_the_normalization():
    model = model_of(Dense(2), Dense(2), bn=BatchNormalization(axis=1, name="bn"))
    check_declines(model, RULES, reason="bn normalizes axis 1, concat joins axis 3")


def test_declines_another_axis_of_the_layers():
    model = model_of(Dense(3), Dense(3), axis=1, bn=BatchNormalization(axis=1, name="bn"))
    check_declines(model, RULES, reason="bn normalizes axis 1, the channels of dense are axis 3")


def test_declines_channels_first_as_wide_as_deep():
    # Keras on TensorFlow adds the bias along the width there.
    options = {"data_format": "channels_first", "padding": "same", "use_bias": False}
    model = model_of(
        Conv2D(4, 3, **options),
        Conv2D(8, 1, **options),
        axis=1,
        bn=BatchNormalization(axis=1),
        shape=(3, 9, 8),
    )
    check_declines(model, RULES, reason="wrong axis")


def test_declines_a_change_of_dtype():
    model = model_of(Dense(2), Dense(3), bn=BatchNormalization(dtype="float64", name="bn"))
    check_declines(model, RULES, reason="bn turns float32 into float64")


def test_declines_branches_of_several_dtypes():
    # Concatenate casts; the layers before it would round scale and shift.
    x = keras.Input((9,))
    dense = [Dense(2, dtype="float16"), Dense(2)]
    model = keras.Model(x, BatchNormalization()(Concatenate()([layer(x) for layer in dense])))
    check_declines(model, RULES, reason="turns float16 into float32")


def test_declines_statistics_that_are_not_finite():
    model = model_of(Dense(1), Dense(1), bn=BatchNormalization(epsilon=1e-3))
    model.layers[-1].moving_variance.assign([-1.0, 1.0])
    (declined,) = explain(model, RULES).declined
    assert "not finite" in declined.reason


def test_declines_a_branch_that_is_used_as_well():
    x = keras.Input((9,))
    y = Dense(2, name="first")(x)
    joined = BatchNormalization()(Concatenate(name="concat")([y, Dense(3)(x)]))
    model = keras.Model(x, [joined, layers.ReLU(name="relu")(y)])
    check_declines(model, RULES, reason="first feeds relu as well as concat")


def test_declines_a_branch_that_is_joined_twice():
    x = keras.Input((9,))
    y = Dense(2, name="first")(x)
    model = keras.Model(x, BatchNormalization()(Concatenate()([y, Dense(3)(x), y])))
    check_declines(model, RULES, reason="reads first more than once")


def test_declines_a_concatenation_that_is_used_as_well():
    x = keras.Input((9,))
    y = Concatenate(name="concat")([Dense(2)(x), Dense(3)(x)])
    model = keras.Model(x, layers.Add(name="add")([y, BatchNormalization(name="bn")(y)]))
    check_declines(model, RULES, reason="concat feeds add as well as bn")


def test_declines_a_layer_that_makes_two_branches():
    # One kernel can't take in two scales.
    x, y = keras.Input((9,)), keras.Input((9,))
    dense = Dense(2)
    model = keras.Model([x, y], BatchNormalization()(Concatenate()([dense(x), dense(y)])))
    check_declines(model, RULES, reason="joins several outputs of one layer")


def test_declines_a_constant_among_the_branches():
    x = keras.Input((9,), batch_size=2)
    constant = np.ones((2, 3), "float32")
    model = keras.Model(
        x, BatchNormalization()(keras.ops.concatenate([Dense(4)(x), constant], axis=-1))
    )
    check_declines(model, RULES, reason="joins a constant")


def test_does_not_match_where_a_branch_is_not_linear():
    model = model_of(Dense(2), layers.MaxPooling2D(2, strides=1, padding="same"))
    report = explain(model, RULES)
    assert not report.applied
    assert not report.declined


def test_does_not_match_a_subclass():
    class Squared(Dense):
        def call(self, inputs):
            return super().call(inputs) ** 2

    report = explain(model_of(Dense(2), Squared(2)), RULES)
    assert not report.applied
    assert not report.declined
