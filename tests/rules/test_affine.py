"""Affine maps per channel, as `affine_linear` reads them."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import BatchNormalization, Conv2D, Dense, Embedding, Normalization, Rescaling

from kito import compare, explain, optimize
from kito.rules.affine_linear import affine_linear
from kito.testing import check_declines, check_rewrites
from tests.exact import BOUND, DOUBLE

RULES = [affine_linear]
VECTOR = np.array([0.5, -2.0, 3.0], "float32")
ADDITIONS = {
    "x + c": lambda x, c: x + c,
    "c + x": lambda x, c: keras.ops.add(c, x),
    "x - c": lambda x, c: x - c,
    "c - x": lambda x, c: keras.ops.subtract(c, x),
    "add": lambda x, c: keras.ops.add(x2=x, x1=c),
    "subtract": lambda x, c: keras.ops.subtract(c, x2=x),
}
PRODUCTS = {
    "x * c": lambda x, c: x * c,
    "c * x": lambda x, c: keras.ops.multiply(c, x),
    "x / c": lambda x, c: x / c,
    "divide": keras.ops.divide,
    "multiply": lambda x, c: keras.ops.multiply(x1=x, x2=c),
}
ARITHMETIC = ADDITIONS | PRODUCTS
CONSTANTS = {
    "number": 3,
    "float": 0.25,
    "numpy number": np.float32(0.25),
    "integers": np.array([1, 2, 3]),
    "vector": VECTOR,
    "image": VECTOR.reshape(1, 1, 1, 3),
}


def model_of(function, shape=(5, 4, 3), linear=None, **inputs):
    x = keras.Input(shape, **inputs)
    return keras.Model(x, (linear or Dense(4))(function(x)))


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("function", ARITHMETIC)
def test_arithmetic(function, constant):
    model = model_of(lambda x: ARITHMETIC[function](x, CONSTANTS[constant]))
    fast = check_rewrites(model, RULES, times=1)
    assert len(fast.layers) == 2


@pytest.mark.parametrize("function", ARITHMETIC)
def test_arithmetic_in_float64(function):
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(lambda x: ARITHMETIC[function](x, VECTOR.astype(DOUBLE)), dtype=DOUBLE)
    check_rewrites(model, RULES, times=1, tolerance=BOUND)


@pytest.mark.parametrize("function", [lambda x: 0.1 * x + 0.3, lambda x: (1 - x) / 0.7])
def test_numbers_in_float64(function):
    keras.config.set_dtype_policy(DOUBLE)
    check_rewrites(model_of(function, dtype=DOUBLE), RULES, times=2, tolerance=BOUND)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Rescaling(1 / 127.5, offset=-1),
        lambda: Rescaling([0.1, 0.2, 0.3]),
        lambda: Rescaling(2.0, offset=[0.1, 0.2, 0.3]),
        lambda: Rescaling(np.array([0.1, 0.2, 0.3]), offset=(1, 2, 3)),
        lambda: BatchNormalization(epsilon=0.1),
        lambda: BatchNormalization(scale=False, center=False),
        lambda: Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 0.5, 1.0]),
        lambda: Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 0.5, 1.0], invert=True),
        lambda: Normalization(mean=0.1, variance=0.3),
        lambda: Normalization(axis=None, mean=0.1, variance=0.3, invert=True),
        lambda: Normalization(mean=[0.0, 0.0, 1.0], variance=[1.0, 2.0, 3.0]),
    ],
)
def test_layers_in_float64(layer):
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(lambda x: layer()(x), dtype=DOUBLE)
    check_rewrites(model, RULES, times=1, tolerance=BOUND)


@pytest.mark.parametrize("invert", [True, False])
def test_a_normalization_that_was_adapted(invert):
    layer = Normalization(invert=invert)
    layer.adapt(np.random.default_rng(0).normal(2, 3, (20, 5, 4, 3)))
    model = model_of(layer)
    fast = optimize(model, RULES)
    assert len(fast.layers) == 2
    assert compare(model, fast).relative < 1e-5


@pytest.mark.parametrize("invert", [True, False])
def test_no_deviation_is_less_than_epsilon(invert):
    # 1e-7: of 0 and 1e-20 Keras makes the same. The mean keeps the shift small.
    keras.config.set_dtype_policy(DOUBLE)
    layer = Normalization(mean=[0.0, 0.0, 1.0], variance=[0.0, 1e-20, 2.0], invert=invert)
    check_rewrites(model_of(layer, dtype=DOUBLE), RULES, times=1, tolerance=BOUND)


@pytest.mark.parametrize("function", sorted(ARITHMETIC))
def test_a_constant_that_is_a_tensor(function):
    constant = keras.ops.convert_to_tensor([-3.5, 0.125, 2.0])
    check_rewrites(model_of(lambda x: ARITHMETIC[function](x, constant)), RULES, times=1)


@settings(max_examples=12, deadline=None)
@given(
    function=st.sampled_from(sorted(ARITHMETIC)),
    constant=st.lists(st.sampled_from([-3.5, -1.0, 0.125, 2.0, 7.0]), min_size=1, max_size=4),
    rank=st.integers(1, 3),
    spread=st.booleans(),
)
def test_random_arithmetic(function, constant, rank, spread):
    keras.config.set_dtype_policy(DOUBLE)
    array = np.array(constant).reshape((1,) * (rank if spread else 0) + (-1,))
    model = model_of(
        lambda x: ARITHMETIC[function](x, array),
        (2,) * (rank - 1) + (len(constant),),
        dtype=DOUBLE,
    )
    check_rewrites(model, RULES, times=1, tolerance=BOUND)


@pytest.mark.parametrize("function", [lambda x: 2 / x, lambda x: keras.ops.divide(VECTOR, x)])
def test_declines_a_division_by_the_tensor(function):
    check_declines(model_of(function), RULES, reason="divides by the tensor")


def test_declines_a_division_by_zero():
    model = model_of(lambda x: x / np.array([0.0, 1.0, 2.0], "float32"))
    (declined,) = explain(model, RULES).declined
    assert "not finite" in declined.reason


def test_declines_a_constant_along_another_axis():
    constant = np.arange(1, 5, dtype="float32")[:, None]  # along the width
    check_declines(model_of(lambda x: x * constant), RULES, reason="varies along axis 2")


def test_declines_a_constant_along_two_axes():
    constant = np.ones((4, 3), "float32")
    check_declines(model_of(lambda x: x * constant), RULES, reason="not one for each channel")


def test_declines_a_constant_along_the_batch():
    constant = np.arange(1, 3, dtype="float32").reshape(2, 1, 1, 1)
    model = model_of(lambda x: x * constant, batch_size=2)
    (declined,) = explain(model, RULES).declined
    assert "not one for each channel" in declined.reason


def test_declines_a_constant_that_makes_the_tensor_larger():
    model = model_of(lambda x: x * VECTOR, (5, 4, 1))
    check_declines(model, RULES, reason="turns the shape (None, 5, 4, 1) into (None, 5, 4, 3)")


def test_declines_a_constant_that_adds_an_axis():
    model = model_of(lambda x: x * np.ones((1, 1, 1, 1, 1), "float32"))
    check_declines(model, RULES, reason="turns the shape")


def test_declines_a_rescaling_that_makes_the_tensor_larger():
    # Keras infers (5, 4, 1) for what is (5, 4, 3).
    model = model_of(Rescaling([1.0, 2.0, 3.0]), (5, 4, 1))
    (declined,) = explain(model, RULES).declined
    assert "not one for each channel" in declined.reason


@pytest.mark.skipif(DOUBLE != "float64", reason="Keras has no float64 operations here")
def test_declines_a_change_of_dtype_by_a_constant():
    model = model_of(lambda x: x * np.ones(3))
    check_declines(model, RULES, reason="turns float32 into float64")


def test_declines_integers():
    model = model_of(Rescaling(1 / 255), linear=Conv2D(4, 3), dtype="uint8")
    check_declines(model, RULES, reason="turns uint8 into float32")


@pytest.mark.parametrize("dtype", ["mixed_float16", "float64"])
def test_a_cast_that_the_next_layer_makes_as_well(dtype):
    keras.config.set_dtype_policy(dtype)
    check_rewrites(model_of(Rescaling(0.5, 1.0)), RULES, times=1)


def test_declines_an_argument_that_is_a_variable():
    variable = keras.Variable(VECTOR)
    (declined,) = explain(model_of(lambda x: x * variable), RULES).declined
    assert "no number, array or tensor" in declined.reason


def test_does_not_match_a_sum_of_tensors():
    x = keras.Input((5, 4, 3))
    y = keras.Input((5, 4, 3))
    report = explain(keras.Model([x, y], Dense(4)(x + y)), RULES)
    assert not report.applied
    assert not report.declined


def test_declines_a_subclass():
    class Twice(Rescaling):
        def call(self, inputs):
            return super().call(super().call(inputs))

    report = explain(model_of(Twice(2.0)), RULES)
    assert not report.applied


def test_declines_a_normalization_of_several_axes():
    layer = Normalization(axis=(2, 3), mean=np.ones((4, 3)), variance=np.ones((4, 3)))
    check_declines(model_of(layer), RULES, reason="not one for each channel")


def test_declines_a_normalization_of_another_axis():
    layer = Normalization(axis=1, mean=np.arange(5.0), variance=np.ones(5))
    check_declines(model_of(layer), RULES, reason="varies along axis 1")


def test_declines_a_negative_variance():
    layer = Normalization(mean=[1.0, 1.0, 1.0], variance=[-1.0, 1.0, 1.0])
    (declined,) = explain(model_of(layer), RULES).declined
    assert "not finite" in declined.reason


@pytest.mark.parametrize(("scale", "offset"), [([1.0, 2.0, 3.0], 0.0), (1.0, [1.0, 2.0, 3.0])])
def test_declines_a_vector_where_images_are_channels_first(scale, offset):
    keras.config.set_image_data_format("channels_first")
    model = model_of(Rescaling(scale, offset), (3, 5, 3))
    (declined,) = explain(model, RULES).declined
    assert "images channels first" in declined.reason


def test_a_number_where_images_are_channels_first():
    keras.config.set_image_data_format("channels_first")
    linear = Conv2D(4, 1, data_format="channels_last")
    check_rewrites(model_of(Rescaling(0.5, 1.0), linear=linear), RULES, times=1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - 2000,
        Normalization(mean=2000.0, variance=9.0),
        Normalization(mean=[1.0, 2.0, -2000.0], variance=[1.0, 2.0, 9.0]),
    ],
)
def test_declines_a_shift_that_rounding_would_show(function):
    model = model_of(function)
    x = np.random.default_rng(0).uniform(1990, 2010, (8, 5, 4, 3)).astype("float32")
    report = explain(model, RULES)
    assert "shifts a channel by more than 128" in report.declined[0].reason
    fast = optimize(model, RULES)
    np.testing.assert_array_equal(fast.predict_on_batch(x), model.predict_on_batch(x))


def test_declines_a_smaller_shift_in_16_bits():
    linear = Dense(4, dtype="float16")
    model = model_of(lambda x: x - 10, linear=linear, dtype="float16")
    check_declines(model, RULES, reason="shifts a channel by more than 8, which float16")


def test_declines_a_mask_that_ends_there():
    # Without the product, the average would leave out what is masked.
    x = keras.Input((5,), dtype="int32")
    y = Embedding(7, 3, mask_zero=True)(x) * 2.0
    y = Dense(4)(keras.layers.GlobalAveragePooling1D()(y))
    check_declines(keras.Model(x, y), RULES, reason="ends a mask")


def test_declines_an_empty_constant():
    inputs = keras.Input((0,))
    x = keras.ops.multiply(inputs, np.zeros(0, "float32"))
    [declined] = explain(keras.Model(inputs, Dense(3)(x)), RULES).declined
    assert declined.reason.endswith("has an empty constant")
