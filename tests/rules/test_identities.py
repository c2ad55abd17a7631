"""Layers that return what they are given."""

import inspect

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from kito import Report, explain, optimize
from kito.graph.keras_internals import StochasticDepth
from kito.rules.identities import IN_TRAINING_ONLY, NOTHING, identities, same_shape
from kito.testing import TOLERANCES, check_declines, check_equivalent, check_rewrites

RULES = [identities]
FLOAT64 = max(1e-10, TOLERANCES["float64"])
IMAGE = (6, 5, 3)
SHAPES = {1: (6, 3), 2: IMAGE, 3: (4, 3, 4, 3)}
OPTIONS = {
    layers.ActivityRegularization: {"l2": 0.5},
    layers.AlphaDropout: {"rate": 0.5},
    layers.Dropout: {"rate": 0.5, "noise_shape": (None, 1, 1, 3)},
    layers.GaussianDropout: {"rate": 0.5},
    layers.GaussianNoise: {"stddev": 0.5},
    layers.Identity: {},
    layers.RandomBrightness: {"factor": 0.5},
    layers.RandomColorJitter: {"brightness_factor": 0.5, "hue_factor": 0.5},
    layers.RandomContrast: {"factor": 0.5},
    layers.RandomErasing: {"factor": 1.0},
    layers.RandomFlip: {},
    layers.RandomHue: {"factor": 0.5},
    layers.RandomPerspective: {"factor": 1.0},
    layers.RandomRotation: {"factor": 0.5, "fill_mode": "constant"},
    layers.RandomSaturation: {"factor": 0.5},
    layers.RandomShear: {"x_factor": 0.5, "y_factor": 0.5},
    layers.RandomTranslation: {"height_factor": 0.5, "width_factor": 0.5},
    layers.RandomZoom: {"height_factor": 0.5},
    layers.SpatialDropout1D: {"rate": 0.5},
    layers.SpatialDropout2D: {"rate": 0.5},
    layers.SpatialDropout3D: {"rate": 0.5},
    StochasticDepth: {"drop_path_rate": 0.5},
}


def shape_of(cls):
    return SHAPES[{layers.SpatialDropout1D: 1, layers.SpatialDropout3D: 3}.get(cls, 2)]


def model_of(*row, shape=IMAGE, **inputs):
    """The layers and one more, for the last one gives the output its name."""
    end = layers.ReLU(name="end")
    return keras.Sequential([keras.Input(shape, **inputs), *row, end])


def test_every_class_is_tested():
    assert {*OPTIONS} == {*IN_TRAINING_ONLY}


@pytest.mark.parametrize("cls", IN_TRAINING_ONLY)
def test_at_inference_it_returns_what_it_is_given(cls):
    keras.config.set_dtype_policy("float64")
    inputs = keras.Input(shape_of(cls), dtype="float64")
    model = keras.Model(inputs, cls(**OPTIONS[cls])(inputs))
    # below 0 and above 255 too: nothing is clipped or scaled
    data = np.random.default_rng(0).normal(0, 400, (2, *inputs.shape[1:]))
    np.testing.assert_array_equal(model.predict_on_batch(data), data)


@pytest.mark.parametrize("policy", ["float32", "float16"])
@pytest.mark.parametrize("cls", IN_TRAINING_ONLY)
def test_leaves_out_what_acts_in_training(cls, policy):
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input(shape_of(cls), dtype=policy)
    takes_training = "training" in inspect.signature(cls.call).parameters
    options = {"training": False} if takes_training else {}
    outputs = layers.ReLU(name="end")(cls(**OPTIONS[cls])(inputs, **options))
    model = keras.Model(inputs, outputs)
    fast = optimize(model, RULES)
    check_equivalent(model, fast)  # not `check_rewrites`: some draw random numbers all the same
    assert [layer.name for layer in fast.layers][1:] == ["end"]


AUGMENTATION = [cls for cls in IN_TRAINING_ONLY if cls.__name__.startswith("Random")]


@pytest.mark.parametrize("cls", AUGMENTATION)
def test_declines_augmentation_that_acts_where_the_model_is_called(cls):
    inputs = keras.Input(IMAGE)
    model = keras.Model(inputs, layers.ReLU()(cls(**OPTIONS[cls])(inputs)))
    (declined,) = explain(model, RULES).declined
    assert declined.reason.endswith("is called with training=True")


def test_keras_still_augments_where_the_model_is_called():
    # When this fails, these layers need not be left any more.
    inputs = keras.Input(IMAGE)
    model = keras.Model(inputs, layers.RandomTranslation(0.5, 0.5)(inputs))
    data = np.random.default_rng(0).normal(size=(4, *IMAGE)).astype("float32")
    assert not np.allclose(model(data), data)
    assert np.allclose(model.predict_on_batch(data), data)


