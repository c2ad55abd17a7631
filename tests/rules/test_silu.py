"""silu -> x * sigmoid(x)."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    Activation,
    Conv1D,
    Conv2D,
    Conv3D,
    Dense,
    DepthwiseConv1D,
    DepthwiseConv2D,
    Embedding,
    GlobalAveragePooling1D,
    Masking,
    Multiply,
    ReLU,
)

from kito import compare, explain, optimize
from kito.rules.activation import linear_activation
from kito.rules.silu import LAYERS, silu
from kito.testing import TOLERANCES, check_declines, check_rewrites

RULES = [silu]
FLOAT64 = max(1e-10, TOLERANCES["float64"])
SHAPES = {
    Activation: ((), (5, 3)),
    Conv1D: ((4, 3), (7, 3)),
    Conv2D: ((4, 3), (6, 5, 3)),
    Conv3D: ((4, 2), (4, 4, 3, 3)),
    Dense: ((4,), (3,)),
    DepthwiseConv1D: ((3,), (7, 3)),
    DepthwiseConv2D: ((3,), (6, 5, 3)),
}


def layer_of(cls, activation="silu"):
    return cls(*SHAPES[cls][0], activation=activation, name="layer")


def model_of(*row, shape=(3,), **inputs):
    return keras.Sequential([keras.Input(shape, **inputs), *row])


def test_every_class_is_tested():
    assert {*SHAPES} == {*LAYERS}


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_the_result_is_loaded_from_a_legacy_file(tmp_path):
    """There, Keras finds layers only, no operations."""
    fast = optimize(model_of(layer_of(Dense)), RULES)
    fast.save(tmp_path / "fast.h5")
    loaded = keras.models.load_model(tmp_path / "fast.h5")
    assert compare(fast, loaded).relative == 0


@pytest.mark.parametrize("cls", SHAPES)
def test_multiplies_by_the_sigmoid(cls):
    keras.config.set_dtype_policy("float64")
    model = model_of(layer_of(cls), shape=SHAPES[cls][1])
    fast = check_rewrites(model, RULES, times=1, tolerance=FLOAT64)
    assert type(fast.layers[-1]) is Multiply
    assert fast.layers[-1].name == "layer"


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("cls", [Activation, Dense])
def test_computes_in_the_precision_of_the_layer(cls, policy):
    keras.config.set_dtype_policy(policy)
    model = model_of(layer_of(cls), shape=SHAPES[cls][1])
    check_rewrites(model, RULES, times=1)


def test_does_not_compute_in_the_lower_precision_of_the_input():
    model = model_of(Activation("silu", dtype="float64"), dtype="float16")
    check_rewrites(model, RULES, times=1, tolerance=FLOAT64)


def test_takes_swish_for_silu():
    check_rewrites(model_of(Activation(keras.activations.swish)), RULES, times=1)


def test_keeps_the_rest_of_the_layer():
    conv = Conv2D(4, 3, strides=2, groups=2, padding="same", use_bias=False, activation="silu")
    fast = check_rewrites(model_of(conv, shape=(None, 5, 6)), RULES, times=1)
    (new,) = (layer for layer in fast.layers if type(layer) is Conv2D)
    assert (new.strides, new.groups, new.padding, new.use_bias) == ((2, 2), 2, "same", False)
    assert fast.output_shape == (None, None, 3, 4)


def test_takes_a_tensor_without_any_axis_but_the_batch():
    check_rewrites(model_of(Activation("silu"), shape=()), RULES, times=1)


def test_calls_of_one_layer_share_what_it_becomes():
    x = keras.Input((3,))
    dense = Dense(3, activation="silu")
    fast = check_rewrites(keras.Model(x, ReLU()(dense(dense(x)))), RULES, times=2)
    assert sum(type(layer) is Dense for layer in fast.layers) == 1


def test_an_output_keeps_its_name():
    x = keras.Input((3,))
    y = Dense(4, activation="silu", name="y")(x)
    fast = check_rewrites(keras.Model(x, [y, ReLU(name="z")(y)]), RULES, times=1)
    assert fast.output_names == ["y", "z"]


def test_declines_a_mask_that_an_operation_would_lose():
    row = [Masking(), Dense(4, activation="silu"), GlobalAveragePooling1D()]
    check_declines(model_of(*row, shape=(5, 3)), RULES, reason="a mask runs through dense")


def words(*row):
    """A model that looks up words, of which some are masked."""
    return model_of(Embedding(5, 3, mask_zero=True), *row, shape=(6,), dtype="int32")


@pytest.mark.filterwarnings("ignore:.*destroy the mask information:UserWarning")
@pytest.mark.parametrize("nested", [False, True])
def test_declines_what_multiply_would_mask(nested):
    """Where its tensors are masked, Multiply gives zero, and silu does not."""
    layer = Activation("silu", name="silu")
    model = words(keras.Sequential([keras.Input((6, 3)), layer]) if nested else layer)
    check_declines(model, RULES, reason="a mask runs through silu")


def test_the_linear_layer_before_it_takes_no_part():
    model = model_of(Dense(4), Activation("silu"))
    fast = check_rewrites(model, [silu, linear_activation], times=2)
    assert [type(layer) for layer in fast.layers[1:]] == [Dense, Activation, Multiply]
    assert fast.layers[1].get_config()["activation"] == "linear"


@settings(max_examples=10, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), max_size=3),
    cls=st.sampled_from([Activation, Dense]),
    seed=st.integers(0, 99),
)
def test_multiplies_whatever_the_shape(shape, cls, seed):
    keras.config.set_dtype_policy("float64")
    model = model_of(layer_of(cls), shape=(*shape, 3))
    check_rewrites(model, RULES, times=1, tolerance=FLOAT64, seed=seed)


@pytest.mark.parametrize("cls", [Activation, Dense])
def test_leaves_other_activations(cls):
    def silu(x):  # not that of Keras
        return x * x

    def my_silu(x):  # Keras could not load it
        return x * x

    for activation in ("relu", "hard_silu", silu, my_silu):
        model = model_of(layer_of(cls, activation), shape=SHAPES[cls][1])
        report = explain(model, RULES)
        assert not report.applied
        assert not report.declined


def test_leaves_a_subclass():
    class Scaled(Dense):
        def call(self, inputs):
            return super().call(inputs) ** 2

    model = model_of(Scaled(4, activation="silu"))
    assert not explain(model, RULES).applied


def test_is_for_tensorflow():
    assert silu.is_default("tensorflow")
    assert silu.is_default("openvino")
    assert not silu.is_default("jax")
    assert not silu.opens
