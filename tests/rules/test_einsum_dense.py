"""EinsumDense -> BatchNormalization."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import BatchNormalization, EinsumDense

from kito import Report, optimize
from kito.rules.einsum_dense import einsum_dense_batchnorm
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize

RULES = [einsum_dense_batchnorm]


def model_of(einsum, bn, shape=(5, 4), **inputs):
    return keras.Sequential([keras.Input(shape, **inputs), einsum, bn])


@pytest.mark.parametrize("bias_axes", [None, "d"])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_folds(scale, center, bias_axes):
    keras.config.set_dtype_policy("float64")
    einsum = EinsumDense("abc,cd->abd", (None, 4), bias_axes=bias_axes)
    bn = BatchNormalization(scale=scale, center=center)
    fast = check_rewrites(model_of(einsum, bn), RULES, times=1)
    assert fast.layers[0].bias_axes == "d"


EQUATIONS = [
    ("ab,bc->ac", (4,), 4, 1),
    ("...x,xy->...y", (5, 3), 5, -1),
    ("abc,cde->abde", (5, 3), (5, 4, 4), 3),
    ("abc,cde->abde", (5, 3), (5, 4, 6), 2),
    ("abc,ced->abde", (5, 3), (5, 3, 2), 2),
    ("abc,cde->abde", (5, 3), (5, 4, 4), -1),
    ("abcd,cde->abe", (4, 4, 3), (4, 4), 2),
    ("ab...,bc->ac...", (3, 5), 4, 1),
    ("abc,bcd->abd", (4, 3), (4, 5), 1),
    ("abc,bcd->abd", (4, 3), (4, 4), 2),
    ("...bc,bd->...db", (4, 3), (4, 4), -1),
]


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize(("equation", "shape", "output_shape", "axis"), EQUATIONS)
def test_folds_whatever_the_equation(equation, shape, output_shape, axis, every):
    keras.config.set_dtype_policy("float64")
    letters = equation.split("->")[1].replace("...", "")
    bias_axes = letters.removeprefix("a") if every else None
    einsum = EinsumDense(equation, output_shape, bias_axes=bias_axes)
    model = model_of(einsum, BatchNormalization(axis=axis), shape)
    check_rewrites(model, RULES, times=1)


@pytest.mark.parametrize(("bias_axes", "axis"), [("e", 2), ("d", 3), ("de", 2), ("ed", 3)])
def test_the_bias_gets_the_axis(bias_axes, axis):
    einsum = EinsumDense("abc,cde->abde", (5, 3, 4), bias_axes=bias_axes)
    fast = check_rewrites(model_of(einsum, BatchNormalization(axis=axis)), RULES, times=1)
    assert fast.layers[0].bias_axes == "de"
    assert fast.layers[0].bias.shape == (3, 4)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_folds_any(data):
    keras.config.set_dtype_policy("float64")
    output = data.draw(st.permutations("bde").map("".join))
    kernel = data.draw(st.permutations("cde").map("".join))
    size = st.integers(1, 3)
    sizes = {letter: data.draw(size, letter) for letter in "bcde"}
    bias_axes = data.draw(st.sampled_from([None, "d", "e", "ed", output]), "bias axes")
    axis = data.draw(st.sampled_from([1 + output.index(letter) for letter in "de"]), "axis")
    einsum = EinsumDense(
        f"abc,{kernel}->a{output}", [sizes[letter] for letter in output], bias_axes=bias_axes
    )
    model = model_of(einsum, BatchNormalization(axis=axis), (sizes["b"], sizes["c"]))
    randomize(model)
    report = Report()
    fast = optimize(model, RULES, report=report)
    check_equivalent(model, fast)
    assert report.applied or "add it along another axis" in report.declined[0].reason


def test_declines_an_activation_in_between():
    einsum = EinsumDense("abc,cd->abd", (None, 4), activation="relu")
    check_declines(model_of(einsum, BatchNormalization()), RULES, reason="applies its activation")


def test_declines_an_axis_that_the_kernel_does_not_have():
    einsum = EinsumDense("abc,cd->abd", (5, 5))
    model = model_of(einsum, BatchNormalization(axis=1))
    check_declines(model, RULES, reason="abc,cd->abd, does not have axis 1 of the output")


@pytest.mark.parametrize(
    ("equation", "output_shape", "axis"), [("...c,cd->...d", 4, 1), ("ac...,cd->ad...", 4, 3)]
)
def test_declines_an_axis_in_the_ellipsis(equation, output_shape, axis):
    model = model_of(
        EinsumDense(equation, output_shape), BatchNormalization(axis=axis), (4, 4, 4), batch_size=4
    )
    check_declines(model, RULES, reason=f"does not have axis {axis}")


@pytest.mark.parametrize("bias_axes", [None, "d"])
@pytest.mark.parametrize("sizes", [(5, 4, 4), (4, 4, 5)])
def test_declines_a_bias_that_keras_would_add_along_another_axis(sizes, bias_axes):
    einsum = EinsumDense("abc,cde->abde", sizes, bias_axes=bias_axes)
    model = model_of(einsum, BatchNormalization(axis=2), (sizes[0], 3))
    check_declines(model, RULES, reason="could add it along another axis")


def test_declines_a_bias_along_an_axis_1_that_is_as_long_as_the_last():
    einsum = EinsumDense("ab...,bc->ac...", 4)
    model = model_of(einsum, BatchNormalization(axis=1), (3, 4))
    check_declines(model, RULES, reason="could add it along another axis")


def test_declines_a_bias_that_keras_adds_along_another_axis():
    # the new bias would be a matrix, which Keras does not misread
    einsum = EinsumDense("abc,cde->abde", (5, 4, 4), bias_axes="d")
    model = model_of(einsum, BatchNormalization(axis=3))
    check_declines(model, RULES, reason="could add it along another axis")


def test_declines_sizes_that_are_not_known():
    einsum = EinsumDense("abc,cde->abde", (None, 4, 6))
    bn = BatchNormalization(axis=2)
    check_declines(model_of(einsum, bn, (None, 3)), RULES, reason="could add it along another")


def test_declines_a_change_of_dtype():
    einsum = EinsumDense("abc,cd->abd", (None, 4), dtype="float64")
    model = model_of(einsum, BatchNormalization(dtype="float32"))
    check_declines(model, RULES, reason="turns float64 into float32")


def test_declines_float16_out_of_range():
    keras.config.set_dtype_policy("float16")
    einsum = EinsumDense("abc,cd->abd", (None, 4))
    bn = BatchNormalization(epsilon=1e5)
    check_declines(model_of(einsum, bn), RULES, reason="range of float16")


def test_declines_the_diagonal_of_the_kernel():
    einsum = EinsumDense("abc,cdd->abd", (None, 6))
    check_declines(model_of(einsum, BatchNormalization()), RULES, reason="which kito can't read")
