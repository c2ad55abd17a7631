"""Two affine maps in a row."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from keras.layers import BatchNormalization, Normalization, Rescaling

from kito import explain, optimize
from kito.rules.affine_affine import affine_affine
from kito.testing import check_declines, check_rewrites, randomize
from tests.exact import BOUND, DOUBLE

RULES = [affine_affine]
VECTOR = np.array([0.5, -2.0, 3.0], "float32")
KINDS = {
    "number": lambda: Rescaling(0.25, offset=0.75),
    "vector": lambda: Rescaling([0.5, -2.0, 3.0], offset=0.7),
    "normalization": lambda: Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 0.5, 1.0]),
    "invert": lambda: Normalization(mean=0.5, variance=4.0, invert=True),
    "batchnorm": lambda: BatchNormalization(epsilon=0.1),
    "product": lambda: lambda x: x * 0.125,
    "difference": lambda: lambda x: 0.5 - x,
    "sum": lambda: lambda x: keras.ops.add(x, VECTOR.astype(x.dtype)),
}
SCALARS = {"number", "invert", "product", "difference"}


def model_of(*row, shape=(5, 4, 3), **inputs):
    x = y = keras.Input(shape, **inputs)
    for layer in row:
        y = layer(y)
    return keras.Model(x, y)


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_merges(first, second):
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(KINDS[first](), KINDS[second](), dtype=DOUBLE)
    fast = check_rewrites(model, RULES, times=1, tolerance=BOUND)
    [_, layer] = fast.layers
    assert type(layer) is (Rescaling if {first, second} <= SCALARS else BatchNormalization)


def test_the_result_has_the_name_of_the_second():
    model = model_of(Rescaling(2.0, name="first"), Rescaling(3.0, name="second"))
    assert check_rewrites(model, RULES).layers[1].name == "second"


def test_merges_a_whole_row():
    model = model_of(lambda x: (1 - x) / 3 * VECTOR, BatchNormalization(), BatchNormalization())
    assert len(check_rewrites(model, RULES, times=4).layers) == 2


def test_merges_along_another_axis():
    model = model_of(BatchNormalization(axis=1), BatchNormalization(axis=-3), shape=(5, 4, 3))
    assert check_rewrites(model, RULES, times=1).layers[1].axis == 1


def test_merges_where_sizes_are_not_known():
    model = model_of(Rescaling(1 / 255), BatchNormalization(), shape=(None, None, 3))
    assert check_rewrites(model, RULES, times=1).output_shape == (None, None, None, 3)


def test_merges_into_a_layer_that_read_integers_before():
    model = model_of(Rescaling(1 / 255), Normalization(mean=0.5, variance=4.0), dtype="uint8")
    check_rewrites(model, RULES, times=1)


def test_declines_to_let_another_layer_read_integers():
    model = model_of(Rescaling(1 / 255), BatchNormalization(), dtype="uint8")
    check_declines(model, RULES, reason="reads uint8")


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("first", [lambda: Rescaling(0.5, 1.0), lambda: Rescaling([0.5, 1.0, 2.0])])
def test_merges_in_16_bits(policy, first):
    keras.config.set_dtype_policy(policy)
    fast = check_rewrites(model_of(first(), Rescaling(0.3, 0.2)), RULES, times=1)
    assert fast.layers[1].dtype_policy.name == policy


def test_merges_operations_in_16_bits():
    # The numbers of the result stay in float32.
    model = model_of(lambda x: x * VECTOR.astype("float16") + 0.1, dtype="float16")
    layer = check_rewrites(model, RULES, times=1, tolerance=2e-3).layers[1]
    assert layer.gamma.dtype == "float32"
    assert layer.compute_dtype == "float16"


@settings(max_examples=12, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=4),
    shape=st.sampled_from([(3,), (2, 3), (4, 2, 3), (2, 1, 4, 3)]),
    seed=st.integers(0, 99),
)
def test_random_rows(kinds, shape, seed):
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(*(KINDS[kind]() for kind in kinds), shape=shape, dtype=DOUBLE)
    check_rewrites(model, RULES, times=len(kinds) - 1, tolerance=BOUND, seed=seed)


def test_declines_different_axes():
    model = model_of(BatchNormalization(axis=1, name="a"), BatchNormalization(axis=3, name="b"))
    check_declines(model, RULES, reason="a varies along axis 1, b along axis 3")


def test_declines_an_operation_on_integers():
    model = model_of(lambda x: x * 2, Rescaling(0.5), dtype="int32")
    check_declines(model, RULES, reason="turns int32 into float32")


def test_declines_an_operation_that_makes_floats_of_integers():
    model = model_of(lambda x: x / 2, Rescaling(0.5), dtype="int32")
    check_declines(model, RULES, reason="turns int32 into float32")


def test_declines_a_change_of_dtype():
    model = model_of(Rescaling(0.5), Rescaling(2.0, dtype="float64"))
    check_declines(model, RULES, reason="turns float32 into float64")


@pytest.mark.skipif(DOUBLE != "float64", reason="Keras has no float64 operations here")
def test_declines_numbers_that_a_rescaling_has_not_in_float64():
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(lambda x: x * 0.1 + 0.7, dtype=DOUBLE)
    check_declines(model, RULES, reason="Keras makes float32 of the numbers")


def test_declines_a_shift_that_rounding_would_show():
    model = model_of(lambda x: (x - 2000) / 3)
    x = np.random.default_rng(0).uniform(1990, 2010, (8, 5, 4, 3)).astype("float32")
    assert "shifts a channel by more than 128" in explain(model, RULES).declined[0].reason
    np.testing.assert_array_equal(optimize(model, RULES)(x), model(x))


def test_declines_a_scale_that_float16_has_not():
    keras.config.set_dtype_policy("float16")
    model = model_of(Rescaling(0.01), Rescaling(0.01))
    check_declines(model, RULES, reason="range of float16")


def test_declines_numbers_that_are_not_finite():
    model = model_of(BatchNormalization(epsilon=1e-3), BatchNormalization())
    model.layers[1].moving_variance.assign([-1.0, 1.0, 1.0])
    (declined,) = explain(model, RULES).declined
    assert "not finite" in declined.reason


@pytest.mark.parametrize("numbers", [(1e-40, 1e40), (1e38, 1e10), (1e-30, 1e-30)])
def test_declines_numbers_out_of_the_range_of_the_dtype(numbers):
    """Each of these makes nan, infinity or zero of some numbers, which the product does not."""
    inputs = keras.Input((3,))
    one, other = numbers
    (declined,) = explain(keras.Model(inputs, (inputs * one) * other), RULES).declined
    assert declined.reason.endswith("has a scale or shift out of the range of float32")


@pytest.mark.parametrize(
    "row",
    [
        [lambda x: x * 2.0, Rescaling(0.5)],
        [Rescaling(0.5), lambda x: x * 2.0],
        [lambda x: x * 2.0, lambda x: x + 1.0],
    ],
)
def test_declines_a_mask_that_ends_there(row):
    # The result would hand the mask on, and the average would leave out what is masked.
    x = keras.Input((5,), dtype="int32")
    y = layers.Embedding(7, 3, mask_zero=True)(x)
    for layer in row:
        y = layer(y)
    model = keras.Model(x, layers.GlobalAveragePooling1D()(y))
    check_declines(model, RULES, reason="ends a mask")


def test_declines_what_is_used_as_well():
    x = keras.Input((4, 3))
    y = Rescaling(0.5, name="first")(x)
    model = randomize(keras.Model(x, layers.Concatenate()([y, BatchNormalization()(y)])))
    check_declines(model, RULES, reason="first feeds")


def test_does_not_match_a_sum_of_tensors():
    x, y = keras.Input((4, 3)), keras.Input((4, 3))
    report = explain(keras.Model([x, y], Rescaling(2.0)(x + y)), RULES)
    assert not report.applied
    assert not report.declined


def test_does_not_match_a_subclass():
    class Squared(Rescaling):
        def call(self, inputs):
            return super().call(inputs) ** 2

    report = explain(model_of(Squared(2.0), Rescaling(2.0)), RULES)
    assert not report.applied
    assert not report.declined


def test_is_a_default_where_it_was_measured_to_help():
    assert affine_affine.is_default("tensorflow")
    assert not affine_affine.is_default("torch")


def test_declines_a_sum_that_keras_may_compute_along_another_axis():
    x = keras.Input((4, 4))
    shift = np.arange(4.0, dtype="float32").reshape(4, 1)
    model = keras.Model(x, keras.ops.add(keras.ops.add(x, 0.5), shift))
    (declined,) = explain(model, [affine_affine]).declined
    assert "may add along another axis" in declined.reason
