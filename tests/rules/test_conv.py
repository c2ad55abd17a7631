"""Convolution -> BatchNormalization."""

import keras
import pytest
from keras.layers import BatchNormalization, Conv1D, Conv2D, Conv3D

from kito import explain
from kito.rules.conv import conv_batchnorm
from kito.testing import check_declines, check_rewrites

RULES = [conv_batchnorm]
SHAPES = {Conv1D: (9, 4), Conv2D: (9, 8, 4), Conv3D: (6, 7, 8, 4)}
FLAGS = [(True, True), (True, False), (False, True), (False, False)]


def model_of(conv, bn, shape=None, **inputs):
    return keras.Sequential([keras.Input(shape or SHAPES[type(conv)], **inputs), conv, bn])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("scale", "center"), FLAGS)
@pytest.mark.parametrize("cls", SHAPES)
def test_folds(cls, scale, center, use_bias, dtype):
    keras.config.set_dtype_policy(dtype)
    model = model_of(
        cls(6, 3, use_bias=use_bias, name="conv"),
        BatchNormalization(scale=scale, center=center, epsilon=0.1, name="bn"),
    )
    fast = check_rewrites(model, RULES, times=1)
    assert [layer.name for layer in fast.layers] == ["bn"]


@pytest.mark.parametrize("cls", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2},
        {"strides": 2, "padding": "same"},
        {"dilation_rate": 2},
        {"dilation_rate": 2, "padding": "same"},
        {"groups": 2},
        {"groups": 4, "padding": "same"},
    ],
    ids=str,
)
def test_folds_whatever_the_geometry(cls, options):
    model = model_of(cls(8, 2, **options), BatchNormalization())
    check_rewrites(model, RULES, times=1)


def test_folds_causal():
    check_rewrites(model_of(Conv1D(5, 3, padding="causal"), BatchNormalization()), RULES, times=1)


@pytest.mark.parametrize("cls", SHAPES)
def test_folds_channels_first(cls):
    model = model_of(
        cls(6, 3, data_format="channels_first"),
        BatchNormalization(axis=1),
        (4, *[9] * cls(1, 1).rank),
    )
    check_rewrites(model, RULES, times=1)


def test_folds_an_axis_that_is_given_from_the_front():
    check_rewrites(model_of(Conv2D(6, 3), BatchNormalization(axis=3)), RULES, times=1)


def test_folds_renorm_which_is_plain_at_inference():
    check_rewrites(model_of(Conv2D(6, 3), BatchNormalization(renorm=True)), RULES, times=1)


def test_folds_a_frozen_normalization():
    bn = BatchNormalization()
    bn.trainable = False
    check_rewrites(model_of(Conv2D(6, 3), bn), RULES, times=1)


def test_folds_twice_in_a_row():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), Conv2D(4, 3), BatchNormalization(), BatchNormalization()]
    )
    fast = check_rewrites(model, RULES, times=2)
    assert len(fast.layers) == 1


def test_unknown_sizes_stay_unknown():
    model = model_of(Conv2D(4, 3), BatchNormalization(), (None, None, 3))
    assert check_rewrites(model, RULES).output_shape == (None, None, None, 4)


def test_drops_what_only_training_reads():
    conv = Conv2D(4, 3, kernel_regularizer="l2", bias_constraint="non_neg")
    fast = check_rewrites(model_of(conv, BatchNormalization()), RULES)
    assert fast.layers[0].kernel_regularizer is None
    assert fast.layers[0].bias_constraint is None


@pytest.mark.parametrize("activation", ["relu", "tanh", keras.activations.silu])
def test_declines_an_activation_in_between(activation):
    model = model_of(Conv2D(4, 3, activation=activation), BatchNormalization())
    check_declines(model, RULES, reason="applies its activation")


def test_declines_another_axis():
    model = model_of(Conv2D(4, 3, padding="same"), BatchNormalization(axis=1), (4, 4, 4))
    check_declines(model, RULES, reason="normalizes axis 1, the channels of conv2d are axis 3")


def test_declines_the_last_axis_of_channels_first():
    model = model_of(
        Conv2D(6, 3, padding="same", data_format="channels_first"), BatchNormalization(), (6, 6, 6)
    )
    check_declines(model, RULES, reason="normalizes axis 3, the channels of conv2d are axis 1")


@pytest.mark.parametrize("width", [8, None])
def test_declines_channels_first_as_wide_as_deep(width):
    # Keras on TensorFlow adds the bias along the width there, so the source must not get one.
    conv = Conv2D(6, 3, data_format="channels_first", use_bias=False)
    model = model_of(conv, BatchNormalization(axis=1), (4, 8, width))
    if width is None:
        from kito import explain

        assert "wrong axis" in explain(model, RULES).declined[0].reason
    else:
        check_declines(model, RULES, reason="wrong axis")


def test_declines_a_subclass():
    class Scaled(Conv2D):
        def call(self, inputs):
            return super().call(inputs) ** 2

    model = model_of(Scaled(4, 3), BatchNormalization(), (8, 8, 3))
    from kito import Report, optimize

    optimize(model, RULES, report=(report := Report()))
    assert not report.applied


def test_declines_statistics_that_are_not_finite():
    from kito import explain

    model = model_of(Conv2D(2, 1), BatchNormalization(epsilon=1e-3))
    model.layers[1].moving_variance.assign([-1.0, 1.0])
    (declined,) = explain(model, RULES).declined
    assert "not finite" in declined.reason


def test_declines_a_change_of_dtype():
    model = model_of(Conv2D(4, 3, dtype="float64"), BatchNormalization(dtype="float32"))
    check_declines(model, RULES, reason="turns float64 into float32")


@pytest.mark.parametrize("kernel", [1e25, 1e-5])
def test_declines_a_kernel_that_leaves_its_range(kernel):
    """Its products with small numbers would be numbers, those of infinity are not."""
    conv = Conv2D(4, 1, use_bias=False, kernel_initializer=keras.initializers.Constant(kernel))
    bn = BatchNormalization(gamma_initializer=keras.initializers.Constant(1e20))
    model = model_of(conv, bn)
    report = explain(model, RULES)
    if kernel > 1:
        [declined] = report.declined
        assert declined.reason == "a kernel scaled by 1e+20 leaves the range of its dtype"
    else:
        assert report.applied
