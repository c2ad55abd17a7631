"""Affine map -> layers that commute with it -> linear layer."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from keras.layers import BatchNormalization, Rescaling

from kito import explain, optimize
from kito.rules.affine_linear import affine_linear
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize
from tests.exact import BOUND, DOUBLE

RULES = [affine_linear]
SHAPES = {1: (9, 4), 2: (9, 8, 4), 3: (6, 7, 8, 4)}
LINEAR = {
    "Conv1D": (1, lambda **options: layers.Conv1D(6, 3, **options)),
    "Conv2D": (2, lambda **options: layers.Conv2D(6, 3, **options)),
    "Conv3D": (3, lambda **options: layers.Conv3D(6, 3, **options)),
    "DepthwiseConv1D": (1, lambda **options: layers.DepthwiseConv1D(3, **options)),
    "DepthwiseConv2D": (2, lambda **options: layers.DepthwiseConv2D(3, **options)),
    "SeparableConv1D": (1, lambda **options: layers.SeparableConv1D(6, 3, **options)),
    "SeparableConv2D": (2, lambda **options: layers.SeparableConv2D(6, 3, **options)),
    "Dense": (2, lambda **options: layers.Dense(5, **options)),
}
TRANSPOSED = {
    "Conv1DTranspose": (1, lambda **options: layers.Conv1DTranspose(6, 3, **options)),
    "Conv2DTranspose": (2, lambda **options: layers.Conv2DTranspose(6, 3, **options)),
    "Conv3DTranspose": (3, lambda **options: layers.Conv3DTranspose(6, 3, **options)),
}
# A map that only scales, and by numbers > 0: what the conditions ask for.
SCALE = np.array([0.5, 1.5, 2.0, 3.0])


def scaling(scale=SCALE):
    return Rescaling([*scale])


def model_of(*row, shape=SHAPES[2]):
    return keras.Sequential([keras.Input(shape), *row])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", LINEAR)
def test_folds(kind, use_bias):
    keras.config.set_dtype_policy(DOUBLE)
    rank, linear = LINEAR[kind]
    model = model_of(
        BatchNormalization(epsilon=0.1),
        linear(use_bias=use_bias, name="linear"),
        shape=SHAPES[rank],
    )
    fast = check_rewrites(model, RULES, times=1, tolerance=BOUND)
    assert [layer.name for layer in fast.layers] == ["linear"]
    assert fast.layers[0].use_bias


def test_folds_into_all_that_read_the_map():
    keras.config.set_dtype_policy(DOUBLE)
    x = keras.Input(SHAPES[2])
    y = BatchNormalization(epsilon=0.1)(x)
    readers = [kind(name=name) for name, (rank, kind) in LINEAR.items() if rank == 2]
    model = keras.Model(x, [layer(y) for layer in readers])
    fast = check_rewrites(model, RULES, times=1, tolerance=BOUND)
    assert [layer.name for layer in fast.layers[1:]] == [layer.name for layer in readers]


def test_folds_into_all_that_read_what_lets_the_map_pass():
    x = keras.Input(SHAPES[2])
    y = layers.Flatten()(BatchNormalization()(x))
    model = keras.Model(x, [layers.Dense(2)(y), layers.Dense(3, use_bias=False)(y)])
    assert len(check_rewrites(model, RULES, times=1).layers) == 4


def test_a_layer_that_reads_the_map_twice_stays_one():
    x = keras.Input((9,))
    y = BatchNormalization()(x)
    dense = layers.Dense(4)
    model = keras.Model(x, [layers.ReLU()(dense(y)), layers.Softmax()(dense(y))])
    fast = check_rewrites(model, RULES, times=1)
    assert fast.count_params() == model.count_params() - 4 * 9


def test_a_layer_that_reads_something_else_too_is_not_copied():
    x = keras.Input((9,))
    y = BatchNormalization()(x)
    shared = layers.Dense(40, name="shared")
    outputs = [layers.Dense(4)(y), layers.ReLU()(shared(y)), layers.Softmax()(shared(x))]
    check_declines(keras.Model(x, outputs), RULES, reason="copy")


def test_declines_where_one_of_the_readers_can_not_take_the_map():
    x = keras.Input(SHAPES[2])
    y = BatchNormalization(name="bn")(x)
    padded = layers.Conv2D(6, 3, padding="same", name="padded")
    model = keras.Model(x, [layers.Conv2D(6, 3)(y), padded(y)])
    check_declines(model, RULES, reason="padded pads with zeros, and bn shifts")


def test_declines_where_something_else_reads_the_map():
    x = keras.Input(SHAPES[2])
    y = BatchNormalization(name="bn")(x)
    model = keras.Model(
        x, [layers.Dense(6)(y), layers.Dense(6, name="last")(y), layers.ReLU(name="relu")(y)]
    )
    check_declines(model, RULES, reason="bn feeds relu as well as")


@pytest.mark.parametrize(
    "handing", [layers.ZeroPadding2D, layers.MaxPooling2D, layers.ReLU, layers.Dropout]
)
def test_declines_integers_of_which_keras_infers_floats(handing):
    x = keras.Input(SHAPES[2], dtype="uint8")
    options = {"rate": 0.5} if handing is layers.Dropout else {}
    y = Rescaling(1 / 255, name="scale")(handing(**options)(x))
    model = keras.Model(x, layers.Conv2D(6, 3)(y))
    check_declines(model, RULES, reason="scale reads")


@pytest.mark.parametrize("merge", [layers.Concatenate, layers.Add, layers.Maximum])
def test_integers_that_meet_floats_fold(merge):
    given = keras.Input((4,)), keras.Input((4,), dtype="int32")
    y = BatchNormalization(name="bn")(merge()([given[0], layers.ReLU()(given[1])]))
    check_rewrites(keras.Model(given, layers.Dense(3)(y)), RULES, times=1)


def test_declines_integers_that_meet_integers():
    given = keras.Input((4,), dtype="int32"), keras.Input((4,), dtype="int32")
    y = BatchNormalization(name="bn")(layers.Concatenate()([layers.ReLU()(x) for x in given]))
    check_declines(keras.Model(given, layers.Dense(3)(y)), RULES, reason="bn reads what may be")


def test_floats_that_were_made_of_integers_fold():
    x = keras.Input(SHAPES[2], dtype="uint8")
    y = BatchNormalization()(layers.ZeroPadding2D()(Rescaling(1 / 255)(x)))
    check_rewrites(keras.Model(x, layers.Conv2D(6, 3)(y)), RULES, times=1)


def test_declines_where_the_map_is_an_output():
    x = keras.Input(SHAPES[2])
    y = BatchNormalization(name="bn")(x)
    model = keras.Model(x, [layers.Dense(6)(y), layers.Dense(6)(y), y])
    check_declines(model, RULES, reason="bn is an output of the model")


@pytest.mark.parametrize("kind", [*LINEAR, *TRANSPOSED])
def test_folds_a_scale_where_the_layer_pads(kind):
    keras.config.set_dtype_policy(DOUBLE)
    rank, linear = (LINEAR | TRANSPOSED)[kind]
    options = {} if kind == "Dense" else {"padding": "same"}
    model = model_of(scaling(), linear(use_bias=False, **options), shape=SHAPES[rank])
    fast = check_rewrites(model, RULES, times=1, tolerance=BOUND)
    assert not fast.layers[0].use_bias


def test_keeps_an_activation():
    model = model_of(BatchNormalization(), layers.Conv2D(5, 3, activation="relu"))
    check_rewrites(model, RULES, times=1)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_folds_groups(groups):
    model = model_of(BatchNormalization(), layers.Conv2D(8, 3, groups=groups, strides=2))
    check_rewrites(model, RULES, times=1)


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("kind", ["DepthwiseConv2D", "SeparableConv2D"])
def test_folds_a_depth_multiplier(kind, multiplier):
    linear = LINEAR[kind][1](depth_multiplier=multiplier, dilation_rate=2)
    check_rewrites(model_of(BatchNormalization(), linear), RULES, times=1)


def test_folds_a_shift_where_a_window_of_one_reaches_no_padding():
    conv = layers.Conv2D(5, 1, padding="same", strides=2)
    check_rewrites(model_of(BatchNormalization(), conv), RULES, times=1)


def test_folds_channels_first():
    conv = layers.Conv2D(5, 3, data_format="channels_first")
    model = model_of(BatchNormalization(axis=1), conv, shape=(4, 9, 11))
    check_rewrites(model, RULES, times=1)


def test_folds_where_sizes_are_not_known():
    model = model_of(BatchNormalization(), layers.Conv2D(5, 3), shape=(None, None, 4))
    assert check_rewrites(model, RULES, times=1).output_shape == (None, None, None, 5)


@pytest.mark.parametrize(
    "row",
    [
        lambda: [layers.Dropout(0.5), layers.Identity()],
        lambda: [layers.GlobalAveragePooling2D()],
        lambda: [layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten()],
        lambda: [layers.AveragePooling2D(2)],
        lambda: [layers.UpSampling2D(2)],
        lambda: [layers.Cropping2D(1)],
        lambda: [layers.Flatten()],
        lambda: [layers.Flatten(data_format="channels_first")],
        lambda: [layers.Reshape((72, 4))],
        lambda: [layers.Reshape((18, 16))],
        lambda: [layers.Reshape((-1,)), layers.Reshape((2, 144))],
        lambda: [layers.Activation("linear")],
        lambda: [layers.AveragePooling2D(2), layers.Dropout(0.1), layers.Flatten()],
    ],
)
def test_a_map_passes(row):
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(BatchNormalization(), *row(), layers.Dense(3))
    check_rewrites(model, RULES, times=1, tolerance=BOUND)


def around(function, affine=None, **inputs):
    """A map, an operation of `keras.ops`, and a Dense layer."""
    x = keras.Input(**{"shape": SHAPES[2], **inputs})
    return keras.Model(x, layers.Dense(3)(function((affine or BatchNormalization())(x))))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ops.reshape(x, (-1, 72, 4)),
        lambda x: ops.reshape(x, (-1, 9, 32)),
        lambda x: ops.transpose(x, (0, 2, 1, 3)),
        lambda x: ops.mean(x, axis=(1, 2)),
        lambda x: ops.mean(x, axis=1, keepdims=True),
        lambda x: ops.mean(x, axis=[-3]),
    ],
)
def test_a_map_passes_an_operation(function):
    keras.config.set_dtype_policy(DOUBLE)
    check_rewrites(around(function, dtype=DOUBLE), RULES, times=1, tolerance=BOUND)


def test_a_map_passes_a_transposition_of_channels():
    x = keras.Input(SHAPES[2])
    y = ops.transpose(BatchNormalization()(x), (0, 3, 1, 2))
    y = layers.Conv2D(3, 2, data_format="channels_first")(y)
    check_rewrites(keras.Model(x, y), RULES, times=1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: ops.transpose(x, (1, 0, 2, 3)), "moves samples"),
        (lambda x: ops.transpose(x, (3, 1, 2, 0)), "moves samples"),
        (lambda x: ops.reshape(x, (-1, 8)), "moves samples"),
        (lambda x: ops.reshape(x, (2, 6, 48)), "moves samples"),
        (lambda x: ops.mean(x, axis=(2, 3)), "is a mean of axes [2, 3]"),
        (lambda x: ops.mean(x, axis=(0, 1)), "is a mean of axes [0, 1]"),
    ],
)
def test_declines_an_operation_that_moves_samples_or_mixes_channels(function, reason):
    model = around(function, shape=(6, 4, 4), batch_size=6)
    check_declines(model, RULES, reason=reason)


def test_declines_a_mean_in_float16():
    keras.config.set_dtype_policy("float16")
    model = around(lambda x: ops.mean(x, axis=(1, 2)), scaling(), dtype="float16")
    check_declines(model, RULES, reason="adds up in float16")


def test_a_map_passes_bilinear_upsampling():  # which TensorFlow computes in float32
    row = [layers.UpSampling2D(2, interpolation="bilinear"), layers.Dense(3)]
    check_rewrites(model_of(BatchNormalization(), *row), RULES, times=1)


def test_a_map_passes_where_channels_move():
    row = [layers.Permute((3, 1, 2)), layers.Conv2D(3, 2, data_format="channels_first")]
    check_rewrites(model_of(BatchNormalization(), *row), RULES, times=1)


def test_a_number_passes_where_sizes_are_not_known():
    row = [Rescaling(0.5, 1.0), layers.Reshape((-1, 2)), layers.Dense(3)]
    check_rewrites(model_of(*row, shape=(None, 4)), RULES, times=1)


@pytest.mark.parametrize(
    "row",
    [
        lambda: [layers.ReLU()],
        lambda: [layers.ReLU(negative_slope=0.1)],
        lambda: [layers.LeakyReLU()],
        lambda: [layers.Activation("relu")],
        lambda: [layers.Activation("leaky_relu")],
        lambda: [layers.MaxPooling2D(2, padding="same")],
        lambda: [layers.AveragePooling2D(2, padding="same")],
        lambda: [layers.ZeroPadding2D(1), layers.GlobalMaxPooling2D()],
    ],
)
def test_a_scale_passes(row):
    keras.config.set_dtype_policy(DOUBLE)
    model = model_of(scaling(), *row(), layers.Dense(3))
    check_rewrites(model, RULES, times=1, tolerance=BOUND)


@pytest.mark.parametrize("layer", [lambda: layers.MaxPooling2D(2), layers.GlobalMaxPooling2D])
def test_a_shift_passes_a_maximum(layer):
    model = model_of(Rescaling([*SCALE], offset=-1.5), layer(), layers.Dense(3))
    check_rewrites(model, RULES, times=1)


@pytest.mark.parametrize("rank", SHAPES)
def test_a_map_passes_in_any_rank(rank):
    pooling = getattr(layers, f"MaxPooling{rank}D")
    cropping = getattr(layers, f"Cropping{rank}D")
    upsampling = getattr(layers, f"UpSampling{rank}D")
    average = getattr(layers, f"AveragePooling{rank}D")
    together = getattr(layers, f"GlobalAveragePooling{rank}D")
    row = [pooling(2, strides=1), cropping(1), upsampling(2), average(2), together()]
    model = model_of(Rescaling([*SCALE], offset=1.0), *row, layers.Dense(3), shape=SHAPES[rank])
    check_rewrites(model, RULES, times=1)


@settings(max_examples=12, deadline=None)
@given(
    channels=st.integers(1, 4),
    size=st.integers(4, 7),
    window=st.integers(1, 3),
    filters=st.integers(1, 3),
    groups=st.booleans(),
    flat=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_shapes(channels, size, window, filters, groups, flat, seed):
    keras.config.set_dtype_policy(DOUBLE)
    groups = channels if groups else 1
    row = [layers.Conv2D(groups * filters, window, groups=groups)]
    if flat:
        row = [layers.AveragePooling2D(window), layers.Flatten(), layers.Dense(filters)]
    model = model_of(BatchNormalization(), *row, shape=(size, size + 1, channels))
    check_rewrites(model, RULES, times=1, tolerance=BOUND, seed=seed)


@pytest.mark.parametrize("kind", [kind for kind in LINEAR if kind != "Dense"])
def test_declines_a_shift_where_the_layer_pads(kind):
    rank, linear = LINEAR[kind]
    model = model_of(BatchNormalization(), linear(padding="same"), shape=SHAPES[rank])
    check_declines(model, RULES, reason="pads with zeros, and batch_normalization shifts")


def test_declines_a_shift_where_the_layer_pads_along_one_axis():
    conv = layers.Conv2D(3, (1, 3), padding="same")
    check_declines(model_of(BatchNormalization(), conv), RULES, reason="pads with zeros")


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_folds_a_shift_where_the_windows_fill_the_input(data_format):
    conv = layers.Conv2D(3, 4, strides=4, padding="same", data_format=data_format)
    shape = (8, 12, 3) if data_format == "channels_last" else (3, 8, 12)
    axis = -1 if data_format == "channels_last" else 1
    model = model_of(BatchNormalization(axis=axis), conv, shape=shape)
    assert explain(model, RULES).folded == {"affine_linear": 1}
    if data_format == "channels_last":  # TensorFlow has the other on GPUs only
        check_rewrites(model, RULES, times=1)


@pytest.mark.parametrize("size", [9, 11, None])
def test_declines_a_shift_where_the_windows_may_not_fill_the_input(size):
    conv = layers.Conv2D(3, 4, strides=4, padding="same")
    model = model_of(BatchNormalization(), conv, shape=(size, 8, 3))
    check_declines(model, RULES, reason="pads with zeros, and batch_normalization shifts")


def test_declines_a_shift_where_the_layer_pads_the_past():
    conv = layers.Conv1D(3, 3, padding="causal")
    model = model_of(BatchNormalization(), conv, shape=SHAPES[1])
    check_declines(model, RULES, reason="pads with zeros")


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_declines_a_shift_before_a_transposed_convolution(kind):
    rank, linear = TRANSPOSED[kind]
    model = model_of(BatchNormalization(), linear(), shape=SHAPES[rank])
    check_declines(model, RULES, reason="is transposed, and batch_normalization shifts")


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: layers.ReLU(), "is not linear, and batch_normalization shifts"),
        (lambda: layers.LeakyReLU(), "is not linear, and batch_normalization shifts"),
        (lambda: layers.Activation("relu"), "is not linear, and batch_normalization shifts"),
        (lambda: layers.Activation("tanh"), "(tanh) is not linear"),
        (lambda: layers.ZeroPadding2D(1), "adds zeros, and batch_normalization shifts"),
        (lambda: layers.AveragePooling2D(2, padding="same"), "pads, and batch_norm"),
        (lambda: layers.MaxPooling2D(2), "scales a channel by a number <= 0"),
        (lambda: layers.GlobalMaxPooling2D(), "scales a channel by a number <= 0"),
        (lambda: layers.UpSampling2D(2, interpolation="bicubic"), "interpolation bicubic"),
    ],
)
def test_declines_what_a_map_does_not_pass(layer, reason):
    check_declines(model_of(BatchNormalization(), layer(), layers.Dense(3)), RULES, reason=reason)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: layers.ReLU(), "scales a channel by a number <= 0"),
        (lambda: layers.MaxPooling2D(2, padding="same"), "scales a channel by a number <= 0"),
    ],
)
@pytest.mark.parametrize("number", [0.0, -1.0])
def test_declines_a_scale_that_is_not_positive(layer, reason, number):
    row = [scaling([number, 1.0, 1.0, 1.0]), layer(), layers.Dense(3)]
    check_declines(model_of(*row), RULES, reason=reason)


@pytest.mark.parametrize("options", [{"max_value": 1.0}, {"threshold": 0.5}], ids=str)
def test_declines_a_relu_that_is_not_the_plain_one(options):
    model = model_of(scaling(), layers.ReLU(**options), layers.Dense(3))
    check_declines(model, RULES, reason="has a threshold or a largest value")


def test_declines_a_shift_before_a_maximum_that_pads():
    row = [Rescaling(2.0, 1.0), layers.MaxPooling2D(2, padding="same"), layers.Dense(3)]
    check_declines(model_of(*row), RULES, reason="pads, and rescaling shifts")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.AveragePooling2D(2),
        lambda: layers.UpSampling2D(2),
        lambda: layers.GlobalAveragePooling2D(),
        lambda: layers.Cropping2D(1),
    ],
)
def test_declines_a_map_along_another_axis(layer):
    model = model_of(BatchNormalization(axis=1), layer(), layers.Dense(3))
    check_declines(model, RULES, reason="varies along axis 1")


def test_declines_a_map_along_another_axis_of_the_linear_layer():
    conv = layers.Conv2D(3, 3, data_format="channels_first")
    model = model_of(BatchNormalization(), conv, shape=(4, 9, 4))
    check_declines(model, RULES, reason="varies along axis 3, the channels are axis 1")


def test_declines_a_reshape_that_mixes_the_channels():
    model = model_of(BatchNormalization(), layers.Reshape((9, 16, 2)), layers.Dense(3))
    check_declines(model, RULES, reason="spreads the channels of batch_normalization over")


def test_declines_to_flatten_sizes_that_are_not_known():
    x = keras.Input((None, 4))
    y = layers.Reshape((-1, 2))(BatchNormalization()(x))
    (declined,) = explain(keras.Model(x, layers.Dense(3)(y)), RULES).declined
    assert "are not known" in declined.reason


@pytest.mark.parametrize("width", [9, None])
def test_declines_channels_first_as_wide_as_deep(width):
    # Keras on TensorFlow adds the bias along the width there.
    conv = layers.Conv2D(width or 9, 1, data_format="channels_first", use_bias=False)
    model = randomize(model_of(BatchNormalization(axis=1), conv, shape=(4, 8, width)))
    (declined,) = explain(model, RULES).declined
    assert "wrong axis" in declined.reason


def test_a_scale_folds_channels_first_as_wide_as_deep():
    conv = layers.Conv2D(9, 1, data_format="channels_first", use_bias=False)
    bn = BatchNormalization(axis=1, center=False)
    model = model_of(bn, conv, shape=(4, 8, 9))
    bn.moving_mean.assign(np.zeros(4))
    bn.moving_variance.assign([0.5, 1.0, 2.0, 3.0])
    assert explain(model, RULES).folded == {"affine_linear": 1}


def test_declines_a_change_of_dtype_on_the_way():
    row = [BatchNormalization(), layers.Dropout(0.1, dtype="float64"), layers.Dense(3)]
    check_declines(model_of(*row), RULES, reason="turns float32 into float64")


def test_declines_a_change_of_dtype_by_the_linear_layer():
    model = model_of(BatchNormalization(), layers.Dense(3, dtype="float64"))
    check_declines(model, RULES, reason="dense turns float32 into float64")


def test_declines_a_scale_that_float16_has_not():
    keras.config.set_dtype_policy("float16")
    model = model_of(Rescaling(1e-3), layers.Dense(3), shape=(4,))
    check_declines(model, RULES, reason="range of float16")


@pytest.mark.parametrize(
    "layer", [layers.GlobalAveragePooling2D, lambda: layers.AveragePooling2D(2)]
)
def test_declines_an_average_in_float16(layer):
    keras.config.set_dtype_policy("float16")
    model = keras.Sequential(
        [keras.Input((4, 4, 3), dtype="float16"), Rescaling(0.25), layer(), layers.Dense(3)]
    )
    check_declines(model, RULES, reason="adds up in float16")


def test_declines_what_another_layer_reads_as_well():
    x = keras.Input((6, 6, 4))
    y = BatchNormalization(name="bn")(x)
    model = keras.Model(x, layers.Concatenate()([layers.Conv2D(3, 1)(y), layers.ReLU()(y)]))
    check_declines(model, RULES, reason="bn feeds")


def test_declines_what_is_called_with_training():
    x = keras.Input((6, 6, 4))
    y = layers.Dense(3)(layers.Dropout(0.5)(BatchNormalization()(x), training=True))
    (declined,) = explain(keras.Model(x, y), RULES).declined
    assert "training=True" in declined.reason


def test_a_layer_in_between_that_is_no_subclass():
    class Squared(layers.AveragePooling2D):
        def call(self, inputs):
            return super().call(inputs) ** 2

    report = explain(model_of(BatchNormalization(), Squared(2), layers.Dense(3)), RULES)
    assert not report.applied
    assert not report.declined


@pytest.mark.parametrize(
    ("affine", "opened"), [(BatchNormalization(), True), (Rescaling(0.5, 0.1), False)]
)
def test_is_a_reason_to_look_inside_a_layer_for_a_normalization_only(affine, opened):
    @keras.saving.register_keras_serializable("test_affine_linear")
    class Head(layers.Layer):
        def __init__(self, affine=None, **options):
            super().__init__(**options)
            self.affine, self.dense = affine, layers.Dense(3)
            self.bn = BatchNormalization()  # what it reads is no linear layer, nor what reads it

        def build(self, shape):
            self.affine.build(shape)
            self.dense.build(shape)
            self.bn.build((None, 3))

        def call(self, x):
            return self.bn(keras.ops.tanh(self.dense(self.affine(x))))

        def get_config(self):
            affine = keras.saving.serialize_keras_object(self.affine)
            return {**super().get_config(), "affine": affine}

        @classmethod
        def from_config(cls, config):
            return cls(**config | {"affine": layers.deserialize(config["affine"])})

    inputs = keras.Input((8,))
    copy = type(affine).from_config(affine.get_config())
    model = randomize(keras.Model(inputs, Head(copy, name="head")(layers.ReLU()(inputs))))
    fast = optimize(model, ["affine_linear"])
    assert isinstance(fast.get_layer("head"), keras.Model) == opened
    check_equivalent(model, fast)
