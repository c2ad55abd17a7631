"""Linear layer -> activation layer."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    Activation,
    Add,
    Conv1D,
    Conv1DTranspose,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    Dense,
    DepthwiseConv1D,
    DepthwiseConv2D,
    EinsumDense,
    GlobalAveragePooling1D,
    LeakyReLU,
    Masking,
    ReLU,
    SeparableConv1D,
    SeparableConv2D,
)

from kito import explain, optimize
from kito.rules.activation import LINEAR, linear_activation
from kito.testing import TOLERANCES, check_declines, check_equivalent, check_rewrites

RULES = [linear_activation]
FLOAT64 = max(1e-10, TOLERANCES["float64"])
LAYERS = {
    Conv1D: ((4, 3), (7, 3)),
    Conv1DTranspose: ((4, 3), (7, 3)),
    Conv2D: ((4, 3), (6, 5, 3)),
    Conv2DTranspose: ((4, 3), (6, 5, 3)),
    Conv3D: ((4, 2), (4, 4, 3, 3)),
    Conv3DTranspose: ((4, 2), (4, 4, 3, 3)),
    Dense: ((4,), (3,)),
    DepthwiseConv1D: ((3,), (7, 3)),
    DepthwiseConv2D: ((3,), (6, 5, 3)),
    EinsumDense: (("abc,cd->abd", (5, 4)), (5, 3)),
    SeparableConv1D: ((4, 3), (7, 3)),
    SeparableConv2D: ((4, 3), (6, 5, 3)),
}


def model_of(*row, shape=(3,), **inputs):
    return keras.Sequential([keras.Input(shape, **inputs), *row])


def test_every_class_is_tested():
    assert {*LAYERS} == {*LINEAR}


@pytest.mark.parametrize("cls", LAYERS)
def test_a_linear_layer_applies_the_activation(cls):
    keras.config.set_dtype_policy("float64")
    arguments, shape = LAYERS[cls]
    model = model_of(cls(*arguments), Activation("tanh", name="tanh"), shape=shape)
    (layer,) = check_rewrites(model, RULES, times=1, tolerance=FLOAT64).layers
    assert (type(layer), layer.name) == (cls, "tanh")
    assert layer.activation is keras.activations.tanh


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (lambda: ReLU(), "relu"),
        (lambda: ReLU(max_value=6), "relu6"),
        (lambda: Activation("relu6"), "relu6"),
        (lambda: Activation("softmax"), "softmax"),
        (lambda: Activation("glu"), "glu"),
        (lambda: Activation("linear"), "linear"),
    ],
)
def test_applies_any_activation(activation, name):
    (layer,) = check_rewrites(model_of(Dense(4), activation()), RULES, times=1).layers
    assert layer.activation is getattr(keras.activations, name)


def test_applies_a_softmax_of_the_last_axis_channels_first():
    conv = Conv2D(4, 3, data_format="channels_first")
    check_rewrites(model_of(conv, Activation("softmax"), shape=(3, 8, 7)), RULES, times=1)


@keras.saving.register_keras_serializable("kito_tests")
def cubed(x):
    return x * x * x


@pytest.mark.parametrize("function", [cubed, LeakyReLU(0.3)])
def test_applies_what_keras_can_load(function):
    check_rewrites(model_of(Dense(4), Activation(function)), RULES, times=1)


def test_applies_it_in_low_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    check_rewrites(model_of(Dense(4), ReLU()), RULES, times=1)


def test_keeps_a_mask():
    model = model_of(
        Masking(), Dense(4), Activation("relu"), GlobalAveragePooling1D(), shape=(5, 3)
    )
    check_rewrites(model, RULES, times=1)


def test_calls_of_a_layer_with_two_activations_get_a_layer_each():
    x = keras.Input((50, 3))
    dense = Dense(4)
    model = keras.Model(x, [ReLU()(dense(x)), Activation("tanh")(dense(x))])
    check_rewrites(model, RULES, times=2)


def test_one_activation_layer_of_many_linear_layers():
    x = keras.Input((3,))
    relu = ReLU()
    model = keras.Model(x, Dense(2)(relu(Dense(4)(relu(Dense(5)(relu(x)))))))
    fast = check_rewrites(model, RULES, times=2)
    assert [type(layer) for layer in fast.layers[1:]] == [ReLU, Dense, Dense, Dense]


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(["elu", "gelu", "hard_sigmoid", "leaky_relu", "mish", "silu", "softsign"]),
    units=st.integers(1, 5),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_applies_it_for_any_shape(name, units, shape, seed):
    keras.config.set_dtype_policy("float64")
    model = model_of(Dense(units), Activation(name), shape=tuple(shape))
    check_rewrites(model, RULES, times=1, tolerance=FLOAT64, seed=seed)


@pytest.mark.parametrize("options", [{"negative_slope": 0.1}, {"threshold": 0.5}])
def test_declines_a_slope_or_a_threshold(options):
    model = model_of(Dense(4), ReLU(**options))
    check_declines(model, RULES, reason="has a slope or a threshold, which no activation has")


@pytest.mark.parametrize("value", [0, 1])
def test_declines_another_largest_value(value):
    model = model_of(Dense(4), ReLU(max_value=value))
    check_declines(model, RULES, reason=f"ends at {value}")


def test_declines_a_change_of_dtype():
    # as usual for a softmax at the end
    model = model_of(Dense(4, dtype="mixed_float16"), Activation("softmax", dtype="float32"))
    check_declines(model, RULES, reason="activation turns float16 into float32")


def test_declines_a_linear_layer_that_something_else_reads():
    x = keras.Input((3,))
    y = Dense(4)(x)
    model = keras.Model(x, Add()([y, ReLU()(y)]))
    check_declines(model, RULES, reason="dense feeds add as well as re_lu")


def test_declines_a_linear_layer_that_is_an_output():
    x = keras.Input((3,))
    y = Dense(4)(x)
    check_declines(keras.Model(x, [y, ReLU()(y)]), RULES, reason="dense is an output of the model")


def test_declines_a_function_that_the_configuration_does_not_carry():
    def tanh(x):  # Keras would save its own function of that name
        return x * x

    def squared(x):  # Keras could not load it
        return x * x

    for function in (tanh, squared):
        model = model_of(Dense(4), Activation(function))
        check_declines(model, RULES, reason="has an activation that its configuration can't carry")


def test_leaves_a_layer_that_has_an_activation():
    def linear(x):
        return x * x

    for activation in ("relu", linear):
        model = model_of(Dense(4, activation=activation), Activation("tanh"))
        report = explain(model, RULES)
        assert not report.applied
        assert not report.declined


def test_leaves_a_subclass():
    class Scaled(Dense):
        def call(self, inputs):
            return super().call(inputs) ** 2

    class Doubled(ReLU):
        def call(self, inputs):
            return super().call(inputs) * 2

    model = model_of(Scaled(4), ReLU(), Dense(4), Doubled())
    fast = optimize(model, RULES)
    check_equivalent(model, fast)
    assert len(fast.layers) == 4


def test_it_is_no_reason_to_open_a_layer():
    assert not linear_activation.opens
