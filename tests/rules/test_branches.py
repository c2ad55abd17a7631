"""Convolutions of one tensor, added."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    Add,
    BatchNormalization,
    Conv1D,
    Conv2D,
    Conv3D,
    DepthwiseConv1D,
    DepthwiseConv2D,
    LeakyReLU,
    ReLU,
    SeparableConv2D,
)

from kito import explain, optimize
from kito.rules.branches import parallel_branches
from kito.testing import TOLERANCES, check_declines, check_equivalent, check_rewrites

RULES = [parallel_branches]
FLOAT64 = max(1e-10, TOLERANCES["float64"])
SHAPES = {
    Conv1D: (9, 4),
    Conv2D: (7, 8, 4),
    Conv3D: (4, 5, 4, 4),
    DepthwiseConv1D: (9, 4),
    DepthwiseConv2D: (7, 8, 4),
}
FIRST = {"data_format": "channels_first"}


def same(*args, **options):
    return Conv2D(*args, padding="same", **options)


def identity(x):
    return x


def model_of(*branches, shape=(7, 8, 4), **inputs):
    """The sum of the branches, each a layer or a function of the input."""
    x = keras.Input(shape, **inputs)
    return keras.Model(x, Add(name="add")([branch(x) for branch in branches]))


def merged(model, **options):
    """The one convolution that is left."""
    _, layer = check_rewrites(model, RULES, **options).layers
    return layer


@pytest.mark.parametrize("cls", SHAPES)
def test_merges_convolutions_a_normalization_and_the_identity(cls):
    keras.config.set_dtype_policy("float64")
    filters = () if cls in (DepthwiseConv1D, DepthwiseConv2D) else (4,)
    branches = [cls(*filters, size, padding="same") for size in (1, 3, 2)]
    model = model_of(branches[0], identity, *branches[1:], BatchNormalization(), shape=SHAPES[cls])
    layer = merged(model, times=1, tolerance=FLOAT64)
    assert type(layer) is cls
    assert set(layer.kernel_size) == {3}
    assert layer.name == "add"


def test_merges_what_plus_adds():
    x = keras.Input((7, 8, 4))
    fast = check_rewrites(keras.Model(x, same(4, 3)(x) + x), RULES, times=1)
    assert len(fast.layers) == 2


def test_merges_sums_of_sums():
    x = keras.Input((7, 8, 4))
    total = same(4, 3)(x) + same(4, 1)(x) + BatchNormalization()(x) + x
    fast = check_rewrites(keras.Model(x, total), RULES, times=3)
    assert len(fast.layers) == 2


def test_merges_the_first_of_sizes_that_differ_in_one_direction():
    layer = merged(model_of(same(4, (1, 3)), same(4, (3, 1)), same(4, 3), identity), times=1)
    assert layer.kernel_size == (3, 3)


@pytest.mark.parametrize("use_bias", [(False, False), (False, True), (True, False)])
def test_has_a_bias_where_one_had(use_bias):
    one, other = use_bias
    model = model_of(same(4, 3, use_bias=one), same(4, 1, use_bias=other), identity)
    assert merged(model, times=1).use_bias == any(use_bias)


@pytest.mark.parametrize(("scale", "center"), [(True, False), (False, True), (False, False)])
def test_merges_every_kind_of_normalization(scale, center):
    bn = BatchNormalization(scale=scale, center=center)
    assert merged(model_of(bn, same(4, 3, use_bias=False)), times=1).use_bias


def test_adds_the_identity_as_often_as_it_is_added():
    merged(model_of(identity, same(4, 3), identity), times=1)


def test_merges_two_calls_of_one_convolution():
    conv = same(4, 3)
    merged(model_of(conv, conv, identity), times=1)


@pytest.mark.parametrize("options", [{}, {"strides": 2}, {"padding": "same", "strides": 3}])
def test_merges_equal_windows_whatever_the_geometry(options):
    assert merged(model_of(Conv2D(5, 3, **options), Conv2D(5, 3, **options)), times=1)


def test_merges_causal_convolutions():
    branches = [Conv1D(5, 3, padding="causal", dilation_rate=2) for _ in range(2)]
    merged(model_of(*branches, shape=(9, 4)), times=1)


def test_a_window_of_one_need_not_pad_or_dilate_as_the_others_do():
    merged(model_of(same(4, 3, dilation_rate=2), Conv2D(4, 1), same(4, 1)), times=1)


@pytest.mark.parametrize("size", [7, 8])  # where the stride begins depends on it
@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("stride", [2, 3])
def test_places_windows_that_have_a_stride(stride, window, size):
    branches = [same(4, window, strides=stride), same(4, 5, strides=stride)]
    merged(model_of(*branches, shape=(size, size, 4)), times=1)


def test_places_windows_that_have_a_dilation():
    merged(model_of(same(4, 5, dilation_rate=2), same(4, 3, dilation_rate=2), identity), times=1)


def test_merges_groups():
    branches = [same(4, 3, groups=2), same(4, 1, groups=2), BatchNormalization(), identity]
    assert merged(model_of(*branches), times=1).groups == 2


def test_merges_depthwise_convolutions_that_make_channels():
    branches = [DepthwiseConv2D(size, depth_multiplier=2, padding="same") for size in (1, 3)]
    merged(model_of(*branches), times=1)


def test_merges_channels_first():
    model = model_of(same(4, 3, **FIRST), BatchNormalization(axis=1), shape=(4, 8, 9))
    merged(model, times=1)


def test_sizes_need_not_be_known_where_there_is_no_stride():
    model = model_of(same(4, 3), same(4, 2), BatchNormalization(), identity, shape=(None, None, 4))
    assert merged(model, times=1).output.shape == (None, None, None, 4)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_merges_in_low_precision(policy):
    keras.config.set_dtype_policy(policy)
    layer = merged(model_of(same(4, 3), BatchNormalization(), identity), times=1)
    assert layer.dtype_policy.name == policy


def test_leaves_the_terms_that_read_something_else():
    model = model_of(ReLU(), same(4, 3), lambda x: same(4, 3)(ReLU()(x)), identity)
    fast = check_rewrites(model, RULES, times=1)
    assert fast.output_names == ["add"]
    assert type(fast.layers[-1]) is Add


def test_leaves_a_branch_that_has_an_activation():
    fast = check_rewrites(
        model_of(same(4, 3, activation="relu"), same(4, 3), identity), RULES, times=1
    )
    assert len(fast.layers) == 4


def test_merges_the_convolutions_of_two_tensors_in_two():
    x = keras.Input((7, 8, 4))
    y = ReLU()(x)
    terms = [same(4, 3)(x), y, same(4, 1)(y), x, same(4, 1)(x)]
    fast = check_rewrites(keras.Model(x, Add(name="add")(terms)), RULES, times=2)
    assert len(fast.layers) == 5


@settings(max_examples=15, deadline=None)
@given(
    windows=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3),
    dilation=st.integers(1, 2),
    stride=st.integers(1, 3),
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    seed=st.integers(0, 99),
)
def test_merges_any_windows(windows, dilation, stride, size, seed):
    keras.config.set_dtype_policy("float64")
    options = {"strides": stride} if stride > 1 else {"dilation_rate": dilation}
    largest = same(3, (5, 5), **options)
    branches = [same(3, window, **options) for window in windows]
    identities = [identity, BatchNormalization()] if stride == 1 else []
    model = model_of(*branches, largest, *identities, shape=(*size, 3))
    # a window of even size may lie between the taps of a dilated one
    if explain(model, RULES).declined:
        assert dilation == 2
        assert any(side % 2 == 0 for window in windows for side in window)
        return
    merged(model, times=1, tolerance=FLOAT64, seed=seed)


def declines(model, reason):
    check_declines(model, RULES, reason=reason)


def test_declines_other_strides():
    # 1 x 1 is what both make of a single value
    model = model_of(same(4, 3), same(4, 3, strides=2), shape=(1, 1, 4))
    declines(model, "conv2d_1 has the strides (2, 2), conv2d has (1, 1)")


def test_declines_the_identity_beside_a_stride():
    model = model_of(same(4, 3, strides=2), identity, shape=(1, 1, 4))
    declines(model, "conv2d has the strides (2, 2), the identity has none")


def test_declines_a_normalization_beside_a_stride():
    model = model_of(same(4, 3, strides=2), BatchNormalization(), shape=(1, 1, 4))
    declines(model, "conv2d has the strides (2, 2), batch_normalization has none")


def test_declines_other_dilations():
    declines(model_of(same(4, 3), same(4, 3, dilation_rate=2)), "has the dilation_rate (2, 2)")


def test_declines_other_groups():
    declines(model_of(same(4, 3), same(4, 3, groups=2)), "conv2d_1 has the groups 2")


def test_declines_another_data_format():
    first, last = same(4, 3, use_bias=False, **FIRST), same(4, 3, use_bias=False)
    declines(model_of(last, first, shape=(4, 4, 4)), "has the data_format channels_first")


def test_declines_another_padding():
    model = model_of(Conv1D(4, 3, padding="same"), Conv1D(4, 3, padding="causal"), shape=(9, 4))
    declines(model, "conv1d_1 has the padding causal, conv1d has same")


@pytest.mark.parametrize("filters", [(1, 4), (4, 1)])
def test_declines_a_sum_that_is_broadcast(filters):
    x = keras.Input((7, 8, 4))
    model = keras.Model(x, same(filters[0], 3)(x) + same(filters[1], 1)(x))
    declines(model, f"conv2d_1 has the filters {filters[1]}, conv2d has {filters[0]}")


def test_declines_other_channels_of_a_depthwise_convolution():
    x = keras.Input((7, 8, 1))
    convs = [DepthwiseConv2D(3, padding="same", depth_multiplier=m, name=f"dw{m}") for m in (1, 2)]
    declines(keras.Model(x, convs[0](x) + convs[1](x)), "dw2 has the depth_multiplier 2, dw1 has 1")


def test_declines_another_class():
    declines(model_of(same(4, 3), DepthwiseConv2D(3, padding="same")), "is a DepthwiseConv2D")


@pytest.mark.parametrize("other", [lambda x: Conv2D(4, 1)(x), identity])
def test_declines_other_windows_without_padding(other):
    # the larger window leaves one value, which is then added to all
    x = keras.Input((3, 3, 4))
    declines(keras.Model(x, Conv2D(4, 3)(x) + other(x)), "have windows of other sizes")


def test_declines_the_identity_beside_a_causal_convolution():
    model = model_of(Conv1D(4, 3, padding="causal"), identity, shape=(9, 4))
    declines(model, "have windows of other sizes, and do not pad")


def test_declines_windows_of_which_none_holds_the_other():
    declines(model_of(same(4, (1, 3)), same(4, (3, 1))), "is not inside that of")


def test_declines_a_window_between_the_taps():
    # the two taps of the dilated convolution are one before and one behind the identity
    declines(model_of(same(4, 2, dilation_rate=2), identity), "window of the identity is not insi")


def test_declines_a_stride_where_a_size_is_not_known():
    model = model_of(same(4, 3, strides=2), same(4, 1, strides=2), shape=(None, 8, 4))
    declines(model, "conv2d_1 has a stride, and the sizes that it is for are not known")


def test_declines_another_axis():
    model = model_of(same(8, 3), BatchNormalization(axis=1), shape=(8, 8, 8))
    declines(model, "normalizes axis 1, the channels of conv2d are axis 3")


@pytest.mark.parametrize("other", [identity, lambda x: BatchNormalization()(x)])
def test_declines_an_identity_that_is_broadcast(other):
    model = model_of(same(4, 3), other, shape=(7, 8, 1))
    declines(model, "conv2d makes 4 channels of 1")


def test_declines_an_identity_that_is_broadcast_over_a_depthwise_convolution():
    conv = DepthwiseConv2D(3, padding="same", depth_multiplier=2)
    declines(model_of(conv, identity, shape=(7, 8, 1)), "makes 2 channels of each")


@pytest.mark.parametrize(
    "other", [lambda x: same(4, 1, **FIRST)(x), lambda x: BatchNormalization(axis=1)(x)]
)
def test_declines_a_new_bias_that_keras_adds_along_another_axis(other):
    conv = same(4, 3, use_bias=False, **FIRST)
    declines(model_of(conv, other, shape=(4, 8, 4)), "along the wrong axis")


def test_declines_an_addition_in_another_dtype():
    conv = same(4, 3, dtype="float64")
    declines(model_of(conv, identity), "add turns float64 into float32")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere the sum is float32")
def test_declines_an_identity_of_another_dtype():
    x = keras.Input((7, 8, 4), dtype="float64")
    declines(keras.Model(x, same(4, 3)(x) + x), "turns float32 into float64")


def test_declines_a_branch_in_another_dtype():
    model = model_of(same(4, 3), same(4, 3, dtype="float16"))
    declines(model, "conv2d_1 gives float16, conv2d float32")


def test_declines_a_normalization_in_another_dtype():
    declines(model_of(same(4, 3), BatchNormalization(dtype="float64")), "gives float64, conv2d flo")


def test_declines_statistics_that_are_not_finite():
    model = model_of(same(2, 3), BatchNormalization(), shape=(5, 5, 2))
    model.get_layer("batch_normalization").moving_variance.assign([-1.0, 1.0])
    (declined,) = explain(model, RULES).declined
    assert "not finite" in declined.reason


def test_declines_a_branch_that_is_added_twice():
    # Add()([c, c]): one tensor, two terms
    x = keras.Input((7, 8, 4))
    conv = same(4, 3)(x)
    declines(keras.Model(x, Add()([conv, conv, x])), "reads conv2d more than once")


def test_declines_a_branch_that_something_else_reads():
    x = keras.Input((7, 8, 4))
    conv = same(4, 3)(x)
    declines(keras.Model(x, [Add()([conv, x]), ReLU()(conv)]), "feeds re_lu as well as add")


def test_declines_a_branch_that_is_an_output():
    x = keras.Input((7, 8, 4))
    conv = same(4, 3)(x)
    declines(keras.Model(x, [Add()([conv, x]), conv]), "conv2d is an output of the model")


def test_declines_a_normalization_that_is_called_as_in_training():
    model = model_of(same(4, 3), lambda x: BatchNormalization()(x, training=True))
    declines(model, "is called with training=True")


def test_declines_an_activation_that_the_configuration_does_not_carry():
    def linear(x):  # Keras would take it for its own function of that name
        return x * x

    inputs = keras.Input((7, 8, 4))
    model = keras.Model(inputs, same(4, 3, activation=linear)(inputs) + same(4, 1)(inputs))
    check_equivalent(model, optimize(model, RULES))


@pytest.mark.parametrize("other", [lambda x: BatchNormalization()(x), identity])
def test_declines_what_tensorflow_would_fuse(other):
    model = model_of(same(4, 3), other, ReLU())
    model = keras.Model(model.inputs, LeakyReLU(0.1)(model.outputs[0]))
    declines(model, "TensorFlow would fuse these")


@pytest.mark.parametrize(
    "branches",
    [
        lambda x: [x, x],
        lambda x: [BatchNormalization()(x), BatchNormalization()(x), x],
        lambda x: [SeparableConv2D(4, 3, padding="same")(x), x],
        lambda x: [same(4, 3, activation="relu")(x), x],
        lambda x: [same(4, 3)(x), ReLU()(x)],
    ],
    ids=["identities", "normalizations", "separable", "activation", "one convolution"],
)
def test_leaves_what_is_no_sum_of_convolutions_of_one_tensor(branches):
    x = keras.Input((7, 8, 4))
    report = explain(keras.Model(x, Add()(branches(x))), RULES)
    assert not report.applied
    assert not report.declined


def test_leaves_a_sum_with_a_constant():
    x = keras.Input((7, 8, 4))
    assert not explain(keras.Model(x, same(4, 3)(x) + 1.0), RULES).applied


def test_leaves_a_subclass():
    class Scaled(Conv2D):
        def call(self, inputs):
            return super().call(inputs) ** 2

    model = model_of(Scaled(4, 3, padding="same"), identity)
    assert not explain(model, RULES).applied


def test_leaves_integers():
    x = keras.Input((7, 8, 4), dtype="int32")
    model = keras.Model(x, same(4, 3)(keras.ops.cast(x, "float32")) + x)
    assert not explain(model, RULES).applied
