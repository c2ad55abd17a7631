"""A result of one backend of Keras loads on another one, and without kito."""

import os
import subprocess
import sys

import keras
import numpy as np
from keras import layers

import kito
from kito.testing import TOLERANCES, randomize

LOAD = """
import sys
sys.modules["kito"] = None  # an import of it would fail
import keras, numpy
model = keras.saving.load_model(sys.argv[1] + "/fast.keras")
answer = model.predict_on_batch(numpy.load(sys.argv[1] + "/inputs.npy"))
numpy.save(sys.argv[1] + "/answer.npy", answer)
"""


def test_a_result_loads_on_tensorflow_without_kito(tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2)(inputs))
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.ReLU()(x)))
    x = layers.BatchNormalization()(layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    model = randomize(keras.Model(inputs, x))
    kito.optimize(model).save(tmp_path / "fast.keras")
    data = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")
    np.save(tmp_path / "inputs.npy", data)
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], env=environment, check=True)
    expected = model.predict_on_batch(data)
    difference = np.abs(np.load(tmp_path / "answer.npy") - expected).max()
    assert difference <= TOLERANCES["float32"] * np.abs(expected).max()
