"""Where TensorFlow computes wrongly, kito leaves the model as it is."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D, Conv3D, Dropout, LeakyReLU, SeparableConv2D

import kito
from kito import explain, optimize
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

IMAGE, VOLUME = (8, 8, 4), (6, 6, 6, 4)


def residual(conv, activation, shape=IMAGE, between=None, merge=None):
    inputs = keras.Input(shape)
    x = BatchNormalization()(conv(inputs))
    x = between(x) if between else x
    x = (merge or layers.Add())([x, inputs])
    return keras.Model(inputs, activation(x))


@pytest.mark.parametrize("activation", [LeakyReLU(0.1), layers.ReLU(negative_slope=0.3)])
@pytest.mark.parametrize(
    ("conv", "shape"), [(Conv2D, IMAGE), (Conv3D, VOLUME), (SeparableConv2D, IMAGE)]
)
def test_declines_a_bias_before_an_addition_and_a_leaky_relu(conv, shape, activation):
    model = residual(conv(4, 3, padding="same", use_bias=False), activation, shape)
    check_declines(model, FOLDS, reason="TensorFlow would fuse these")


def test_declines_it_behind_a_dropout():
    conv = Conv2D(4, 3, padding="same", use_bias=False)
    check_declines(
        residual(conv, LeakyReLU(0.1), between=Dropout(0.5)), FOLDS, reason="is a leaky ReLU"
    )


def test_declines_it_with_operations():
    inputs = keras.Input(IMAGE)
    x = BatchNormalization()(Conv2D(4, 1, use_bias=False)(inputs))
    model = keras.Model(inputs, ops.leaky_relu(x + inputs, 0.1))
    check_declines(model, FOLDS, reason="TensorFlow would fuse these")


def test_declines_it_across_the_border_of_a_submodel():
    inner_input = keras.Input(IMAGE)
    x = BatchNormalization()(Conv2D(4, 1, use_bias=False)(inner_input))
    inner = keras.Model(inner_input, x)
    inputs = keras.Input(IMAGE)
    model = keras.Model(inputs, LeakyReLU(0.1)(layers.Add()([inner(inputs), inputs])))
    check_declines(model, FOLDS, reason="TensorFlow would fuse these")


def test_declines_a_bias_before_an_addition_and_mish():
    conv = Conv2D(4, 3, padding="same", use_bias=False)
    check_declines(residual(conv, layers.Activation("mish")), FOLDS, reason="is mish")


NOTHING = [
    layers.ZeroPadding2D(0),
    layers.Cropping2D(0),
    layers.UpSampling2D(1),
    layers.MaxPooling2D(1),
    layers.Permute((1, 2, 3)),
    layers.Reshape(IMAGE),
]


def biased(before=None, behind=None, end=None):
    """A convolution with a bias and a leaky ReLU, with an addition and more in between."""
    inputs = keras.Input(IMAGE)
    x = Conv2D(4, 3, padding="same")(inputs)
    for layer in before or ():
        x = layer(x)
    x = layers.Add(name="add")([x, layers.Activation("sigmoid")(inputs)])
    for layer in behind or ():
        x = layer(x)
    x = LeakyReLU(0.05, name="leaky")(x)
    return keras.Model(inputs, end(x) if end else layers.Activation("tanh")(x))


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("nothing", NOTHING, ids=lambda layer: type(layer).__name__)
def test_declines_to_remove_what_keeps_an_addition_from_a_leaky_relu(nothing, dropout):
    rules = ["identities", "same_shape"]
    for place in ("before", "behind"):
        row = [type(nothing).from_config(nothing.get_config())]
        if dropout:
            row.insert(place == "behind", Dropout(0.5, name="dropout"))
        model = randomize(biased(**{place: row}))
        (declined,) = explain(model, rules).declined
        assert declined.reason.startswith("add would add to a convolution and feed leaky")
        check_equivalent(model, optimize(model, rules))


@pytest.mark.parametrize("nothing", [Dropout(0.5), layers.Activation("linear", name="linear")])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_removes_what_tensorflow_does_not_see(nothing, place):
    model = biased(**{place: [type(nothing).from_config(nothing.get_config())]})
    assert explain(model, ["identities"]).folded == {"identities": 1}


def test_declines_a_bias_behind_a_linear_activation():
    conv = Conv2D(4, 3, padding="same", use_bias=False)
    model = residual(conv, LeakyReLU(0.1), between=layers.Activation("linear"))
    check_declines(model, FOLDS, reason="is a leaky ReLU")


@pytest.mark.parametrize(
    "end", [Conv2D(3, 2, name="end"), layers.Dense(3)], ids=["Conv2D", "Dense"]
)
def test_declines_to_move_a_normalization_past_the_leaky_relu(end):
    model = randomize(biased(behind=[BatchNormalization(name="bn")], end=end))
    ones, zeros = np.linspace(0.5, 2.0, 4), np.zeros(4)
    model.get_layer("bn").set_weights([ones, zeros, zeros, ones])  # no shift, positive
    (declined,) = explain(model, ["affine_linear"]).declined
    assert "TensorFlow would fuse these" in declined.reason
    check_equivalent(model, optimize(model))


@pytest.mark.parametrize("activation", [LeakyReLU(0.2), layers.ReLU(), layers.ELU(0.3)])
def test_folds_before_other_activations(activation):
    check_rewrites(residual(Conv2D(4, 3, padding="same"), activation), FOLDS, times=1)


def test_folds_before_other_merges():
    conv = Conv2D(4, 3, padding="same", use_bias=False)
    check_rewrites(residual(conv, LeakyReLU(0.1), merge=layers.Multiply()), FOLDS, times=1)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a fault of TensorFlow")
def test_tensorflow_still_computes_wrongly():
    # When this fails, TensorFlow is mended and the guard can go.
    inputs = keras.Input(IMAGE)
    x = Conv2D(4, 3, padding="same", bias_initializer="ones")(inputs)
    model = keras.Model(inputs, LeakyReLU(0.01)(layers.Add()([x, inputs])))
    data = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype("float32")
    assert not np.allclose(model.predict_on_batch(data), model(data), atol=1e-3)


@pytest.mark.parametrize("activation", [LeakyReLU(0.1), layers.Activation("mish")])
def test_no_rule_leads_there(activation):
    for bias in (False, True):
        conv = Conv2D(4, 3, padding="same", use_bias=False)
        model = randomize(residual(conv, activation, between=layers.Rescaling(2.0, offset=bias)))
        check_equivalent(model, kito.optimize(model))


# OpenVINO forgets a padding


def padded(*row, shape=IMAGE):
    return keras.Sequential([keras.Input(shape), layers.ZeroPadding2D(1), *row])


SAME = [
    Conv2D(4, 3, padding="same", name="same"),
    layers.DepthwiseConv2D(3, padding="same", name="same"),
    SeparableConv2D(4, 3, padding="same", name="same"),
]


@pytest.mark.parametrize("between", [None, Dropout(0.5)])
@pytest.mark.parametrize("same", SAME, ids=lambda layer: type(layer).__name__)
def test_declines_to_put_a_layer_that_pads_behind_a_padding(same, between):
    same = type(same).from_config(same.get_config())
    row = [layers.Rescaling(0.5), same]
    if between:
        row.insert(0, Dropout(0.5, name="dropout"))
    check_declines(padded(*row), ["affine_linear"], reason="same pads, and would stand behind")


def test_declines_two_convolutions_as_one_behind_a_padding():
    row = [Conv2D(16, 1, use_bias=False), Conv2D(4, 3, padding="same", name="same")]
    check_declines(padded(*row), ["linear_linear"], reason="OpenVINO would forget")


def test_declines_to_take_one_of_two_paddings():
    model = padded(layers.ZeroPadding2D(1), Conv2D(4, 3, name="conv"))
    check_declines(model, ["padding_conv"], reason="conv pads, and would stand behind")


@pytest.mark.parametrize(
    "row",
    [
        [Conv2D(4, 3, padding="same"), BatchNormalization()],  # it stood there before
        [layers.Rescaling(0.5), Conv2D(4, 3)],  # does not pad
        [layers.Rescaling(0.5), Conv2D(4, 1, padding="same")],  # a window of 1 does not either
        [layers.ReLU(), layers.Rescaling(0.5), Conv2D(4, 3, padding="same")],
    ],
)
def test_rewrites_what_openvino_gets_right_or_wrong_as_before(row):
    row = [type(each).from_config(each.get_config()) for each in row]
    check_rewrites(padded(*row), ["affine_linear", "conv_batchnorm"], times=1)


def test_openvino_still_forgets_it(tmp_path):
    # When this fails, OpenVINO is mended and the guard can go.
    openvino = pytest.importorskip("openvino")
    model = randomize(padded(Conv2D(4, 3, padding="same")))
    data = np.ones((2, *IMAGE), "float32")
    expected = model.predict_on_batch(data)
    model.export(str(tmp_path / "model.xml"), format="openvino", verbose=False)
    run = openvino.compile_model(tmp_path / "model.xml", "CPU")
    assert run(data)[0].shape != expected.shape


def product(*, use_bias=False, dtype="float64"):
    with_dtype = {"dtype": dtype}
    dense = layers.Dense(2, use_bias=use_bias, **with_dtype)
    row = [keras.Input((3,), dtype=dtype), dense, BatchNormalization(center=False, **with_dtype)]
    model = keras.Sequential(row)
    [*_, mean, _] = model.weights
    randomize(model)
    mean.assign(np.zeros(2))  # so that the fold needs no bias
    return model


def check_kept(model, *, folded):
    report = kito.Report()
    fast = optimize(model, ["dense_batchnorm"], report=report)
    assert bool(report.folded) == folded
    assert all("would give float32" in each.reason for each in report.declined)
    assert len(fast.layers) == len(model.layers) - folded


def test_declines_to_leave_a_product_of_float64_alone_on_pytorch(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    check_kept(product(), folded=False)
    check_kept(product(use_bias=True), folded=True)
    check_kept(product(dtype="float32"), folded=True)
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    check_kept(product(), folded=True)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="a fault of Keras on PyTorch")
def test_keras_on_pytorch_still_gives_float32():
    model = product()
    assert model.predict_on_batch(np.ones((1, 3))).dtype == np.float64
    assert model.layers[0](np.ones((1, 3))).dtype == keras.ops.zeros((), "float32").dtype
