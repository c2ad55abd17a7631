"""Separable convolution -> depthwise and pointwise convolution."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    BatchNormalization,
    Conv1D,
    Conv2D,
    DepthwiseConv1D,
    DepthwiseConv2D,
    SeparableConv1D,
    SeparableConv2D,
)

from kito import Report, explain, optimize
from kito.rules.separable_split import separable_split
from kito.testing import check_equivalent, check_rewrites

RULES = [separable_split]
SHAPES = {SeparableConv1D: (9, 3), SeparableConv2D: (9, 8, 3)}
HALVES = {
    SeparableConv1D: [DepthwiseConv1D, Conv1D],
    SeparableConv2D: [DepthwiseConv2D, Conv2D],
}


def model_of(conv, shape=None):
    return keras.Sequential([keras.Input(shape or SHAPES[type(conv)]), conv])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("depth_multiplier", [1, 2])
@pytest.mark.parametrize("cls", SHAPES)
def test_splits(cls, depth_multiplier, use_bias):
    keras.config.set_dtype_policy("float64")
    conv = cls(
        4,
        3,
        depth_multiplier=depth_multiplier,
        use_bias=use_bias,
        activation="softmax",
        name="conv",
    )
    fast = check_rewrites(model_of(conv), RULES, times=1)
    assert [type(layer) for layer in fast.layers] == HALVES[cls]
    assert [layer.name for layer in fast.layers] == ["conv_depthwise", "conv"]
    assert fast.layers[1].use_bias == use_bias


@pytest.mark.parametrize("cls", SHAPES)
@pytest.mark.parametrize(
    "options",
    [{"strides": 2}, {"strides": 2, "padding": "same"}, {"dilation_rate": 2, "padding": "same"}],
    ids=str,
)
def test_splits_whatever_the_geometry(cls, options):
    check_rewrites(model_of(cls(5, 3, **options)), RULES, times=1)


def test_splits_channels_first():
    conv = SeparableConv2D(5, 3, data_format="channels_first")
    check_rewrites(model_of(conv, (3, 9, 9)), RULES, times=1)


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16"])
def test_declines_channels_first_in_what_a_plain_convolution_can_not_compute(policy):
    keras.config.set_dtype_policy(policy)
    conv = SeparableConv2D(5, 3, data_format="channels_first", name="conv")
    # Not run: TensorFlow 2.18 can't compute the source either.
    report = explain(model_of(conv, (3, 9, 9)), RULES)
    assert not report.applied
    assert "conv is channels_first and computes" in report.declined[0].reason


@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
def test_splits_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    fast = check_rewrites(model_of(SeparableConv2D(5, 3)), RULES, times=1)
    assert [layer.dtype_policy.name for layer in fast.layers] == [policy, policy]


@settings(max_examples=10, deadline=None)
@given(
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.integers(1, 2),
    padding=st.sampled_from(["same", "valid"]),
    channels=st.integers(1, 4),
    multiplier=st.integers(1, 3),
)
def test_splits_any(window, strides, padding, channels, multiplier):
    keras.config.set_dtype_policy("float64")
    conv = SeparableConv2D(3, window, strides=strides, padding=padding, depth_multiplier=multiplier)
    check_rewrites(model_of(conv, (5, 6, channels)), RULES, times=1)


def test_is_not_used_unless_named():
    assert not separable_split.is_default("tensorflow")


def test_keeps_the_name_of_an_output():
    x = keras.Input((9, 8, 3))
    model = keras.Model(x, [SeparableConv2D(4, 3, name="one")(x), x])
    fast = check_rewrites(model, RULES, times=1)
    assert fast.output_names[0] == "one"


def test_does_not_take_a_name_that_is_there():
    x = keras.Input((9, 8, 3))
    y = keras.layers.ReLU(name="conv_depthwise")(x)
    check_rewrites(keras.Model(x, SeparableConv2D(4, 3, name="conv")(y)), RULES, times=1)


def test_declines_what_is_called_with_training():
    x = keras.Input((9, 8, 3))
    model = keras.Model(x, SeparableConv2D(4, 3, name="conv")(x, training=True))
    fast = optimize(model, RULES, report=(report := Report()))
    assert not report.applied or len(fast.layers) == 3
    check_equivalent(model, fast)


def test_leaves_a_subclass():
    class Doubled(SeparableConv2D):
        def call(self, inputs):
            return 2 * super().call(inputs)

    report = Report()
    optimize(model_of(Doubled(4, 3), (9, 8, 3)), RULES, report=report)
    assert not report.applied


def test_declines_a_layer_whose_call_was_replaced():
    conv = SeparableConv2D(4, 3, name="conv")
    model = model_of(conv)
    conv.call = lambda inputs: 2 * SeparableConv2D.call(conv, inputs)
    (declined,) = explain(model, RULES).declined
    assert declined.reason.startswith("conv has a `call` of its own")


def test_leaves_what_stands_around_it():
    conv = SeparableConv2D(4, 3, name="conv")
    model = keras.Sequential([keras.Input((9, 8, 3)), BatchNormalization(), conv])
    assert len(check_rewrites(model, RULES, times=1).layers) == 3
