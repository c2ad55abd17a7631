"""Affine map -> EinsumDense."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import BatchNormalization, EinsumDense, Rescaling

from kito import Report, explain, optimize
from kito.rules.affine_linear import affine_linear
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize
from tests.exact import BOUND, DOUBLE

RULES = [affine_linear]


def model_of(affine, einsum, shape=(5, 4)):
    return keras.Sequential([keras.Input(shape), affine, einsum])


EQUATIONS = [
    ("ab,bc->ac", (4,), 3, -1),
    ("...x,xy->...y", (5, 3), 4, -1),
    ("abc,cde->abde", (5, 3), (5, 4, 2), -1),
    ("abc,dce->abed", (5, 3), (5, 4, 2), -1),
    ("abcd,cde->abe", (4, 2, 3), (4, 6), -1),
    ("abcd,cde->abe", (4, 2, 3), (4, 6), 2),
    ("ab...,bc->ac...", (3, 5), 4, 1),
    ("abc,bcd->abd", (4, 3), (4, 5), 2),
    ("abc,bcd->abd", (4, 3), (4, 5), 1),
    ("abc,bd->adc", (4, 3), (6, 3), 1),
]


@pytest.mark.parametrize("bias", ["all", "none"])
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize(("equation", "shape", "output_shape", "axis"), EQUATIONS)
def test_folds_whatever_the_equation(equation, shape, output_shape, axis, activation, bias):
    keras.config.set_dtype_policy(DOUBLE)
    letters = equation.split("->")[1].replace("...", "").removeprefix("a")
    axes = letters if bias == "all" else None
    einsum = EinsumDense(equation, output_shape, bias_axes=axes, activation=activation)
    model = model_of(BatchNormalization(axis=axis), einsum, shape)
    fast = check_rewrites(model, RULES, times=1, tolerance=BOUND)
    assert [type(layer) for layer in fast.layers] == [EinsumDense]
    assert fast.layers[0].bias_axes


def test_the_bias_has_the_axes_that_it_had_and_those_of_the_kernel():
    einsum = EinsumDense("abc,cde->abde", (5, 3, 2), bias_axes="b")
    fast = check_rewrites(model_of(BatchNormalization(), einsum), RULES, times=1)
    assert fast.layers[0].bias_axes == "bde"
    assert fast.layers[0].bias.shape == (5, 3, 2)


@pytest.mark.parametrize("bias_axes", [None, "y"])
def test_a_scale_asks_for_no_bias(bias_axes):
    einsum = EinsumDense("...x,xy->...y", 3, bias_axes=bias_axes)
    model = model_of(Rescaling([0.5, 2.0, -3.0, 0.1]), einsum)
    fast = check_rewrites(model, RULES, times=1)
    assert fast.layers[0].bias_axes == bias_axes


def test_folds_a_number():
    einsum = EinsumDense("abc,cde->abde", (5, 3, 2))
    check_rewrites(model_of(Rescaling(0.5, offset=-1.5), einsum), RULES, times=1)


def test_folds_sizes_that_are_not_known():
    einsum = EinsumDense("abc,cde->abde", (None, 3, 2))
    fast = check_rewrites(model_of(BatchNormalization(), einsum, (None, 4)), RULES, times=1)
    assert fast.output_shape == (None, None, 3, 2)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_folds_any(data):
    keras.config.set_dtype_policy(DOUBLE)
    output = data.draw(st.sampled_from(["bde", "dbe", "de", "edb", "bcd", "bd"]))
    kernel = data.draw(st.permutations(sorted({*output, "c"} - {"b"})).map("".join))
    if "b" not in output:
        kernel += "b"
    sizes = {letter: data.draw(st.integers(1, 3), letter) for letter in "bcde"}
    bias_axes = data.draw(st.sampled_from([None, output[-1], output]), "bias axes")
    einsum = EinsumDense(
        f"abc,{kernel}->a{output}", [sizes[letter] for letter in output], bias_axes=bias_axes
    )
    model = model_of(BatchNormalization(), einsum, (sizes["b"], sizes["c"]))
    randomize(model)
    report = Report()
    fast = optimize(model, RULES, report=report)
    check_equivalent(model, fast, tolerance=BOUND)
    assert report.applied or "add it along another axis" in report.declined[0].reason


@pytest.mark.parametrize("equation", ["abc,cd->abd", "...c,cd->...d"])
def test_declines_an_axis_that_the_kernel_does_not_have(equation):
    model = model_of(BatchNormalization(axis=1), EinsumDense(equation, (5, 3)))
    if "..." in equation:
        model = model_of(BatchNormalization(axis=1), EinsumDense(equation, 3))
    check_declines(model, RULES, reason="does not have axis 1 of the input")


def test_declines_a_shift_of_what_is_added_up_outside_the_kernel():
    einsum = EinsumDense("abc,cd->ad", 3)
    reason = "adds up more than its kernel does"
    check_declines(model_of(BatchNormalization(), einsum), RULES, reason=reason)
    einsum = EinsumDense("abc,cd->ad", 3)
    check_rewrites(model_of(Rescaling([0.5, 2.0, -3.0, 0.1]), einsum), RULES, times=1)


def test_declines_a_shift_where_no_axis_has_a_bias():
    einsum = EinsumDense("abc,c->ab", 5)
    check_declines(model_of(BatchNormalization(), einsum), RULES, reason="has no axis for a bias")


def test_declines_a_bias_that_keras_would_add_along_another_axis():
    einsum = EinsumDense("abc,cd->adb", (5, 5))
    model = model_of(BatchNormalization(), einsum)
    check_declines(model, RULES, reason="could add it along another axis")


def test_declines_the_diagonal_of_the_kernel():
    einsum = EinsumDense("abc,ccd->abd", (None, 6))
    check_declines(model_of(BatchNormalization(), einsum), RULES, reason="which kito can't read")


def test_declines_float16_out_of_range():
    keras.config.set_dtype_policy("float16")
    einsum = EinsumDense("abc,cd->abd", (None, 4))
    reason = "range of float16"
    check_declines(model_of(BatchNormalization(epsilon=1e5), einsum), RULES, reason=reason)


def test_declines_a_large_shift():
    model = model_of(Rescaling(1.0, offset=-2000.0), EinsumDense("abc,cd->abd", (None, 4)))
    [declined] = explain(model, RULES).declined
    assert "shifts a channel by more than 128" in declined.reason


def test_declines_a_change_of_dtype():
    model = model_of(
        Rescaling(0.5, dtype="float64"), EinsumDense("abc,cd->abd", (None, 4), dtype="float32")
    )
    [declined] = explain(model, RULES).declined
    assert "turns float64 into float32" in declined.reason


def test_the_bias_is_that_of_the_formula():
    einsum = EinsumDense("abc,cd->abd", (None, 3), dtype="float64")
    model = keras.Sequential(
        [keras.Input((5, 4), dtype="float64"), Rescaling(2.0, offset=3.0, dtype="float64"), einsum]
    )
    fast = optimize(model, RULES)
    np.testing.assert_allclose(fast.layers[0].bias, 3 * np.sum(einsum.kernel, axis=0))
