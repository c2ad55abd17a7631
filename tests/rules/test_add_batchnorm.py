"""Linear layers -> Add -> BatchNormalization."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from keras.layers import Add, BatchNormalization, Conv2D, Dense

from kito import explain
from kito.rules.add_batchnorm import add_batchnorm
from kito.testing import check_declines, check_rewrites
from tests.exact import BOUND, DOUBLE

RULES = [add_batchnorm]


def model_of(*branches, bn=None, shape=(9, 8, 3)):
    inputs = [keras.Input(shape, name=f"input_{number}") for number in range(len(branches))]
    outputs = [branch(x) for branch, x in zip(branches, inputs, strict=True)]
    added = Add(name="add")(outputs)
    return keras.Model(inputs, (bn or BatchNormalization(epsilon=0.1, name="bn"))(added))


def test_folds():
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(
        Conv2D(6, 3, padding="same", use_bias=False, name="one"),
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="two"),
        layers.SeparableConv2D(6, 3, padding="same", name="three"),
        layers.Conv2DTranspose(6, 3, padding="same", name="four"),
        Dense(6, name="five"),
    )
    fast = check_rewrites(model, RULES, times=1, tolerance=BOUND)
    assert {"one", "two", "three", "four", "five", "bn"} < {layer.name for layer in fast.layers}
    assert type(fast.get_layer("bn")) is Add


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_layer_that_has_a_bias_takes_the_shift(order):
    pair = [Conv2D(4, 1, use_bias=False, name="without"), Conv2D(4, 1, name="with")]
    fast = check_rewrites(model_of(*(pair[each] for each in order)), RULES, times=1)
    assert not fast.get_layer("without").use_bias


def test_one_layer_takes_the_shift_where_none_has_a_bias():
    pair = [Conv2D(4, 1, use_bias=False, name=name) for name in ("first", "second")]
    fast = check_rewrites(model_of(*pair), RULES, times=1)
    assert fast.get_layer("first").use_bias
    assert not fast.get_layer("second").use_bias


@pytest.mark.parametrize(
    "add",
    [
        lambda one, other: one + other,
        lambda one, other: keras.ops.add(x2=one, x1=other),
    ],
)
def test_folds_behind_the_operation(add):
    x = keras.Input((9, 8, 3))
    added = add(Dense(4)(x), Conv2D(4, 3, padding="same")(x))
    model = keras.Model(x, layers.ReLU()(BatchNormalization()(added)))
    check_rewrites(model, RULES, times=1)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_folds_whatever_the_normalization_has(scale, center):
    model = model_of(Dense(2), Dense(2), bn=BatchNormalization(scale=scale, center=center))
    check_rewrites(model, RULES, times=1)


def test_folds_channels_first():
    options = {"data_format": "channels_first", "padding": "same"}
    model = model_of(
        Conv2D(4, 3, **options),
        Conv2D(4, 1, **options),
        bn=BatchNormalization(axis=1),
        shape=(3, 9, 11),
    )
    check_rewrites(model, RULES, times=1)


def test_folds_where_one_summand_is_spread_over_positions():
    x, y = keras.Input((9, 8, 3)), keras.Input((1, 1, 5))
    added = Add()([Conv2D(4, 3, padding="same")(x), Dense(4, use_bias=False)(y)])
    check_rewrites(keras.Model([x, y], BatchNormalization()(added)), RULES, times=1)


@pytest.mark.parametrize("calls", [2, 3])
def test_a_layer_of_several_summands_takes_a_part_of_the_shift(calls):
    inputs = [keras.Input((9,)) for _ in range(calls)]
    shared = Dense(4, name="shared")
    added = Add()([*map(shared, inputs), Dense(4, use_bias=False)(inputs[0])])
    model = keras.Model(inputs, BatchNormalization()(added))
    fast = check_rewrites(model, RULES, times=1)
    assert fast.count_params() == model.count_params() - 4 * 4


def test_a_shared_layer_that_is_called_elsewhere_too_is_copied_or_kept():
    x, y = keras.Input((9,)), keras.Input((9,))
    shared = Dense(4, name="shared")
    added = Add(name="add")([shared(x), Dense(4)(y)])
    model = keras.Model([x, y], [BatchNormalization()(added), layers.ReLU()(shared(y))])
    check_declines(model, RULES, reason="copy")


def test_unknown_sizes_stay_unknown():
    model = model_of(Conv2D(4, 1), Conv2D(4, 1), shape=(None, None, 3))
    assert check_rewrites(model, RULES, times=1).output_shape == (None, None, None, 4)


def test_a_projection_shortcut_by_default_rules():
    x = keras.Input((8, 8, 3))
    y = layers.ReLU()(BatchNormalization()(Conv2D(6, 3, 2, padding="same", use_bias=False)(x)))
    y = Add()([Conv2D(6, 3, padding="same")(y), Conv2D(6, 1, 2, use_bias=False)(x)])
    model = keras.Model(x, layers.ReLU()(BatchNormalization()(y)))
    fast = check_rewrites(model)
    assert not any(isinstance(layer, BatchNormalization) for layer in fast.layers)


def test_layers_of_one_tensor_become_one_in_either_order():
    x = keras.Input((8, 8, 3))
    y = Add()([Conv2D(6, 3, padding="same")(x), Conv2D(6, 1)(x)])
    model = keras.Model(x, BatchNormalization(name="bn")(y))
    fast = check_rewrites(model, ["add_batchnorm", "conv_batchnorm", "parallel_branches"])
    assert [layer.name for layer in fast.layers[1:]] == ["bn"]


@settings(max_examples=12, deadline=None)
@given(
    biases=st.lists(st.booleans(), min_size=2, max_size=4),
    window=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_random_layers(biases, window, seed):
    keras.config.set_dtype_policy(DOUBLE)
    convs = [Conv2D(3, window, use_bias=use_bias) for use_bias in biases]
    check_rewrites(model_of(*convs), RULES, times=1, tolerance=BOUND, seed=seed)


def test_declines_an_activation_of_one_summand():
    model = model_of(Dense(2), Dense(2, activation="relu", name="first"))
    check_declines(model, RULES, reason="first applies its activation (relu) before bn")


def test_declines_another_axis_of_the_normalization():
    model = model_of(
        Dense(2, name="one"), Dense(2), bn=BatchNormalization(axis=1, name="bn"), shape=(2, 8, 3)
    )
    check_declines(model, RULES, reason="bn normalizes axis 1, the channels of one are axis 3")


def test_declines_a_summand_that_is_spread_over_the_channels():
    # Each channel would need a scale of its own.
    model = model_of(Dense(4), Dense(1, name="one"))
    check_declines(model, RULES, reason="add spreads one over more channels or axes")


def test_declines_a_summand_of_fewer_axes():
    x, y = keras.Input((9, 4)), keras.Input((3,))
    added = Add(name="add")([Dense(9)(x), Dense(9, name="one")(y)])
    model = keras.Model([x, y], BatchNormalization(name="bn")(added))
    check_declines(model, RULES, reason="add spreads one over more channels or axes")


def test_declines_channels_first_as_wide_as_deep():
    # Keras on TensorFlow adds the bias along the width there.
    options = {"data_format": "channels_first", "padding": "same", "use_bias": False}
    model = model_of(
        Conv2D(8, 3, **options),
        Conv2D(8, 1, **options),
        bn=BatchNormalization(axis=1),
        shape=(3, 9, 8),
    )
    check_declines(model, RULES, reason="wrong axis")


def test_declines_a_change_of_dtype():
    model = model_of(Dense(2), Dense(2), bn=BatchNormalization(dtype="float64", name="bn"))
    check_declines(model, RULES, reason="bn turns float32 into float64")


def test_declines_summands_of_several_dtypes():
    # Add casts; the layers before it would round scale and shift.
    x = keras.Input((9,))
    dense = [Dense(2, dtype="float16"), Dense(2)]
    model = keras.Model(x, BatchNormalization()(Add()([layer(x) for layer in dense])))
    check_declines(model, RULES, reason="turns float16 into float32")


def test_declines_statistics_that_are_not_finite():
    model = model_of(Dense(2), Dense(2), bn=BatchNormalization(epsilon=1e-3))
    model.layers[-1].moving_variance.assign([-1.0, 1.0])
    (declined,) = explain(model, RULES).declined
    assert "not finite" in declined.reason


def test_declines_a_summand_that_is_used_as_well():
    x = keras.Input((9,))
    y = Dense(2, name="first")(x)
    added = BatchNormalization()(Add(name="add")([y, Dense(2)(x)]))
    model = keras.Model(x, [added, layers.ReLU(name="relu")(y)])
    check_declines(model, RULES, reason="first feeds relu as well as add")


def test_declines_a_summand_that_is_added_twice():
    x = keras.Input((9,))
    y = Dense(2, name="first")(x)
    model = keras.Model(x, BatchNormalization()(Add()([y, Dense(2)(x), y])))
    check_declines(model, RULES, reason="reads first more than once")


def test_declines_a_sum_that_is_used_as_well():
    x = keras.Input((9,))
    y = Add(name="sum")([Dense(2)(x), Dense(2)(x)])
    model = keras.Model(x, layers.Add(name="add")([y, BatchNormalization(name="bn")(y)]))
    check_declines(model, RULES, reason="sum feeds add as well as bn")


@pytest.mark.parametrize("constant", [3.0, np.arange(4.0, dtype="float32")])
def test_declines_a_constant_among_the_summands(constant):
    # It would have to be scaled too.
    x = keras.Input((9,))
    model = keras.Model(x, BatchNormalization()(keras.ops.add(Dense(4)(x), constant)))
    check_declines(model, RULES, reason="adds a constant")


def test_does_not_match_where_a_summand_is_not_linear():
    model = model_of(Dense(3), layers.MaxPooling2D(2, strides=1, padding="same"))
    report = explain(model, RULES)
    assert not report.applied
    assert not report.declined


def test_does_not_match_a_subclass():
    class Squared(Dense):
        def call(self, inputs):
            return super().call(inputs) ** 2

    report = explain(model_of(Dense(2), Squared(2)), RULES)
    assert not report.applied
    assert not report.declined
