"""Linear layers of one input -> Concatenate."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import Concatenate, Conv1D, Conv2D, Conv3D, Dense

from kito import explain
from kito.rules.siblings import concatenated_siblings
from kito.testing import check_declines, check_rewrites

# Keras 3.15 on PyTorch gives a product of float64 matrices as float32.
FLOAT64 = "float32" if keras.backend.backend() == "torch" else "float64"
RULES = [concatenated_siblings]
SHAPES = {Conv1D: (9, 3), Conv2D: (9, 8, 3), Conv3D: (5, 6, 7, 3), Dense: (4, 3)}


def model_of(*linear, shape=None, axis=-1, **options):
    x = keras.Input(shape or SHAPES[type(linear[0])])
    merge = Concatenate(axis=axis, name="merge", **options)
    return keras.Model(x, merge([layer(x) for layer in linear]))


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("cls", SHAPES)
def test_merges(cls, biases):
    keras.config.set_dtype_policy(FLOAT64)
    window = [] if cls is Dense else [2]
    linear = [
        cls(size, *window, use_bias=bias, activation="relu")
        for size, bias in zip((4, 5), biases, strict=True)
    ]
    fast = check_rewrites(model_of(*linear), RULES, times=1)
    assert [layer.name for layer in fast.layers[1:]] == ["merge"]
    assert fast.layers[1].use_bias == any(biases)


@pytest.mark.parametrize(
    "options", [{"strides": 2, "padding": "same"}, {"dilation_rate": 2}], ids=str
)
def test_merges_whatever_the_geometry(options):
    linear = [Conv2D(size, 3, **options) for size in (2, 3, 4)]
    check_rewrites(model_of(*linear), RULES, times=1)


def test_merges_channels_first():
    linear = [Conv2D(size, 3, data_format="channels_first") for size in (2, 3)]
    check_rewrites(model_of(*linear, shape=(4, 9, 9), axis=1), RULES, times=1)


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    activation=st.sampled_from(["linear", "relu", "gelu", "tanh", "mish"]),
    data=st.data(),
)
def test_merges_any(sizes, activation, data):
    keras.config.set_dtype_policy(FLOAT64)
    linear = [Dense(n, activation=activation, use_bias=data.draw(st.booleans())) for n in sizes]
    check_rewrites(model_of(*linear), RULES, times=1)


def test_is_not_used_unless_named():
    assert not concatenated_siblings.is_default("tensorflow")


def test_declines_another_axis():
    model = model_of(Dense(4), Dense(4), axis=1)
    check_declines(model, RULES, reason="along axis 1, not the filters")


def test_declines_another_input():
    x, y = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([x, y], Concatenate()([Dense(2)(x), Dense(2)(y)]))
    check_declines(model, RULES, reason="read different tensors")


def test_declines_another_class():
    model = model_of(Dense(2), Conv2D(2, 1), shape=(8, 8, 3))
    check_declines(model, RULES, reason="different classes")


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"dilation_rate": 2},
        {"activation": "relu"},
    ],
    ids=str,
)
def test_declines_another_geometry(options):
    linear = [
        Conv2D(2, 3, padding="same"),
        Conv2D(**{"filters": 2, "kernel_size": 3} | {"padding": "same", **options}),
    ]
    check_declines(model_of(*linear), RULES, reason=f"differ in their {next(iter(options))}")


def test_declines_another_padding():
    linear = [Conv2D(2, 1), Conv2D(2, 1, padding="same")]
    check_declines(model_of(*linear), RULES, reason="differ in their padding")


def test_declines_groups():
    linear = [Conv2D(3, 1, groups=3), Conv2D(3, 1, groups=3)]
    check_declines(model_of(*linear), RULES, reason="has groups")


def test_declines_an_activation_of_all_units_together():
    linear = [Dense(3, activation="softmax"), Dense(3, activation="softmax")]
    check_declines(model_of(*linear), RULES, reason="softmax, is not elementwise")


def test_declines_another_tensor_beside():
    x = keras.Input((3,))
    model = keras.Model(x, Concatenate()([Dense(2)(x), x]))
    report = explain(model, RULES)
    assert not report.applied


def test_declines_one_layer_twice():
    x = keras.Input((3,))
    y = Dense(2, name="dense")(x)
    model = keras.Model(x, Concatenate(name="merge")([y, y]))
    check_declines(model, RULES, reason="merge reads dense more than once")


def test_declines_an_output():
    x = keras.Input((3,))
    one, two = Dense(2, name="one")(x), Dense(2, name="two")(x)
    model = keras.Model(x, [one, Concatenate()([one, two])])
    check_declines(model, RULES, reason="one is an output of the model")


def test_declines_a_change_of_dtype():
    model = model_of(Dense(2), Dense(2), dtype="float64")
    check_declines(model, RULES, reason="turns float32 into float64")


def test_declines_another_dtype():
    model = model_of(Dense(2), Dense(2, dtype="float64"))
    check_declines(model, RULES, reason="differ in their dtype")


@pytest.mark.parametrize("width", [4, 2])
def test_declines_channels_first_as_wide_as_deep(width):
    # 2 filters of one, 4 of both
    linear = [Conv2D(2, 1, data_format="channels_first") for _ in range(2)]
    (declined,) = explain(model_of(*linear, shape=(3, 9, width), axis=1), RULES).declined
    assert "wrong axis" in declined.reason
