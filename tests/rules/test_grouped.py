"""Grouped convolution -> depthwise convolution, or a few plain ones."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    Add,
    Concatenate,
    Conv1D,
    Conv2D,
    Conv3D,
    DepthwiseConv1D,
    DepthwiseConv2D,
    LeakyReLU,
)

from kito import Report, explain, optimize
from kito.rules.grouped import block_diagonal, grouped_blocks, grouped_depthwise
from kito.testing import TOLERANCES, check_declines, check_equivalent, check_rewrites

DEPTHWISE = [grouped_depthwise]
FLOAT64 = max(1e-10, TOLERANCES["float64"])
BLOCKS = [grouped_blocks]
IMAGE = (8, 7, 4)


def model_of(conv, shape=IMAGE, **inputs):
    return keras.Sequential([keras.Input(shape, **inputs), conv])


def classes(model):
    return [type(layer) for layer in model.layers]


# To depthwise.


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_becomes_depthwise(multiplier, use_bias):
    keras.config.set_dtype_policy("float64")
    conv = Conv2D(4 * multiplier, 3, groups=4, use_bias=use_bias, activation="tanh", name="conv")
    fast = check_rewrites(model_of(conv), DEPTHWISE, times=1, tolerance=FLOAT64)
    (layer,) = fast.layers
    assert type(layer) is DepthwiseConv2D
    assert (layer.name, layer.depth_multiplier, layer.use_bias) == ("conv", multiplier, use_bias)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2, "padding": "same"},
        {"strides": 3, "kernel_size": 2},  # strides that leave values out
        {"dilation_rate": 2, "padding": "same"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("cls", "shape"), [(Conv1D, (9, 4)), (Conv2D, IMAGE)])
def test_becomes_depthwise_whatever_the_geometry(cls, shape, options):
    conv = cls(8, groups=4, **{"kernel_size": 3} | options)
    fast = check_rewrites(model_of(conv, shape), DEPTHWISE, times=1)
    assert classes(fast) == [{Conv1D: DepthwiseConv1D, Conv2D: DepthwiseConv2D}[cls]]


def test_becomes_depthwise_with_one_dilation_for_each_axis():
    conv = Conv2D(8, 3, groups=4, dilation_rate=(1, 2), padding="same")
    check_rewrites(model_of(conv), DEPTHWISE, times=1)


@pytest.mark.parametrize("width", [4, 7])  # as many as the channels, and not
def test_becomes_depthwise_channels_first(width):
    conv = Conv2D(8, 3, groups=4, padding="same", data_format="channels_first")
    check_rewrites(model_of(conv, (4, 6, width)), DEPTHWISE, times=1)


def test_declines_a_bias_that_may_be_added_along_the_wrong_axis():
    conv = Conv2D(8, 3, groups=4, padding="same", data_format="channels_first", name="conv")
    check_declines(model_of(conv, (4, 6, 8)), DEPTHWISE, reason="conv is channels_first")


def test_becomes_depthwise_without_a_bias_whatever_the_width():
    conv = Conv2D(8, 3, groups=4, padding="same", data_format="channels_first", use_bias=False)
    check_rewrites(model_of(conv, (4, 6, 8)), DEPTHWISE, times=1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_becomes_depthwise_in_low_precision(policy):
    keras.config.set_dtype_policy(policy)
    fast = check_rewrites(model_of(Conv2D(8, 3, groups=4)), DEPTHWISE, times=1)
    assert fast.layers[0].dtype_policy.name == policy


def test_unknown_sizes_stay_unknown():
    model = model_of(Conv2D(8, 3, groups=4, strides=2), (None, None, 4))
    assert check_rewrites(model, DEPTHWISE, times=1).output_shape == (None, None, None, 8)


def test_all_filters_keep_their_common_activation_in_a_depthwise_convolution():
    check_rewrites(model_of(Conv2D(8, 3, groups=4, activation="softmax")), DEPTHWISE, times=1)


@settings(max_examples=12, deadline=None)
@given(
    groups=st.integers(2, 5),
    multiplier=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid"]),
    seed=st.integers(0, 99),
)
def test_becomes_depthwise_with_any_sizes(groups, multiplier, kernel, stride, padding, seed):
    keras.config.set_dtype_policy("float64")
    conv = Conv2D(groups * multiplier, kernel, stride, padding, groups=groups)
    model = model_of(conv, (5, 6, groups))
    check_rewrites(model, DEPTHWISE, times=1, tolerance=FLOAT64, seed=seed)


def test_depthwise_declines_several_channels_a_group():
    check_declines(
        model_of(Conv2D(4, 3, groups=2)),
        DEPTHWISE,
        reason="conv2d has 2 input channels in each of its 2 groups",
    )


def test_depthwise_declines_unequal_strides():
    check_declines(
        model_of(Conv2D(4, 3, groups=4, strides=(1, 2))), DEPTHWISE, reason="has the strides (1, 2)"
    )


def test_depthwise_declines_causal():
    model = model_of(Conv1D(4, 3, groups=4, padding="causal"), (9, 4))
    check_declines(model, DEPTHWISE, reason="conv1d is causal")


def test_depthwise_leaves_what_has_no_groups():
    assert not explain(model_of(Conv2D(4, 3)), DEPTHWISE).declined


def test_depthwise_leaves_three_dimensions():
    # there is no DepthwiseConv3D
    report = Report()
    optimize(model_of(Conv3D(4, 2, groups=2), (4, 4, 4, 2)), DEPTHWISE, report=report)
    assert not report.applied


def test_depthwise_leaves_a_subclass():
    class Scaled(Conv2D):
        def call(self, inputs):
            return super().call(inputs) ** 2

    model = model_of(Scaled(4, 3, groups=4))
    check_equivalent(model, optimize(model, DEPTHWISE))


def test_declines_an_activation_that_the_configuration_does_not_carry():
    def relu(x):  # Keras would save its own function of that name
        return x * x

    model = model_of(Conv2D(4, 3, groups=4, activation=relu))
    for rules in (DEPTHWISE, BLOCKS):
        check_declines(model, rules, reason="has an activation that its configuration can't carry")


# To blocks.


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("channels", [8, 24, 80])  # one block, two, five without any zeros
def test_becomes_blocks(channels, use_bias):
    keras.config.set_dtype_policy("float64")
    groups = {8: 4, 24: 4, 80: 5}[channels]
    conv = Conv2D(2 * groups, 2, groups=groups, use_bias=use_bias, activation="relu", name="conv")
    model = model_of(conv, (4, 3, channels))
    fast = check_rewrites(model, BLOCKS, times=1, tolerance=FLOAT64)
    convs = [layer for layer in fast.layers if type(layer) is Conv2D]
    assert len(convs) == {8: 1, 24: 2, 80: 5}[channels]
    assert {(conv.groups, conv.use_bias) for conv in convs} == {(1, use_bias)}
    assert type(fast.layers[-1]) is (Conv2D if channels == 8 else Concatenate)
    assert fast.layers[-1].name == "conv"


@pytest.mark.parametrize(
    ("cls", "shape", "options"),
    [
        (Conv1D, (9, 24), {"strides": 2, "padding": "same"}),
        (Conv1D, (9, 24), {"padding": "causal"}),
        (Conv2D, (8, 7, 24), {"strides": (1, 2)}),
        (Conv2D, (8, 7, 24), {"dilation_rate": 2, "padding": "same"}),
        (Conv3D, (4, 5, 4, 24), {"strides": 3, "kernel_size": 2}),
    ],
    ids=str,
)
def test_becomes_blocks_whatever_the_geometry(cls, shape, options):
    conv = cls(8, groups=4, **{"kernel_size": 3} | options)
    check_rewrites(model_of(conv, shape), BLOCKS, times=1)


@pytest.mark.parametrize(
    ("cls", "shape", "options"),
    [
        (Conv1D, (9, 4), {"padding": "causal"}),
        (Conv2D, IMAGE, {"strides": (1, 2)}),
        (Conv3D, (4, 4, 4, 4), {}),
    ],
    ids=str,
)
def test_becomes_blocks_where_it_cannot_be_depthwise(cls, shape, options):
    fast = check_rewrites(model_of(cls(8, 2, groups=4, **options), shape), BLOCKS, times=1)
    assert classes(fast) == [cls]


def test_becomes_blocks_of_a_batch_of_a_fixed_size():
    model = model_of(Conv2D(8, 3, groups=4), None, batch_shape=(3, None, 8, 24))
    assert check_rewrites(model, BLOCKS, times=1).output_shape == (3, None, 6, 8)


def test_becomes_blocks_in_low_precision():
    keras.config.set_dtype_policy("mixed_float16")
    model = model_of(Conv2D(8, 3, groups=4), (8, 7, 24))
    assert check_rewrites(model, BLOCKS, times=1).output.dtype == "float16"


def test_declines_blocks_channels_first():
    conv = Conv2D(8, 3, groups=4, padding="same", data_format="channels_first", name="conv")
    check_declines(model_of(conv, (24, 6, 7)), BLOCKS, reason="conv is channels_first, and")


def test_blocks_can_be_saved(tmp_path):
    model = model_of(Conv2D(8, 3, groups=4), (8, 7, 24))
    check_rewrites(model, BLOCKS, times=1).save(tmp_path / "fast.keras")
    check_equivalent(model, keras.models.load_model(tmp_path / "fast.keras"))


def test_the_calls_of_a_shared_convolution_share_the_blocks():
    inputs = [keras.Input((6, 6, 24)), keras.Input((5, 7, 24))]
    conv = Conv2D(8, 3, groups=4)
    model = keras.Model(inputs, [Add()([conv(x), conv(x)]) for x in inputs])
    fast = check_rewrites(model, BLOCKS, times=4)
    assert sum(type(layer) is Conv2D for layer in fast.layers) == 2


@settings(max_examples=12, deadline=None)
@given(
    groups=st.sampled_from([2, 3, 4, 6]),
    inputs=st.integers(2, 20),
    filters=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_becomes_blocks_with_any_sizes(groups, inputs, filters, seed):
    keras.config.set_dtype_policy("float64")
    conv = Conv2D(groups * filters, 2, groups=groups)
    model = model_of(conv, (3, 4, groups * inputs))
    check_rewrites(model, BLOCKS, times=1, tolerance=FLOAT64, seed=seed)


def test_a_block_is_zero_where_a_filter_does_not_see_a_channel():
    kernel = np.arange(1, 9).reshape(1, 2, 4).astype("float32")  # 2 groups of 2 channels
    expected = [[1, 2, 0, 0], [5, 6, 0, 0], [0, 0, 3, 4], [0, 0, 7, 8]]
    np.testing.assert_array_equal(block_diagonal(kernel, 2), [expected])


def test_blocks_decline_what_can_be_depthwise():
    check_declines(model_of(Conv2D(4, 3, groups=4)), BLOCKS, reason="conv2d can be depthwise")


@pytest.mark.parametrize("activation", ["softmax", "log_softmax", "glu"])
def test_blocks_decline_an_activation_of_all_filters(activation):
    model = model_of(Conv2D(8, 3, groups=4, activation=activation), (8, 7, 24))
    check_declines(model, BLOCKS, reason=f"its activation ({activation}) to all filters together")


def test_one_block_keeps_an_activation_of_all_filters():
    model = model_of(Conv2D(8, 3, groups=4, activation="softmax"), (8, 7, 8))
    check_rewrites(model, BLOCKS, times=1)


def test_blocks_decline_what_tensorflow_would_fuse():
    inputs = keras.Input((8, 8, 8))
    x = Conv2D(8, 3, groups=4, padding="same")(inputs)  # through XLA, where nothing is fused
    model = keras.Model(inputs, LeakyReLU(0.1)(Add()([x, inputs])))
    check_declines(model, BLOCKS, reason="TensorFlow would fuse these")


def test_blocks_are_for_tensorflow_and_what_is_exported_from_it():
    assert grouped_blocks.is_default("tensorflow")
    assert grouped_blocks.is_default("jax")
    assert not grouped_blocks.is_default("torch")
    assert grouped_depthwise.is_default("torch")
