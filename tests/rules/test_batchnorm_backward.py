"""Linear layer -> layers that commute with an affine map -> BatchNormalization."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from keras.layers import BatchNormalization, Conv2D, Dense

from kito import compare, explain, optimize
from kito.rules.batchnorm_backward import linear_moves_batchnorm
from kito.testing import check_declines, check_rewrites, randomize
from tests.exact import BOUND, DOUBLE

RULES = [linear_moves_batchnorm]
SHAPES = {1: (9, 3), 2: (9, 8, 3), 3: (6, 7, 8, 3)}
LINEAR = {
    "Conv1D": (1, lambda: layers.Conv1D(4, 2)),
    "Conv2D": (2, lambda: layers.Conv2D(4, 2, use_bias=False)),
    "Conv3D": (3, lambda: layers.Conv3D(4, 2)),
    "Conv1DTranspose": (1, lambda: layers.Conv1DTranspose(4, 2)),
    "Conv2DTranspose": (2, lambda: layers.Conv2DTranspose(4, 2)),
    "Conv3DTranspose": (3, lambda: layers.Conv3DTranspose(4, 2)),
    "Dense": (2, lambda: layers.Dense(4)),
    "DepthwiseConv1D": (1, lambda: layers.DepthwiseConv1D(2, depth_multiplier=2)),
    "DepthwiseConv2D": (2, lambda: layers.DepthwiseConv2D(2, depth_multiplier=2)),
    "SeparableConv1D": (1, lambda: layers.SeparableConv1D(4, 2)),
    "SeparableConv2D": (2, lambda: layers.SeparableConv2D(4, 2)),
}
MOVING = {
    "AveragePooling2D": lambda: layers.AveragePooling2D(2),
    "AveragePooling2D, strides": lambda: layers.AveragePooling2D(3, strides=1),
    "Cropping2D": lambda: layers.Cropping2D(((1, 0), (0, 2))),
    "Flatten after an average": lambda: layers.GlobalAveragePooling2D(keepdims=True),
    "GlobalAveragePooling2D": lambda: layers.GlobalAveragePooling2D(),
    "Reshape": lambda: layers.Reshape((-1, 4)),
    "UpSampling2D": lambda: layers.UpSampling2D((1, 2)),
}


def model_of(*row, shape=SHAPES[2], **inputs):
    return keras.Sequential([keras.Input(shape, **inputs), *row])


def check_no_match(*row, **shape):
    report = explain(randomize(model_of(*row, **shape)), RULES)
    assert not report.applied
    assert not report.declined


def set_positive(bn, shift=0.0):
    """A normalization with positive scales, and the same shift for all channels."""
    channels = bn.moving_mean.shape[0]
    scale = np.linspace(0.5, 2.0, channels)
    bn.set_weights([scale, np.full(channels, shift), np.zeros(channels), np.ones(channels)])


@pytest.mark.parametrize("kind", LINEAR)
def test_folds(kind):
    rank, linear = LINEAR[kind]
    dtype = "float32" if rank == 3 else DOUBLE  # TensorFlow has no AvgPool3D of float64
    keras.config.set_dtype_policy(dtype)
    pooling = getattr(layers, f"AveragePooling{rank}D")(2, name="pooling")
    model = model_of(linear(), pooling, BatchNormalization(name="bn"), shape=SHAPES[rank])
    tolerance = 1e-5 if rank == 3 else BOUND
    fast = check_rewrites(model, RULES, times=1, tolerance=tolerance)
    assert [type(layer) for layer in fast.layers] == [type(linear()), type(pooling)]
    assert fast.layers[0].use_bias


@pytest.mark.parametrize("moving", MOVING)
def test_moves_past(moving):
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(Conv2D(4, 3), MOVING[moving](), BatchNormalization(epsilon=0.1))
    check_rewrites(model, RULES, times=1, tolerance=BOUND)


def test_moves_past_bilinear_upsampling():  # which TensorFlow computes in float32
    upsampling = layers.UpSampling2D(2, interpolation="bilinear")
    check_rewrites(model_of(Conv2D(4, 3), upsampling, BatchNormalization()), RULES, times=1)


def test_moves_past_several():
    row = [layers.AveragePooling2D(2), layers.UpSampling2D(3), layers.GlobalAveragePooling2D()]
    model = model_of(Conv2D(4, 3, name="conv"), *row, BatchNormalization(name="bn"))
    fast = check_rewrites(model, RULES, times=1)
    assert fast.layers[0].name == "conv"
    assert fast.layers[-1].name == "bn"


def test_moves_to_another_axis():
    row = [layers.Permute((3, 1, 2)), BatchNormalization(axis=1)]
    check_rewrites(model_of(Conv2D(4, 3), *row), RULES, times=1)


def test_moves_past_a_flatten_that_leaves_the_channels():
    row = [layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten(), BatchNormalization()]
    check_rewrites(model_of(Conv2D(4, 3), *row), RULES, times=1)


def test_folds_channels_first():
    first = {"data_format": "channels_first"}
    row = [Conv2D(4, 3, **first), layers.GlobalAveragePooling2D(**first), BatchNormalization()]
    check_rewrites(model_of(*row, shape=(3, 9, 11)), RULES, times=1)


def test_unknown_sizes_stay_unknown():
    row = [Conv2D(4, 3), layers.AveragePooling2D(2), BatchNormalization()]
    model = model_of(*row, shape=(None, None, 3))
    assert check_rewrites(model, RULES, times=1).output_shape == (None, None, None, 4)


@pytest.mark.parametrize(
    ("layer", "shift"),
    [
        (lambda: layers.MaxPooling2D(2), 0.7),
        (lambda: layers.MaxPooling2D(2, strides=1, padding="same"), 0.0),
        (lambda: layers.GlobalMaxPooling2D(), -0.7),
        (lambda: layers.AveragePooling2D(2, padding="same"), 0.0),
        (lambda: layers.ZeroPadding2D(1), 0.0),
    ],
)
def test_folds_where_the_numbers_allow_it(layer, shift):
    bn = BatchNormalization(epsilon=0.0)
    model = randomize(model_of(Conv2D(4, 3), layer(), bn))
    set_positive(bn, shift)
    fast = optimize(model, RULES)
    assert len(fast.layers) == 2
    assert compare(model, fast).relative < 1e-5


@settings(max_examples=12, deadline=None)
@given(
    filters=st.integers(1, 4),
    size=st.integers(8, 10),
    moving=st.lists(
        st.sampled_from(["AveragePooling2D", "Cropping2D", "UpSampling2D"]), max_size=2
    ),
    end=st.sampled_from(["GlobalAveragePooling2D", "UpSampling2D"]),
    seed=st.integers(0, 99),
)
def test_random_rows(filters, size, moving, end, seed):
    keras.config.set_dtype_policy(DOUBLE)
    row = [MOVING[kind]() for kind in [*moving, end]]
    model = model_of(Conv2D(filters, 2), *row, BatchNormalization(), shape=(size, size, 2))
    if all(layer.output.shape[1:] != layer.input.shape[1:] for layer in row):
        check_rewrites(model, RULES, times=1, tolerance=BOUND, seed=seed)


@pytest.mark.parametrize(
    ("sizes", "axis"), [((4, 3, 8), -1), ((12, 8), -1), ((8, 4, 3), 1), ((8, 12), 1)]
)
def test_folds_past_a_reshape_that_makes_positions(sizes, axis):
    row = [Dense(96, use_bias=False), layers.Reshape(sizes), BatchNormalization(axis=axis)]
    fast = check_rewrites(model_of(*row, shape=(5,)), RULES, times=1)
    assert [type(layer) for layer in fast.layers] == [Dense, layers.Reshape]


def test_declines_positions_that_come_to_the_normalization_in_another_order():
    row = [Dense(96), layers.Reshape((8, 12)), layers.Permute((2, 1)), BatchNormalization()]
    check_declines(model_of(*row, shape=(5,)), RULES, reason="spreads the channels")


def test_declines_an_activation():
    row = [Conv2D(4, 3, activation="relu", name="conv"), layers.AveragePooling2D(2)]
    model = model_of(*row, BatchNormalization(name="bn"))
    check_declines(model, RULES, reason="conv applies its activation (relu) before bn")


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: layers.AveragePooling2D(2, padding="same"), "pads, and bn shifts"),
        (lambda: layers.ZeroPadding2D(1), "adds zeros, and bn shifts"),
        (lambda: layers.MaxPooling2D(2), "scales a channel by a number <= 0"),
        (lambda: layers.GlobalMaxPooling2D(), "scales a channel by a number <= 0"),
        (lambda: layers.UpSampling2D(2, interpolation="bicubic"), "interpolation bicubic"),
        (lambda: layers.Flatten(), "bn has 168 channels, conv has others"),
        (lambda: layers.Reshape((4, 42)), "bn has 42 channels, conv has others"),
    ],
)
def test_declines_to_move_past(layer, reason):
    model = model_of(Conv2D(4, 3, name="conv"), layer(), BatchNormalization(name="bn"))
    check_declines(model, RULES, reason=reason, seed=2)  # one that draws a negative gamma


def test_declines_a_shift_past_a_maximum_that_pads():
    bn = BatchNormalization(epsilon=0.0)
    row = [Conv2D(4, 3), layers.MaxPooling2D(2, padding="same"), bn]
    model = randomize(model_of(*row))
    set_positive(bn, 0.5)
    assert "pads, and" in explain(model, RULES).declined[0].reason


def test_declines_another_axis():
    row = [Conv2D(4, 3, name="conv"), layers.AveragePooling2D(2), BatchNormalization(axis=1)]
    check_declines(model_of(*row, shape=(11, 11, 3)), RULES, reason="varies along axis 3")


def test_declines_channels_in_another_order():
    # (2, 4) -> (4, 2): as many channels along the last but one axis, but not the same.
    row = [Dense(4), layers.Reshape((4, 2)), BatchNormalization(axis=1)]
    check_declines(model_of(*row, shape=(2, 3)), RULES, reason="spreads the channels")


def test_declines_channels_of_another_axis_as_many():
    # Each row of the result has one channel of the layer in each place.
    row = [Dense(4), layers.Permute((2, 1)), BatchNormalization()]
    check_no_match(*row, shape=(4, 3))
    row = [Dense(4), layers.Permute((2, 1, 3)), BatchNormalization(axis=2)]
    check_declines(model_of(*row, shape=(4, 5, 3)), RULES, reason="varies along axis 3")


def test_declines_a_change_of_dtype_on_the_way():
    row = [
        Conv2D(4, 3),
        layers.AveragePooling2D(2, dtype="float64"),
        BatchNormalization(dtype="float64"),
    ]
    check_declines(model_of(*row), RULES, reason="turns float32 into float64")


def test_declines_a_change_of_dtype_at_the_end():
    row = [Conv2D(4, 3), layers.AveragePooling2D(2), BatchNormalization(dtype="float64")]
    check_declines(model_of(*row), RULES, reason="turns float32 into float64")


def test_declines_an_average_in_float16():
    keras.config.set_dtype_policy("float16")
    row = [Conv2D(4, 3), layers.AveragePooling2D(2), BatchNormalization()]
    check_declines(model_of(*row), RULES, reason="adds up in float16")


def test_declines_channels_first_as_wide_as_deep():
    # Keras on TensorFlow adds the bias along the width there.
    first = {"data_format": "channels_first"}
    row = [Conv2D(6, 3, **first), layers.GlobalAveragePooling2D(**first), BatchNormalization()]
    check_declines(model_of(*row, shape=(3, 9, 8)), RULES, reason="wrong axis")


def test_declines_statistics_that_are_not_finite():
    bn = BatchNormalization(epsilon=1e-3)
    model = model_of(Conv2D(2, 1), layers.GlobalAveragePooling2D(), bn)
    bn.moving_variance.assign([-1.0, 1.0])
    (declined,) = explain(model, RULES).declined
    assert "not finite" in declined.reason


def test_declines_what_is_used_as_well():
    x = keras.Input((9, 8, 3))
    y = layers.AveragePooling2D(2, name="pooling")(Conv2D(4, 3)(x))
    model = keras.Model(x, layers.Add(name="add")([y, BatchNormalization(name="bn")(y)]))
    check_declines(model, RULES, reason="pooling feeds add as well as bn")


def test_does_not_match_without_a_layer_in_between():
    check_no_match(Conv2D(4, 3, activation="relu"), BatchNormalization())


@pytest.mark.parametrize(
    "layer",
    [layers.ReLU(), layers.Cropping2D(0), layers.UpSampling2D(1), layers.Reshape((7, 6, 4))],
    ids=lambda layer: type(layer).__name__,
)
def test_does_not_match_across_a_layer_that_may_do_nothing(layer):
    check_no_match(Conv2D(4, 3), layer, BatchNormalization())
    check_no_match(Conv2D(4, 3), layers.AveragePooling2D(1), layer, BatchNormalization())


def test_channels_that_come_in_another_order_are_kept():
    bn = BatchNormalization(name="bn")
    mixing = (layers.Reshape((2, 3)), layers.Permute((2, 1)), layers.Reshape((6,)))
    model = model_of(Dense(6, name="dense"), *mixing, bn, shape=(5,))
    # Of two kinds, so that a Reshape puts the kinds along one axis.
    kinds = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    bn.set_weights([kinds, kinds, np.zeros(6), np.ones(6)])

    [declined] = explain(model, RULES).declined
    assert declined.reason == "the channels of dense come to bn in another order"
    assert compare(model, optimize(model, RULES)).relative == 0