def doing_nothing(cls):
    """A layer of the class that does nothing, and one that does something, as configurations."""
    entry, nothing = NOTHING[cls]
    return {entry: nothing}, {entry: nothing + 1}


@pytest.mark.parametrize("cls", NOTHING)
def test_leaves_out_what_does_nothing(cls):
    shape = SHAPES[int(cls.__name__[-2])]
    nothing, _ = doing_nothing(cls)
    fast = check_rewrites(model_of(cls(**nothing), shape=shape), RULES, times=1)
    assert [layer.name for layer in fast.layers] == ["end"]


@pytest.mark.parametrize("cls", NOTHING)
def test_leaves_what_does_something(cls):
    shape = SHAPES[int(cls.__name__[-2])]
    _, something = doing_nothing(cls)
    report = explain(model_of(cls(**something), shape=shape), RULES)
    assert not report.applied
    assert not report.declined


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.MaxPooling2D(1, strides=2),
        lambda: layers.AveragePooling2D(1, strides=(1, 2)),
        lambda: layers.ZeroPadding2D(((0, 0), (0, 1))),
        lambda: layers.Cropping2D(((0, 1), (0, 0))),
        lambda: layers.UpSampling2D((1, 2)),
        lambda: layers.Permute((1, 3, 2)),
        lambda: layers.Activation("tanh"),
    ],
)
def test_leaves_what_does_a_little(make):
    model = model_of(make())
    report = Report()
    check_equivalent(model, optimize(model, RULES, report=report))
    assert not report.applied
    assert not report.declined


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Activation("linear"),
        lambda: layers.Permute((1, 2, 3)),
        lambda: layers.MaxPooling2D(1, padding="same"),
        lambda: layers.AveragePooling2D((1, 1), data_format="channels_first"),
        lambda: layers.ZeroPadding2D(((0, 0), (0, 0)), data_format="channels_first"),
    ],
)
def test_leaves_out_other_ways_to_do_nothing(make):
    check_rewrites(model_of(make()), RULES, times=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_leaves_interpolation(interpolation):
    # TensorFlow interpolates in float32, also what is float64
    keras.config.set_dtype_policy("float64")
    model = model_of(layers.UpSampling2D(1, interpolation=interpolation), dtype="float64")
    report = Report()
    check_equivalent(model, optimize(model, RULES, report=report))
    assert not report.applied


def test_leaves_out_many_in_a_row():
    row = [layers.Dropout(0.1), layers.GaussianNoise(1.0), layers.Identity(), layers.Cropping2D(0)]
    assert len(check_rewrites(model_of(*row), RULES, times=4).layers) == 1


def test_sizes_need_not_be_known():
    model = model_of(layers.Dropout(0.5), shape=(None, None, 3))
    assert check_rewrites(model, RULES, times=1).output_shape == (None, None, None, 3)


def test_all_that_read_the_layer_read_what_it_is_given():
    x = keras.Input(IMAGE)
    y = layers.Dropout(0.5)(x)
    model = keras.Model(x, layers.Add()([y, layers.ReLU()(y), layers.Multiply()([y, x])]))
    check_rewrites(model, RULES, times=1)


def test_leaves_out_all_calls_of_a_layer():
    x = keras.Input(IMAGE)
    dropout = layers.Dropout(0.5)
    model = keras.Model(x, layers.ReLU()(dropout(layers.ReLU()(dropout(x)))))
    check_rewrites(model, RULES, times=2)


def test_keeps_a_mask():
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.Masking(),
            layers.Dropout(0.5),
            layers.GlobalAveragePooling1D(),
        ]
    )
    check_rewrites(model, RULES, times=1)


