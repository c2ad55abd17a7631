"""BatchNormalization that stays alone."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    DepthwiseConv2D,
    LeakyReLU,
    Masking,
    ReLU,
)

import kito
from kito import explain
from kito.rules.activation import linear_activation
from kito.rules.conv import conv_batchnorm
from kito.rules.depthwise import depthwise_conv_batchnorm
from kito.rules.lone_batchnorm import lone_batchnorm
from kito.testing import check_declines, check_rewrites

RULES = [lone_batchnorm]


def model_of(*row, shape=(5, 4, 3), **inputs):
    return keras.Sequential([keras.Input(shape, **inputs), *row])


@pytest.mark.parametrize("axis", [-1, 3])
@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, True), (True, False)])
def test_becomes_a_depthwise_convolution(scale, center, axis):
    bn = BatchNormalization(axis=axis, scale=scale, center=center, epsilon=0.1, name="bn")
    (layer,) = check_rewrites(model_of(bn), RULES, times=1).layers
    assert (type(layer), layer.name, layer.kernel_size) == (DepthwiseConv2D, "bn", (1, 1))


def test_the_kernel_is_the_scale_and_the_bias_the_shift():
    bn = BatchNormalization(epsilon=0)
    model = model_of(bn, shape=(5, 4, 2))
    bn.set_weights([np.array(row) for row in ([1.0, -2.0], [1.0, 1.0], [3.0, 4.0], [4.0, 16.0])])
    from kito import optimize

    (layer,) = optimize(model, RULES).layers
    np.testing.assert_allclose(np.ravel(layer.kernel), [0.5, -0.5])
    np.testing.assert_allclose(layer.bias, [-0.5, 3.0])


@pytest.mark.parametrize("shape", [(None, None, 3), (5, 4, 1)])
def test_sizes_need_not_be_known(shape):
    model = model_of(BatchNormalization(), shape=shape)
    assert check_rewrites(model, RULES, times=1).output_shape == model.output_shape


@pytest.mark.parametrize("dtype", ["float16", "float64"])  # cast to float32 by either layer
def test_reads_other_floating_dtypes(dtype):
    check_rewrites(model_of(BatchNormalization(), dtype=dtype), RULES, times=1, tolerance=1e-5)


def test_calls_of_one_normalization_share_what_it_becomes():
    x = keras.Input((5, 4, 3))
    bn = BatchNormalization()
    fast = check_rewrites(keras.Model(x, Add()([bn(x), bn(ReLU()(x))])), RULES, times=2)
    assert sum(type(layer) is DepthwiseConv2D for layer in fast.layers) == 1


@pytest.mark.parametrize("behind", [LeakyReLU, lambda **_: Activation("mish"), keras.layers.ELU])
def test_tensorflow_fuses_nothing_wrong_behind_an_addition(behind):
    x = keras.Input((8, 8, 4))
    model = keras.Model(x, behind(name="behind")(Add()([BatchNormalization()(x), x])))
    check_rewrites(model, RULES, times=1)


def test_waits_for_the_rules_that_fold():
    model = model_of(Conv2D(4, 3), BatchNormalization())
    fast = check_rewrites(model, [lone_batchnorm, conv_batchnorm], times=1)
    assert [type(layer) for layer in fast.layers] == [Conv2D]


def test_the_convolution_takes_in_what_follows():
    model = model_of(BatchNormalization(), BatchNormalization(), ReLU())
    rules = [lone_batchnorm, depthwise_conv_batchnorm, linear_activation]
    (layer,) = check_rewrites(model, rules, times=3).layers
    assert layer.activation is keras.activations.relu


@settings(max_examples=10, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    epsilon=st.floats(1e-5, 1),
    seed=st.integers(0, 99),
)
def test_becomes_a_depthwise_convolution_for_any_shape(shape, epsilon, seed):
    model = model_of(BatchNormalization(epsilon=epsilon), shape=shape)
    check_rewrites(model, RULES, times=1, seed=seed)


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 4, 4), 1), ((4, 4, 4), 2), ((5, 4), -1), ((2, 3, 4, 5), -1), ((4,), 1)]
)
def test_leaves_alone_what_is_no_picture_with_its_channels_last(shape, axis):
    model = model_of(BatchNormalization(axis=axis), shape=shape)
    assert not kito.explain(model, RULES).applied


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [("float16", "float16"), ("mixed_bfloat16", "bfloat16"), ("float64", "float64")],
)
def test_declines_another_precision(policy, dtype):
    keras.config.set_dtype_policy(policy)
    check_declines(model_of(BatchNormalization()), RULES, reason=f"computes in {dtype}")


def test_declines_what_is_empty():
    model = model_of(BatchNormalization(name="bn"), shape=(0, 4, 3))
    [declined] = explain(model, RULES).declined
    assert declined.reason == "the output of bn is empty"


def test_declines_statistics_that_are_not_finite():
    model = model_of(BatchNormalization(), shape=(5, 4, 2))
    model.layers[0].moving_variance.assign([-1.0, 1.0])
    (declined,) = explain(model, RULES).declined
    assert "not finite" in declined.reason


def test_declines_integers():
    # a normalization casts them, a convolution does not take them
    model = model_of(BatchNormalization(), dtype="int32")
    check_declines(model, RULES, reason="batch_normalization reads int32")


def test_declines_a_normalization_that_is_called_as_in_training():
    x = keras.Input((5, 4, 3))
    model = keras.Model(x, BatchNormalization()(x, training=True))
    check_declines(model, RULES, reason="is called with training=True")


def test_declines_a_mask():
    # a normalization passes it on, a convolution does not
    model = model_of(Masking(), BatchNormalization())
    check_declines(model, RULES, reason="a mask runs through batch_normalization")


def test_leaves_a_subclass():
    class Scaled(BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask) * 2

    assert not explain(model_of(Scaled()), RULES).applied


def test_is_for_tensorflow_and_what_is_exported():
    assert lone_batchnorm.is_default("tensorflow")
    assert lone_batchnorm.is_default("onnx")
    assert not lone_batchnorm.is_default("torch")
    assert not lone_batchnorm.opens
