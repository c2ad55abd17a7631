"""Linear layers of one input -> Concatenate."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import Concatenate, Conv1D, Conv2D, Conv3D, Dense

from kito import explain
from kito.rules.siblings import concatenated_siblings, parallel_siblings
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


def test_declines_a_constant_beside():
    x = keras.Input((4,), batch_size=2)
    parts = [Dense(3)(x), Dense(2)(x), np.ones((2, 3), "float32")]
    model = keras.Model(x, Concatenate(name="merge")(parts))
    check_declines(model, RULES, reason="merge joins a constant")


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


# Layers whose outputs go different ways

PARALLEL = [parallel_siblings]


def parallel(*linear, shape=None):
    """Each of the layers has an output of its own, which a layer behind it names."""
    x = keras.Input(shape or SHAPES[type(linear[0])])
    return keras.Model(x, [keras.layers.ReLU(name=f"end_{n}")(e(x)) for n, e in enumerate(linear)])


@pytest.mark.parametrize("biases", [(True, True, True), (True, False, True), (False,) * 3])
@pytest.mark.parametrize("cls", SHAPES)
def test_merges_and_splits(cls, biases):
    keras.config.set_dtype_policy(FLOAT64)
    window = [] if cls is Dense else [2]
    linear = [
        cls(size, *window, use_bias=bias, activation="elu", name=f"linear_{size}")
        for size, bias in zip((4, 5, 1), biases, strict=True)
    ]
    fast = check_rewrites(parallel(*linear), PARALLEL, times=1)
    [merged] = [layer for layer in fast.layers if layer.weights]
    assert type(merged) is cls
    assert merged.use_bias == any(biases)


def test_merges_and_splits_channels_first():
    linear = [Conv2D(size, 3, data_format="channels_first") for size in (2, 3)]
    check_rewrites(parallel(*linear, shape=(4, 9, 9)), PARALLEL, times=1)


@pytest.mark.parametrize(("build", "rules"), [(model_of, RULES), (parallel, PARALLEL)])
@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    activation=st.sampled_from(["linear", "relu", "gelu", "elu", "softplus"]),
    data=st.data(),
)
def test_merges_any(build, rules, sizes, activation, data):
    keras.config.set_dtype_policy(FLOAT64)
    linear = [Dense(n, activation=activation, use_bias=data.draw(st.booleans())) for n in sizes]
    check_rewrites(build(*linear), rules, times=1)


def test_merges_queries_keys_and_values():
    x = keras.Input((6, 8))
    q, k, v = (Dense(8, name=name)(x) for name in ("query", "key", "value"))
    y = keras.layers.Attention()([q, v, k])
    fast = check_rewrites(keras.Model(x, Dense(2)(y)), PARALLEL, times=1)
    assert sum(isinstance(layer, Dense) for layer in fast.layers) == 2


def test_merges_what_a_layer_in_between_computes():
    x = keras.Input((3,))
    y = keras.layers.ReLU()(x)
    model = keras.Model(x, keras.layers.Multiply()([Dense(2)(y), Dense(2)(y)]))
    check_rewrites(model, PARALLEL, times=1)


def test_splitting_is_not_used_unless_named():
    assert not parallel_siblings.is_default("tensorflow")


@pytest.mark.parametrize(
    ("linear", "reason"),
    [
        ([Conv2D(2, 3), Conv2D(2, 1)], "differ in their kernel_size"),
        ([Conv2D(2, 1), Conv2D(2, 1, padding="same")], "differ in their padding"),
        ([Conv2D(2, 1), Conv2D(2, 1, strides=2)], "differ in their strides"),
        ([Conv2D(2, 1), Conv2D(2, 1, activation="relu")], "differ in their activation"),
        ([Conv2D(2, 1), Conv2D(2, 1, dtype="float64")], "differ in their dtype"),
        ([Conv2D(2, 1), Dense(2)], "different classes"),
        ([Conv2D(3, 1, groups=3), Conv2D(3, 1, groups=3)], "has groups"),
        ([Dense(3, activation="softmax") for _ in range(2)], "softmax, is not elementwise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_declines_to_merge_and_split(linear, reason):
    copies = [type(each).from_config(each.get_config() | {"name": None}) for each in linear]
    check_declines(parallel(*copies, shape=(8, 8, 3)), PARALLEL, reason=reason)


def test_declines_to_split_an_output():
    x = keras.Input((3,))
    model = keras.Model(x, [Dense(2, name="one")(x), keras.layers.ReLU()(Dense(2)(x))])
    check_declines(model, PARALLEL, reason="gives an output its name")


def test_declines_one_layer_called_twice():
    x = keras.Input((3,))
    dense = Dense(2, name="dense")
    y = keras.layers.Add()([dense(x), keras.layers.ReLU()(dense(x))])
    check_declines(keras.Model(x, y), PARALLEL, reason="dense is called twice on one tensor")


def test_declines_a_mask_that_a_split_would_lose():
    x = keras.Input((4, 3))
    y = keras.layers.Masking()(x)
    ends = [keras.layers.GlobalAveragePooling1D()(Dense(n)(y)) for n in (2, 3)]
    check_declines(keras.Model(x, ends), PARALLEL, reason="a mask runs through")


def test_declines_layers_that_are_called_elsewhere_too():
    x, z = keras.Input((3,)), keras.Input((3,))
    big = [Dense(30, name=name) for name in ("one", "two")]
    ends = [keras.layers.ReLU()(each(x)) for each in big] + [keras.layers.ELU()(big[0](z))]
    check_declines(keras.Model([x, z], ends), PARALLEL, reason="one is called 2 times; a copy")


def test_one_reader_is_no_match():
    x = keras.Input((3,))
    report = explain(keras.Model(x, Dense(2)(keras.layers.ReLU()(x))), PARALLEL)
    assert not report.applied
    assert not report.declined


@pytest.mark.parametrize("width", [4, 2])
def test_declines_to_split_channels_first_as_wide_as_deep(width):
    # 2 filters of one, 4 of both
    linear = [Conv2D(2, 1, data_format="channels_first") for _ in range(2)]
    (declined,) = explain(parallel(*linear, shape=(3, 9, width)), PARALLEL).declined
    assert "wrong axis" in declined.reason