@settings(max_examples=10, deadline=None)
@given(
    chosen=st.lists(st.sampled_from([*NOTHING, layers.Dropout]), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_leaves_out_whatever_stands_in_a_row(chosen, seed):
    keras.config.set_dtype_policy("float64")
    row = [
        layers.Dropout(0.5) if cls is layers.Dropout else cls(**doing_nothing(cls)[0])
        for cls in chosen
        if cls is layers.Dropout or cls.__name__.endswith("2D")
    ]
    model = model_of(*row, dtype="float64")
    if row:
        check_rewrites(model, RULES, times=len(row), tolerance=FLOAT64, seed=seed)


def test_declines_a_layer_that_is_called_as_in_training():
    # dropout that is meant to be random, at inference too
    x = keras.Input(IMAGE)
    model = keras.Model(x, layers.ReLU()(layers.Dropout(0.0)(x, training=True)))
    check_declines(model, RULES, reason="dropout is called with training=True")


@pytest.mark.parametrize("cls", [layers.Dropout, layers.Identity])
def test_declines_a_change_of_dtype(cls):
    model = model_of(cls(**OPTIONS[cls], dtype="float16"))
    check_declines(model, RULES, reason="float32 into (None, 6, 5, 3) float16")


def test_declines_integers_that_are_made_floats():
    x = keras.Input(IMAGE, dtype="int32")
    model = keras.Model(x, layers.ReLU()(layers.RandomContrast(0.5)(x, training=False)))
    check_declines(model, RULES, reason="int32 into (None, 6, 5, 3) float32")


def test_declines_the_name_of_an_output():
    x = keras.Input(IMAGE)
    model = keras.Model(x, layers.Dropout(0.5, name="out")(layers.ReLU()(x)))
    check_declines(model, RULES, reason="out gives an output its name")


def test_declines_what_tensorflow_would_fuse():
    x = keras.Input(IMAGE)
    y = layers.ZeroPadding2D(0)(layers.Conv2D(3, 3, padding="same")(x))
    model = keras.Model(x, layers.LeakyReLU(0.1)(layers.Add()([y, x])))
    check_declines(model, RULES, reason="TensorFlow would fuse these")


def test_leaves_functions_of_the_users_own():
    def linear(x):  # not that of Keras
        return x * x

    def squared(x):  # Keras could not load it
        return x * x

    for function in (linear, squared):
        assert not explain(model_of(layers.Activation(function)), RULES).applied


def test_leaves_a_subclass():
    class MonteCarloDropout(layers.Dropout):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    assert not explain(model_of(MonteCarloDropout(0.5)), RULES).applied


@pytest.mark.parametrize("make", [lambda: layers.Resizing(3, 3), lambda: layers.Rescaling(2.0)])
def test_leaves_preprocessing(make):
    assert not explain(model_of(make()), RULES).applied


def test_they_are_no_reason_to_open_a_layer():
    assert not identities.opens


SAME = [
    (layers.Reshape((4, 3)), (4, 3)),
    (layers.Reshape((-1, 3)), (4, 3)),
    (layers.Reshape((-1, 3)), (None, 3)),
    (layers.Flatten(), (4,)),
    (layers.Flatten(data_format="channels_first"), (None,)),
]


@pytest.mark.parametrize(("layer", "shape"), SAME)
def test_leaves_out_what_reshapes_to_the_same_shape(layer, shape):
    layer = type(layer).from_config(layer.get_config())
    fast = check_rewrites(model_of(layer, shape=shape), [same_shape], times=1)
    assert [layer.name for layer in fast.layers] == ["end"]


def test_leaves_out_an_operation_that_reshapes_to_the_same_shape():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.ReLU()(keras.ops.reshape(inputs, (-1, 4))))
    check_rewrites(model, [same_shape], times=1)


OTHER = [
    (layers.Reshape((6, 2)), (4, 3)),
    (layers.Reshape((3, 4)), (4, 3)),
    (layers.Flatten(), (4, 3)),
    (layers.Reshape((4,)), (4, 1)),
    (layers.Reshape((-1, 2)), (None, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), OTHER)
def test_keeps_what_reshapes_to_another_shape(layer, shape):
    layer = type(layer).from_config(layer.get_config())
    report = Report()
    model = model_of(layer, shape=shape)
    check_equivalent(model, optimize(model, [same_shape], report=report))
    assert not report.applied


def test_keeps_what_may_exchange_sizes_that_are_not_known():
    inputs = keras.Input((None, 3))
    turned = keras.ops.reshape(inputs, (*keras.ops.shape(inputs)[:1], -1, 3))
    batch = keras.Input(batch_shape=(None, None, 3))
    exchanged = keras.ops.reshape(batch, (-1, 2, 3))
    assert turned.shape == inputs.shape
    assert exchanged.shape != batch.shape
    assert not explain(keras.Model(batch, exchanged), [same_shape]).applied


def test_keeps_what_reshapes_in_another_dtype():
    model = model_of(layers.Reshape((4, 3), dtype="float16", name="reshape"), shape=(4, 3))
    check_declines(model, [same_shape], reason="reshape turns (None, 4, 3) float32 into")


@pytest.mark.filterwarnings("ignore:Layer 'reshape'")
def test_keeps_a_reshape_that_loses_a_mask():
    masking, reshape = layers.Masking(), layers.Reshape((4, 3), name="reshape")
    model = keras.Sequential(
        [keras.Input((4, 3)), masking, reshape, layers.GlobalAveragePooling1D()]
    )
    check_declines(model, [same_shape], reason="a mask runs through reshape")
