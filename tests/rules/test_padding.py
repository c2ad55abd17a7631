"""Zero padding -> a layer that pads itself."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    Activation,
    Add,
    Conv1D,
    Conv2D,
    Conv3D,
    DepthwiseConv1D,
    DepthwiseConv2D,
    LeakyReLU,
    MaxPooling1D,
    MaxPooling2D,
    MaxPooling3D,
    ReLU,
    SeparableConv1D,
    SeparableConv2D,
    ZeroPadding1D,
    ZeroPadding2D,
    ZeroPadding3D,
)

from kito import explain
from kito.rules.padding import (
    padding_conv,
    padding_max_pooling,
    padding_padding,
    pads,
    same_padding,
)
from kito.testing import TOLERANCES, check_declines, check_rewrites

CONV, POOL, PAD = [padding_conv], [padding_max_pooling], [padding_padding]
FLOAT64 = max(1e-10, TOLERANCES["float64"])
IMAGE = (8, 9, 4)
FIRST = {"data_format": "channels_first"}
BEHIND = ((0, 1), (0, 1))  # one row and one column behind the others


def model_of(*row, shape=IMAGE, **inputs):
    return keras.Sequential([keras.Input(shape, **inputs), *row])


def depthwise(cls):
    return cls in (DepthwiseConv1D, DepthwiseConv2D)


# Before a convolution.


@pytest.mark.parametrize(
    ("cls", "padding", "shape"),
    [
        (Conv1D, ZeroPadding1D, (9, 4)),
        (DepthwiseConv1D, ZeroPadding1D, (9, 4)),
        (SeparableConv1D, ZeroPadding1D, (9, 4)),
        (Conv2D, ZeroPadding2D, IMAGE),
        (DepthwiseConv2D, ZeroPadding2D, IMAGE),
        (SeparableConv2D, ZeroPadding2D, IMAGE),
        (Conv3D, ZeroPadding3D, (4, 5, 6, 4)),
    ],
)
def test_a_convolution_pads(cls, padding, shape):
    keras.config.set_dtype_policy("float64")
    filters = () if depthwise(cls) else (5,)
    model = model_of(padding(1), cls(*filters, 3, activation="relu", name="conv"), shape=shape)
    fast = check_rewrites(model, CONV, times=1, tolerance=FLOAT64)
    (layer,) = fast.layers
    assert (type(layer), layer.name, layer.padding) == (cls, "conv", "same")


@pytest.mark.parametrize(
    ("padding", "options"),
    [
        (((0, 1), (1, 1)), {"kernel_size": 3, "strides": 2}),  # 8 is even, 9 is odd
        (((2, 3), (3, 3)), {"kernel_size": 7, "strides": 2}),
        (((0, 1), (0, 1)), {"kernel_size": 2}),
        (((2, 2), (4, 4)), {"kernel_size": (3, 5), "dilation_rate": 2}),
        (((0, 0), (0, 0)), {"kernel_size": 1, "strides": 3}),
        (((1, 1), (1, 1)), {"kernel_size": 3, "groups": 2}),
    ],
    ids=str,
)
def test_a_convolution_pads_whatever_the_geometry(padding, options):
    check_rewrites(model_of(ZeroPadding2D(padding), Conv2D(4, **options)), CONV, times=1)


def test_a_convolution_pads_channels_first():
    model = model_of(ZeroPadding2D(1, **FIRST), Conv2D(4, 3, **FIRST), shape=(4, 8, 9))
    check_rewrites(model, CONV, times=1)


def test_a_convolution_pads_sizes_that_are_not_known():
    model = model_of(ZeroPadding2D(1), Conv2D(4, 3), shape=(None, None, 4))
    assert check_rewrites(model, CONV, times=1).output_shape == (None, None, None, 4)


def test_a_convolution_pads_a_batch_of_a_fixed_size():
    model = model_of(ZeroPadding2D(1), Conv2D(4, 3), shape=None, batch_shape=(3, None, 9, 4))
    assert check_rewrites(model, CONV, times=1).output_shape == (3, None, 9, 4)


def test_a_convolution_pads_in_low_precision():
    keras.config.set_dtype_policy("mixed_float16")
    check_rewrites(model_of(ZeroPadding2D(1), Conv2D(4, 3)), CONV, times=1)


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(4, 9),
    window=st.integers(1, 4),
    stride=st.integers(1, 4),
    sides=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 99),
)
def test_a_convolution_pads_exactly_where_it_may(size, window, stride, sides, seed):
    keras.config.set_dtype_policy("float64")
    model = model_of(ZeroPadding1D(sides), Conv1D(3, window, stride), shape=(size, 2))
    if sides == same_padding(size, window, stride, 1):
        check_rewrites(model, CONV, times=1, tolerance=FLOAT64, seed=seed)
    else:
        check_declines(model, CONV, reason="would add", seed=seed)


def test_declines_a_padding_on_the_other_side():
    # 8 rows and a stride of 2: ours begins in front of the first row, that of "same" at it
    check_declines(
        model_of(ZeroPadding2D(1), Conv2D(4, 3, strides=2), shape=(8, 8, 4)),
        CONV,
        reason="zero_padding2d adds (1, 1) to axis 1, conv2d would add (0, 1)",
    )


def test_declines_a_padding_that_is_too_wide():
    model = model_of(ZeroPadding2D(((1, 1), (1, 2))), Conv2D(4, 3))
    check_declines(model, CONV, reason="zero_padding2d adds (1, 2) to axis 2, conv2d would add (1")


def test_declines_a_padding_that_does_not_heed_the_dilation():
    model = model_of(ZeroPadding2D(1), Conv2D(4, 3, dilation_rate=2))
    check_declines(model, CONV, reason="conv2d would add (2, 2)")


def test_declines_a_stride_where_a_size_is_not_known():
    model = model_of(ZeroPadding2D(1), Conv2D(4, 3, strides=2), shape=(9, None, 4))
    check_declines(model, CONV, reason="the size of axis 2 of zero_padding2d is not known")


@pytest.mark.parametrize("padding", ["same", "causal"])
def test_declines_a_convolution_that_pads_already(padding):
    model = model_of(ZeroPadding1D(1), Conv1D(4, 3, padding=padding), shape=(9, 4))
    check_declines(model, CONV, reason=f"conv1d pads already ({padding})")


def test_declines_another_data_format_before_a_convolution():
    # (not Conv2D: TensorFlow itself fuses that with a padding of other axes, and fails)
    model = model_of(ZeroPadding2D(1, **FIRST), DepthwiseConv2D(3), shape=(4, 5, 4))
    check_declines(model, CONV, reason="zero_padding2d pads other axes than depthwise_conv2d has")


def test_declines_a_change_of_dtype_before_a_convolution():
    model = model_of(ZeroPadding2D(1), Conv2D(4, 3, dtype="float64"))
    check_declines(model, CONV, reason="conv2d turns float32 into float64")


def test_declines_a_padding_that_something_else_reads():
    inputs = keras.Input(IMAGE)
    x = ZeroPadding2D(1)(inputs)
    model = keras.Model(inputs, [Conv2D(4, 3)(x), ReLU()(x)])
    check_declines(model, CONV, reason="zero_padding2d feeds re_lu as well as conv2d")


def test_declines_an_activation_that_the_configuration_does_not_carry():
    def squared(x):
        return x * x

    model = model_of(ZeroPadding2D(1), Conv2D(4, 3, activation=squared))
    check_declines(model, CONV, reason="has an activation that its configuration can't carry")


def test_leaves_a_transposed_convolution():
    model = model_of(ZeroPadding2D(1), keras.layers.Conv2DTranspose(4, 3))
    assert not explain(model, CONV).declined


def test_a_convolution_with_a_bias_before_an_addition():
    inputs = keras.Input(IMAGE)
    x = Conv2D(4, 3, use_bias=False)(ZeroPadding2D(1)(inputs))
    model = keras.Model(inputs, LeakyReLU(0.1)(Add()([x, inputs])))
    check_rewrites(model, CONV, times=1)  # no bias: nothing that TensorFlow would fuse


# Before a max pooling.


@pytest.mark.parametrize(
    "source",
    [
        lambda: ReLU(),
        lambda: ReLU(max_value=3),
        lambda: ReLU(threshold=1),
        lambda: Activation("relu6"),
        lambda: Activation("sigmoid"),
        lambda: Conv2D(4, 1, activation="relu"),
    ],
)
def test_a_max_pooling_pads_what_is_never_negative(source):
    model = model_of(
        source(), ZeroPadding2D(((0, 1), (1, 1))), MaxPooling2D(3, 2, name="pool"), shape=IMAGE
    )
    fast = check_rewrites(model, POOL, times=1)
    assert [layer.name for layer in fast.layers][1:] == ["pool"]
    assert fast.layers[1].padding == "same"


@pytest.mark.parametrize(
    ("pad", "pool", "shape"),
    [
        (ZeroPadding1D((0, 1)), MaxPooling1D(3, 2), (8, 4)),
        (ZeroPadding3D(1), MaxPooling3D(3, 2), (5, 5, 5, 2)),
        (ZeroPadding2D(BEHIND), MaxPooling2D(2, 1), IMAGE),
        (ZeroPadding2D(0), MaxPooling2D(2, 3), (8, 8, 4)),  # strides that leave values out
        (ZeroPadding2D(1, **FIRST), MaxPooling2D(3, 2, **FIRST), (4, 9, 9)),
        (ZeroPadding2D(1), MaxPooling2D(3, 1), (None, 9, 4)),
    ],
)
def test_a_max_pooling_pads_whatever_the_geometry(pad, pool, shape):
    check_rewrites(model_of(ReLU(), pad, pool, shape=shape), POOL, times=1)


@pytest.mark.parametrize(
    "source",
    [
        lambda: Activation("tanh"),
        lambda: Activation("leaky_relu"),
        lambda: ReLU(negative_slope=0.1),
        lambda: Conv2D(4, 1),
    ],
)
def test_declines_what_may_be_negative(source):
    # a window of which all values are negative has 0 from the padding
    model = model_of(source(), ZeroPadding2D(1), MaxPooling2D(3, 2), shape=(9, 9, 4))
    check_declines(model, POOL, reason="may give max_pooling2d negative values")


def test_declines_a_function_of_the_users_own():
    def relu(x):  # Keras takes it for its own
        return x - 1

    model = model_of(Activation(relu), ZeroPadding2D(1), MaxPooling2D(3, 2), shape=(9, 9, 4))
    check_declines(model, POOL, reason="has an activation that its configuration can't carry")


def test_declines_another_padding_before_a_max_pooling():
    # the first layers of ResNet
    model = model_of(ReLU(), ZeroPadding2D(1), MaxPooling2D(3, 2), shape=(8, 8, 4))
    check_declines(model, POOL, reason="adds (1, 1) to axis 1, max_pooling2d would add (0, 1)")


def test_declines_a_max_pooling_that_pads_already():
    pool = MaxPooling2D(3, 2, padding="same")
    model = model_of(ReLU(), ZeroPadding2D(BEHIND), pool, shape=(8, 8, 4))
    check_declines(model, POOL, reason="max_pooling2d pads already (same)")


def test_declines_another_data_format_before_a_max_pooling():
    pool = MaxPooling2D(3, 2, **FIRST)
    model = model_of(ReLU(), ZeroPadding2D(BEHIND), pool, shape=(8, 8, 8))
    check_declines(model, POOL, reason="pads other axes than max_pooling2d has")


def test_declines_a_change_of_dtype_before_a_max_pooling():
    pool = MaxPooling2D(3, 2, dtype="float64")
    model = model_of(ReLU(), ZeroPadding2D(BEHIND), pool, shape=(8, 8, 4))
    check_declines(model, POOL, reason="max_pooling2d turns float32 into float64")


def test_leaves_a_max_pooling_of_what_is_not_known():
    model = model_of(LeakyReLU(), ZeroPadding2D(BEHIND), MaxPooling2D(3, 2), shape=(8, 8, 4))
    report = explain(model, POOL)
    assert not report.applied
    assert not report.declined


# Before another padding.


@pytest.mark.parametrize(
    ("first", "second", "shape", "total"),
    [
        (ZeroPadding1D(1), ZeroPadding1D((0, 2)), (5, 3), [(1, 3)]),
        (ZeroPadding2D(1), ZeroPadding2D(((0, 2), (3, 4))), (5, None, 3), [(1, 3), (4, 5)]),
        (ZeroPadding3D(1), ZeroPadding3D((0, 1, 2)), (2, 2, 2, 3), [(1, 1), (2, 2), (3, 3)]),
        (ZeroPadding2D(1, **FIRST), ZeroPadding2D((0, 1), **FIRST), (3, 5, 4), [(1, 1), (2, 2)]),
    ],
    ids=["1D", "2D", "3D", "channels_first"],
)
def test_pads_once(first, second, shape, total):
    (layer,) = check_rewrites(model_of(first, second, shape=shape), PAD, times=1).layers
    assert pads(layer) == total


def test_pads_once_instead_of_three_times():
    model = model_of(*[ZeroPadding2D(1) for _ in range(3)])
    assert len(check_rewrites(model, PAD, times=2).layers) == 1


def test_pads_integers_once():
    check_rewrites(model_of(ZeroPadding2D(1), ZeroPadding2D(1), dtype="int32"), PAD, times=1)


def test_declines_another_data_format_before_a_padding():
    model = model_of(ZeroPadding2D(1), ZeroPadding2D(1, **FIRST))
    check_declines(model, PAD, reason="zero_padding2d pads other axes than zero_padding2d_1")


def test_declines_a_change_of_dtype_before_a_padding():
    model = model_of(ZeroPadding2D(1), ZeroPadding2D(1, dtype="float16"))
    check_declines(model, PAD, reason="zero_padding2d_1 turns float32 into float16")


# All of them.


def test_a_sum_of_paddings_that_a_convolution_takes_over():
    model = model_of(ZeroPadding2D(1), ZeroPadding2D(1), Conv2D(4, 5))
    fast = check_rewrites(model, [*PAD, *CONV], times=2)
    assert len(fast.layers) == 1


def test_they_are_no_reason_to_open_a_layer():
    assert not any(rule.opens for rule in (*CONV, *POOL, *PAD))
