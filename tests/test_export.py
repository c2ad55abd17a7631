"""What is optimized for a runtime is exported to it and gives the same answers there."""

import runpy
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import kito
from kito.testing import randomize

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="LiteRT is exported from TensorFlow"
    ),
    pytest.mark.skipif(find_spec("tf2onnx") is None, reason="the group `export` is not installed"),
    # What the exporters do themselves.
    pytest.mark.filterwarnings("ignore:.*np.object:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RUNTIMES = runpy.run_path(str(BENCHMARKS / "runtimes.py"))["RUNTIMES"]
EXPORTS = ("onnx", "openvino", "litert")
SHAPE = (16, 16, 8)
BOUND = 1e-5  # of the largest output


def model_of(*parts):
    inputs = x = keras.Input(SHAPE)
    for part in parts:
        x = part(x)
    return randomize(keras.Model(inputs, x))


def block():
    """A block of each kind that is rewritten."""
    inputs = keras.Input(SHAPE)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(inputs)
    x = layers.DepthwiseConv2D(3, strides=2, use_bias=False)(x)
    x = layers.Activation("silu")(layers.BatchNormalization()(x))
    branches = [
        layers.BatchNormalization()(layers.Conv2D(8, window, padding="same")(x))
        for window in (3, 1)
    ]
    x = layers.ReLU()(layers.Add()([*branches, layers.BatchNormalization()(x)]))
    x = layers.ReLU()(layers.BatchNormalization()(layers.MaxPooling2D()(x)))
    x = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(inputs, layers.Conv2D(3, 1)(layers.Dropout(0.5)(x))))


def difference(model, fast, target):
    pictures = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype("float32")
    expected = np.asarray(model.predict_on_batch(pictures))
    answer = RUNTIMES[target](fast, 4)(pictures)
    return np.abs(answer - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("target", EXPORTS)
def test_a_result_is_exported(target):
    model = block()
    assert difference(model, kito.optimize(model, target=target), target) < BOUND


# What ONNX Runtime can't load of Keras' own export.
REFUSED = {
    "grouped": lambda: model_of(layers.Conv2D(8, 3, groups=2, name="grouped")),
    "depthwise": lambda: model_of(layers.Conv2D(8, 3, groups=8)),
    "gelu": lambda: model_of(layers.Dense(8), layers.Activation("gelu")),
    "gelu inside": lambda: model_of(layers.Dense(8, activation="gelu")),
    "normalization": lambda: model_of(layers.Normalization(), layers.Conv2D(4, 3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_runtime_refuses_is_rewritten(name):
    model = REFUSED[name]()
    with pytest.raises(Exception, match=r"INVALID_GRAPH|too many values"):
        difference(model, model, "onnx")
    assert difference(model, kito.optimize(model, target="onnx"), "onnx") < BOUND
