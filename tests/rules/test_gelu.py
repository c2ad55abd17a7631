import keras
import pytest
from keras import layers
from keras.layers import Activation, Conv2D, Dense

import kito
from kito.rules.gelu import gelu
from kito.testing import check_rewrites

RULES = [gelu]


def model_of(*parts, shape=(6, 4)):
    return keras.Sequential([keras.Input(shape), *parts])


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16"])
def test_writes_an_activation_with_the_error_function(policy):
    keras.config.set_dtype_policy(policy)
    fast = check_rewrites(model_of(Dense(5), Activation("gelu", name="act")), RULES, times=1)
    assert fast.layers[-1].name == "act"
    assert fast.output.dtype == keras.config.dtype_policy().compute_dtype


def test_writes_the_activation_inside_a_layer():
    fast = check_rewrites(model_of(Conv2D(4, 3, activation="gelu"), shape=(8, 8, 3)), RULES)
    conv = next(layer for layer in fast.layers if isinstance(layer, Conv2D))
    assert conv.activation is keras.activations.linear


def test_far_from_zero():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, Activation("gelu")(inputs))
    fast = kito.optimize(model, RULES)
    values = keras.ops.convert_to_tensor([[-20.0], [-5.0], [0.0], [5.0], [20.0]])
    difference = keras.ops.max(keras.ops.abs(model(values) - fast(values)))
    assert float(difference) < 1e-5


@pytest.mark.parametrize(
    "activation", ["relu", "silu", lambda x: keras.activations.gelu(x, approximate=True)]
)
def test_leaves_other_activations_alone(activation):
    model = model_of(Dense(5, activation=activation), layers.Activation(activation))
    assert not kito.explain(model, RULES).applied


def test_leaves_an_activation_in_training_alone():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Dense(3, activation="gelu", name="dense")(inputs, training=True))
    [declined] = kito.explain(model, RULES).declined
    assert declined.reason == "dense is called with training=True"
