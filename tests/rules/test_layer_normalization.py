"""LayerNormalization -> linear layer."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Dense,
    DepthwiseConv2D,
    EinsumDense,
    LayerNormalization,
    SeparableConv2D,
)

from kito import explain
from kito.definition import TARGETS
from kito.rules.layer_normalization import layer_normalization_dense
from kito.testing import check_declines, check_rewrites

# Keras 3.15 on PyTorch gives a product of float64 matrices as float32.
FLOAT64 = "float32" if keras.backend.backend() == "torch" else "float64"
RULES = [layer_normalization_dense]


def model_of(norm, linear, shape=(5, 4)):
    # a LayerNormalization computes in the dtype of what it gets
    return keras.Sequential([keras.Input(shape, dtype=norm.compute_dtype), norm, linear])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("scale", "center"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("shape", [(4,), (5, 4), (None, 4)])
def test_moves(shape, scale, center, use_bias):
    keras.config.set_dtype_policy(FLOAT64)
    norm = LayerNormalization(scale=scale, center=center, epsilon=0.1, name="norm")
    linear = Dense(4, use_bias=use_bias, activation="gelu", name="dense")
    fast = check_rewrites(model_of(norm, linear, shape), RULES, times=1)
    assert [layer.name for layer in fast.layers] == ["norm", "dense"]
    assert not fast.layers[0].weights
    assert fast.layers[1].use_bias == (use_bias or center)


LAYERS = [
    (Conv1D(6, 3), (7, 4)),
    (Conv2D(6, 1), (7, 5, 4)),
    (Conv2D(6, 1, padding="same", strides=2), (7, 5, 4)),
    (Conv2D(6, (2, 3), strides=2), (7, 5, 4)),
    (Conv2D(6, 3, dilation_rate=2, groups=2), (7, 6, 4)),
    (Conv3D(8, 2, groups=4), (3, 4, 5, 4)),
    (DepthwiseConv2D(3, depth_multiplier=2), (7, 5, 4)),
    (SeparableConv2D(6, 3), (7, 5, 4)),
]


@pytest.mark.parametrize(("linear", "shape"), LAYERS)
def test_moves_into_a_convolution(linear, shape):
    copy = type(linear).from_config(linear.get_config() | {"dtype": "float64"})
    model = model_of(LayerNormalization(dtype="float64"), copy, shape)
    check_rewrites(model, RULES, times=1)


@pytest.mark.parametrize("axis", [2, -1, [-1], (2,)])
def test_moves_however_the_axis_is_given(axis):
    check_rewrites(model_of(LayerNormalization(axis=axis), Dense(3)), RULES, times=1)


@pytest.mark.parametrize(
    "linear", [Conv2D(3, 3, padding="same"), Conv2DTranspose(3, 3)], ids=["same", "transposed"]
)
def test_moves_the_scale_alone_before_padding(linear):
    copy = type(linear).from_config(linear.get_config())
    check_rewrites(model_of(LayerNormalization(center=False), copy, (5, 5, 4)), RULES, times=1)


def test_declines_a_shift_before_a_transposed_convolution():
    model = model_of(LayerNormalization(name="norm"), Conv2DTranspose(3, 3, name="up"), (5, 5, 4))
    check_declines(model, RULES, reason="up is transposed, and norm shifts")


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_moves_any(data):
    keras.config.set_dtype_policy(FLOAT64)
    groups = data.draw(st.integers(1, 3))
    channels = groups * data.draw(st.integers(2, 3))  # of one channel only rounding is left
    conv = Conv2D(
        groups * data.draw(st.integers(1, 3)),
        data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        strides=data.draw(st.integers(1, 2)),
        groups=groups,
        use_bias=data.draw(st.booleans()),
    )
    norm = LayerNormalization(epsilon=data.draw(st.sampled_from([1e-6, 1e-3, 0.5])))
    model = model_of(norm, conv, (5, 4, channels))
    check_rewrites(model, RULES, times=1)


def queries_keys_values(*others):
    inputs = keras.Input((6, 8))
    x = LayerNormalization(name="norm")(inputs)
    q, k, v = (Dense(8, use_bias=name != "key", name=name)(x) for name in ("query", "key", "value"))
    y = keras.layers.Attention(name="attention")([q, v, k])
    return keras.Model(inputs, [y, *(other(x) for other in others)])


def test_moves_into_all_that_read_it():
    fast = check_rewrites(queries_keys_values(), RULES, times=1)
    norms = [layer for layer in fast.layers if isinstance(layer, LayerNormalization)]
    assert [layer.name for layer in norms] == ["norm"]
    assert not norms[0].weights
    assert {"query", "key", "value"} <= {layer.name for layer in fast.layers}


def test_moves_into_the_projections_of_several_heads():
    inputs = keras.Input((6, 8))
    x = LayerNormalization(name="norm")(inputs)
    q, k, v = (
        EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes=axes)(x) for axes in ("de", None, "e")
    )
    scores = keras.ops.softmax(keras.ops.einsum("bthd,bshd->bhts", q, k))
    y = keras.ops.einsum("bhts,bshd->bthd", scores, v)
    fast = check_rewrites(keras.Model(inputs, y), RULES, times=1)
    assert not fast.get_layer("norm").weights


def test_moves_into_outputs():
    inputs = keras.Input((5, 4))
    x = LayerNormalization()(inputs)
    model = keras.Model(inputs, {name: Dense(3, name=name)(x) for name in ("one", "two")})
    fast = check_rewrites(model, RULES, times=1)
    assert fast.output_names == model.output_names


def test_declines_one_reader_that_cannot_take_it_in():
    model = queries_keys_values(Conv1D(3, 3, padding="same", name="conv"))
    check_declines(model, RULES, reason="conv pads with zeros, and norm shifts")


def test_declines_another_reader():
    model = queries_keys_values(keras.layers.ReLU(name="relu"))
    check_declines(model, RULES, reason="norm feeds relu as well as query")


def test_declines_a_reader_that_is_called_elsewhere_too():
    inputs, other = keras.Input((2, 4)), keras.Input((2, 4))
    dense = Dense(50, name="big")
    x = LayerNormalization(name="norm")(inputs)
    ends = [keras.layers.ReLU()(dense(x)), Dense(2)(x), keras.layers.ReLU()(dense(other))]
    model = keras.Model([inputs, other], ends)
    check_declines(model, RULES, reason="big is called 2 times; a copy for this call")


@pytest.mark.parametrize("padding", ["same", "causal"])
def test_declines_a_shift_before_padding(padding):
    model = model_of(LayerNormalization(name="norm"), Conv1D(3, 3, padding=padding))
    check_declines(model, RULES, reason="pads with zeros, and norm shifts")


@pytest.mark.parametrize("axis", [1, [1, 2]])
def test_declines_other_axes(axis):
    model = model_of(LayerNormalization(axis=axis), Dense(3), (4, 4))
    check_declines(model, RULES, reason="not the last one only")


def test_declines_channels_first():
    conv = Conv2D(3, 1, data_format="channels_first")
    model = model_of(LayerNormalization(), conv, (4, 3, 4))
    check_declines(model, RULES, reason="varies along axis 3, the channels are axis 1")


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`")
def test_declines_rms_scaling():
    model = model_of(LayerNormalization(rms_scaling=True), Dense(3))
    check_declines(model, RULES, reason="has rms_scaling")


def test_declines_a_change_of_dtype():
    model = model_of(LayerNormalization(dtype="float64"), Dense(3, dtype="float32"))
    check_declines(model, RULES, reason="turns float64 into float32")


def test_declines_a_normalized_tensor_that_is_used_as_well():
    inputs = keras.Input((5, 4))
    x = LayerNormalization(name="norm")(inputs)
    model = keras.Model(inputs, keras.layers.Add(name="add")([x, Dense(4, name="dense")(x)]))
    check_declines(model, RULES, reason="norm feeds add as well as dense")


def test_declines_weights_that_are_not_finite():
    model = model_of(LayerNormalization(name="norm"), Dense(3))
    model.layers[0].beta.assign([np.inf, 0, 0, 0])
    (declined,) = explain(model, RULES).declined
    assert declined.reason == "a weight of norm is not finite"


def test_declines_float16_out_of_range():
    keras.config.set_dtype_policy("mixed_float16")
    model = model_of(LayerNormalization(), Dense(3))
    model.layers[0].gamma.assign([1, 1, 1, 1e-3])
    (declined,) = explain(model, RULES).declined
    assert "range of float16" in declined.reason


def test_does_not_mention_what_has_nothing_to_move():
    model = model_of(LayerNormalization(scale=False, center=False), Dense(3))
    report = explain(model, RULES)
    assert not report.applied
    assert not report.declined


def test_is_a_default_where_it_was_measured_to_help():
    found = {each for each in TARGETS if layer_normalization_dense.is_default(each)}
    assert found == {"tensorflow", "onnx", "litert"}


def test_declines_integers_to_which_keras_rounds():
    inputs = keras.Input((5,), dtype="int32")
    model = keras.Model(inputs, Dense(3)(LayerNormalization(name="norm")(inputs)))
    (declined,) = explain(model, RULES).declined
    assert declined.reason == "norm reads int32"


def test_declines_integers_that_a_layer_hands_on():
    # Keras infers floats of the ReLU.
    x = keras.Input((5, 4), dtype="int32")
    y = LayerNormalization(name="norm")(keras.layers.ReLU()(x))
    check_declines(keras.Model(x, Dense(4)(y)), RULES, reason="norm reads")
