"""Linear layer -> linear layer."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import Conv1D, Conv2D, Conv3D, Dense, DepthwiseConv1D, DepthwiseConv2D

import kito
from kito import Report, explain, optimize
from kito.rules.linear_linear import linear_linear
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize

# Keras 3.15 on PyTorch gives a product of float64 matrices as float32.
FLOAT64 = "float32" if keras.backend.backend() == "torch" else "float64"
RULES = [linear_linear]
MAPS = {Conv1D: (9, 3), Conv2D: (9, 8, 3), Conv3D: (5, 6, 7, 3)}
BIASES = [(True, True), (True, False), (False, True), (False, False)]


def model_of(first, second, shape=(3,), **inputs):
    return keras.Sequential([keras.Input(shape, **inputs), first, second])


@pytest.mark.parametrize(("one", "two"), BIASES)
@pytest.mark.parametrize("shape", [(3,), (5, 3), (None, 3)])
def test_merges_dense_layers(shape, one, two):
    keras.config.set_dtype_policy(FLOAT64)
    first = Dense(8, use_bias=one)
    second = Dense(4, use_bias=two, activation="softmax", name="second")
    fast = check_rewrites(model_of(first, second, shape), RULES, times=1)
    assert [layer.name for layer in fast.layers] == ["second"]
    assert fast.layers[0].use_bias == (one or two)


@pytest.mark.parametrize(("one", "two"), BIASES)
@pytest.mark.parametrize("cls", MAPS)
def test_merges_a_pointwise_convolution_into_the_one_before(cls, one, two):
    keras.config.set_dtype_policy(FLOAT64)
    first = cls(30, 3, padding="same", strides=2, use_bias=one)
    second = cls(4, 1, padding="same", use_bias=two, activation="relu")
    fast = check_rewrites(model_of(first, second, MAPS[cls]), RULES, times=1)
    assert fast.layers[0].strides == first.strides


@pytest.mark.parametrize("options", [{"dilation_rate": 2}, {"padding": "same"}], ids=str)
def test_merges_whatever_the_first_geometry(options):
    check_rewrites(model_of(Conv2D(30, 2, **options), Conv2D(4, 1), (8, 8, 3)), RULES, times=1)


def test_merges_a_causal_convolution():
    check_rewrites(model_of(Conv1D(30, 3, padding="causal"), Conv1D(4, 1), (8, 3)), RULES, times=1)


@pytest.mark.parametrize(("one", "two"), BIASES)
@pytest.mark.parametrize("cls", MAPS)
def test_merges_a_pointwise_convolution_into_the_one_behind(cls, one, two):
    keras.config.set_dtype_policy(FLOAT64)
    first, second = cls(8, 1, use_bias=one), cls(4, 3, use_bias=two, activation="relu", strides=2)
    check_rewrites(model_of(first, second, MAPS[cls]), RULES, times=1)


@pytest.mark.parametrize("options", [{"padding": "same"}, {"dilation_rate": 2}], ids=str)
def test_merges_whatever_the_second_geometry(options):
    first = Conv2D(8, 1, use_bias=False)
    check_rewrites(model_of(first, Conv2D(4, 3, **options), (8, 8, 3)), RULES, times=1)


def test_merges_dense_layers_and_convolutions():
    shape = (8, 8, 3)
    check_rewrites(model_of(Conv2D(30, 3), Dense(4), shape), RULES, times=1)
    check_rewrites(model_of(Dense(30), Conv2D(4, 1), shape), RULES, times=1)
    check_rewrites(model_of(Dense(8), Conv2D(4, 3), shape), RULES, times=1)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("cls", [DepthwiseConv1D, DepthwiseConv2D])
def test_merges_a_depthwise_convolution_with_many_multipliers(cls, use_bias):
    keras.config.set_dtype_policy(FLOAT64)
    conv, shape = (Conv1D, (8, 3)) if cls is DepthwiseConv1D else (Conv2D, (8, 7, 3))
    first = cls(2, depth_multiplier=9, strides=2, padding="same", use_bias=use_bias)
    second = conv(2, 1, use_bias=use_bias, activation="relu", name="second")
    fast = check_rewrites(model_of(first, second, shape), RULES, times=1)
    assert type(fast.layers[0]) is conv
    assert [layer.name for layer in fast.layers] == ["second"]


def test_merges_channels_first():
    options = {"data_format": "channels_first"}
    model = model_of(Conv2D(30, 3, **options), Conv2D(4, 1, **options), (3, 9, 9))
    check_rewrites(model, RULES, times=1)


def test_merges_a_row():
    model = keras.Sequential([keras.Input((3,)), Dense(8), Dense(8), Dense(8)])
    assert len(check_rewrites(model, RULES, times=2).layers) == 1


def test_merges_where_sizes_are_not_known():
    model = model_of(Conv2D(30, 3), Conv2D(4, 1), (None, None, 3))
    assert check_rewrites(model, RULES, times=1).output_shape == (None, None, None, 4)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_merges_any(data):
    keras.config.set_dtype_policy(FLOAT64)
    size = st.integers(1, 3)

    def conv(window, **options):
        padding = data.draw(st.sampled_from(["same", "valid"]))
        options["use_bias"] = data.draw(st.booleans())
        return Conv2D(data.draw(st.integers(1, 9)), window, padding=padding, **options)

    window = data.draw(st.tuples(size, size))
    pair = [conv(window, strides=data.draw(st.integers(1, 2))), conv(1)]
    if data.draw(st.booleans()):
        pair.reverse()
    model = randomize(model_of(*pair, (6, 5, 2)))
    report = Report()
    check_equivalent(model, optimize(model, RULES, report=report))
    assert all("pads with zeros" in each.reason for each in report.declined)


def check_no_match(*model):
    report = explain(randomize(model_of(*model)), RULES)
    assert not report.applied
    assert not report.declined


def test_does_not_mention_an_activation_in_between():
    check_no_match(Dense(8, activation="relu"), Dense(4))


def test_does_not_mention_a_bottleneck():
    check_no_match(Dense(2), Dense(16), (16,))


def test_does_not_mention_as_many_multiplications():
    check_rewrites(model_of(Dense(2), Dense(2), (2,)), RULES, times=1)  # 8, or 4
    check_no_match(Dense(2), Dense(4), (4,))  # 16 either way


def test_does_not_mention_a_separable_convolution_in_two_layers():
    # of each of 3 * 3 positions: 9 * 8 + 8 * 8, or 9 * 8 * 8
    check_no_match(DepthwiseConv2D(3), Conv2D(8, 1), (5, 5, 8))


def test_counts_the_positions_of_each_layer():
    # 64 * 2 * 2 + 4 * 9 * 2 * 8 = 832, 4 * 9 * 2 * 8 = 576
    check_rewrites(model_of(Dense(2), Conv2D(8, 3, strides=4), (9, 9, 2)), RULES, times=1)


@pytest.mark.parametrize("padding", ["same", "causal"])
def test_declines_a_bias_before_padding(padding):
    model = model_of(Conv1D(8, 1, name="one"), Conv1D(4, 3, padding=padding, name="two"), (8, 3))
    check_declines(model, RULES, reason="two pads with zeros, to which one adds no bias")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Conv2D(30, 2), Conv2D(2, 2)),
        (Conv2D(30, 3), Conv2D(4, 1, strides=2)),
        (Conv2D(30, 1, strides=2), Conv2D(4, 2)),
    ],
)
def test_does_not_mention_layers_that_both_look_farther_than_one_position(first, second):
    check_no_match(first, second, (8, 8, 2))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Conv2D(30, 3, groups=3), Conv2D(3, 1)),
        (Conv2D(30, 3), Conv2D(3, 1, groups=3)),
        (Conv2D(30, 1), Conv2D(3, 2, groups=3)),
    ],
)
def test_declines_groups(first, second):
    check_declines(model_of(first, second, (8, 8, 3)), RULES, reason="has groups")


def test_declines_a_dense_layer_on_another_axis():
    # the Dense layer mixes columns, not channels
    model = model_of(Conv2D(30, 3, data_format="channels_first"), Dense(2), (3, 9, 32))
    check_declines(model, RULES, reason="channels on different axes")


def test_declines_channels_first_as_wide_as_deep():
    options = {"data_format": "channels_first"}
    first = Conv2D(30, 1, use_bias=False, **options)
    model = model_of(first, Conv2D(4, 1, **options), (3, 9, 4))
    assert "wrong axis" in explain(model, RULES).declined[0].reason


def test_declines_a_change_of_dtype():
    model = model_of(Dense(8, dtype="float64"), Dense(4, dtype="float32"))
    check_declines(model, RULES, reason="turns float64 into float32")


def test_declines_a_tensor_that_is_used_as_well():
    inputs = keras.Input((3,))
    x = Dense(4, name="dense")(inputs)
    model = keras.Model(inputs, keras.layers.Add(name="add")([x, Dense(4, name="next")(x)]))
    check_declines(model, RULES, reason="dense feeds add as well as next")


def test_declines_weights_that_are_not_finite():
    model = model_of(Dense(8), Dense(4))
    model.layers[0].kernel.assign(np.full((3, 8), np.inf))
    (declined,) = explain(model, RULES).declined
    assert "is not finite" in declined.reason


def test_declines_a_function_that_a_configuration_does_not_carry():
    def own(x):
        return x * x

    model = model_of(Dense(8), Dense(4, activation=own, name="second"))
    (declined,) = explain(model, RULES).declined
    assert declined.reason.startswith("second has an activation")


@pytest.mark.filterwarnings("ignore:Layer '")
@pytest.mark.parametrize("cls", [Dense, Conv1D])
def test_declines_a_mask_that_would_pass(cls):
    x = keras.Input((5, 3))
    masked = keras.layers.Masking()(x)
    first, second = (Dense(8), Conv1D(4, 1)) if cls is Dense else (Conv1D(8, 1), Dense(4))
    model = keras.Model(x, second(first(masked)))
    if cls is Dense:
        check_declines(model, RULES, reason="a mask runs through")
    else:
        check_rewrites(model, RULES, times=1)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_declines_float16_out_of_range(factor):
    keras.config.set_dtype_policy("mixed_float16")
    model = randomize(model_of(Dense(8), Dense(4)))
    model.layers[0].kernel.assign(factor * model.layers[0].kernel)
    (declined,) = explain(model, RULES).declined
    assert "range of float16" in declined.reason


def test_merges_float16_in_range():
    keras.config.set_dtype_policy("mixed_float16")
    check_rewrites(model_of(Dense(8), Dense(4)), RULES, times=1)


def test_leaves_an_activation_alone_that_nobody_registered():
    model = keras.Sequential([keras.Input((4,)), Dense(3, activation=lambda x: x * x), Dense(2)])
    assert not kito.explain(model, RULES).applied
