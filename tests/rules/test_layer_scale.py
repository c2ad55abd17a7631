"""Linear layer -> LayerScale."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    Conv1D,
    Conv2D,
    Conv3D,
    Dense,
    DepthwiseConv1D,
    DepthwiseConv2D,
    EinsumDense,
)

from kito import optimize
from kito.graph.keras_internals import LayerScale
from kito.rules.layer_scale import layer_scale
from kito.testing import check_declines, check_equivalent, check_rewrites

# Keras 3.15 on PyTorch gives a product of float64 matrices as float32.
FLOAT64 = "float32" if keras.backend.backend() == "torch" else "float64"
RULES = [layer_scale]
LAYERS = [
    lambda **options: Dense(6, **options),
    lambda **options: Conv1D(6, 3, **options),
    lambda **options: Conv2D(6, 3, padding="same", groups=3, **options),
    lambda **options: Conv3D(6, 2, strides=2, **options),
    lambda **options: DepthwiseConv1D(3, **options),
    lambda **options: DepthwiseConv2D(3, depth_multiplier=2, **options),
]
SHAPES = {
    Dense: (3,),
    Conv1D: (9, 3),
    Conv2D: (6, 6, 3),
    Conv3D: (6, 5, 4, 3),
    DepthwiseConv1D: (9, 3),
    DepthwiseConv2D: (6, 7, 3),
}


def model_of(linear, shape=None, size=None, **options):
    inputs = keras.Input(shape or SHAPES[type(linear)])
    x = linear(inputs)
    scale = LayerScale(1e-6, x.shape[-1] if size is None else size, name="scale", **options)
    return keras.Model(inputs, scale(x))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("make", LAYERS)
def test_folds(make, use_bias):
    keras.config.set_dtype_policy(FLOAT64)
    fast = check_rewrites(model_of(make(use_bias=use_bias)), RULES, times=1)
    assert fast.layers[1].use_bias == use_bias
    assert [layer.name for layer in fast.layers[1:]] == ["scale"]


@pytest.mark.parametrize("bias_axes", [None, "e", "d", "de"])
def test_folds_into_an_einsum_dense(bias_axes):
    keras.config.set_dtype_policy(FLOAT64)
    einsum = EinsumDense("abc,cde->abde", (5, 2, 4), bias_axes=bias_axes)
    fast = check_rewrites(model_of(einsum, (5, 3)), RULES, times=1)
    assert fast.layers[1].bias_axes == {None: None, "e": "e", "d": "de", "de": "de"}[bias_axes]


def test_folds_where_sizes_are_not_known():
    check_rewrites(model_of(Conv2D(4, 3), (None, None, 3)), RULES, times=1)


@settings(max_examples=10, deadline=None)
@given(channels=st.integers(1, 4), multiplier=st.integers(1, 3), seed=st.integers(0, 99))
def test_folds_any_depthwise(channels, multiplier, seed):
    keras.config.set_dtype_policy(FLOAT64)
    conv = DepthwiseConv2D(2, depth_multiplier=multiplier)
    model = model_of(conv, (3, 3, channels))
    check_rewrites(model, RULES, times=1, seed=seed)


def test_declines_an_activation_in_between():
    check_declines(model_of(Dense(4, activation="gelu"), (3,)), RULES, reason="applies its activ")


def test_declines_channels_first():
    conv = Conv2D(4, 1, data_format="channels_first")
    check_declines(model_of(conv, (3, 5, 4)), RULES, reason="scales the last axis")


def test_declines_one_weight_for_all():
    check_declines(model_of(Dense(4), (3,), size=1), RULES, reason="1 weights for 4 channels")


def test_declines_weights_that_make_channels():
    check_declines(model_of(Dense(1), (3,), size=4), RULES, reason="4 weights for 1 channels")


def test_declines_a_change_of_dtype():
    model = model_of(Dense(4, dtype="float64"), (3,), dtype="float32")
    check_declines(model, RULES, reason="turns float64 into float32")


def test_declines_weights_that_are_not_finite():
    from kito import explain

    model = model_of(Dense(2), (3,))
    model.get_layer("scale").gamma.assign([float("inf"), 1.0])
    (declined,) = explain(model, RULES).declined
    assert declined.reason == "a weight of scale is not finite"


def test_declines_float16_out_of_range():
    from kito import explain

    keras.config.set_dtype_policy("float16")
    (declined,) = explain(model_of(Dense(4), (3,)), RULES).declined  # all weights are 1e-6
    assert "range of float16" in declined.reason


def test_declines_an_axis_that_the_einsum_kernel_does_not_have():
    einsum = EinsumDense("acb,cd->adb", (4, 4))
    model = model_of(einsum, (3, 4))
    check_declines(model, RULES, reason="does not have axis 2 of the output")


def test_declines_a_scaled_output_that_is_used_as_well():
    inputs = keras.Input((3,))
    x = Dense(4, name="dense")(inputs)
    model = keras.Model(inputs, keras.layers.Add(name="add")([x, LayerScale(1.0, 4)(x)]))
    check_declines(model, RULES, reason="dense feeds")


def test_leaves_a_subclass():
    class Other(LayerScale):
        def call(self, x):
            return x * self.gamma**2

    model = keras.Sequential([keras.Input((3,)), Dense(4), Other(0.5, 4)])
    fast = optimize(model, RULES)
    assert len(fast.layers) == 2
    check_equivalent(model, fast)


def test_folds_once_loaded(tmp_path):
    # a file may give the weight another name
    model_of(Dense(4), (3,)).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras", {"LayerScale": LayerScale})
    check_rewrites(model, RULES, times=1)
