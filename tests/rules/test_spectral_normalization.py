"""SpectralNormalization(layer) -> the layer."""

import keras
import numpy as np
from keras.layers import BatchNormalization, Conv2D, Dense, EinsumDense, SpectralNormalization

import kito
from kito.rules.spectral_normalization import spectral_normalization
from kito.testing import check_declines, check_rewrites

RULES = [spectral_normalization]


def model_of(layer, shape=(6, 6, 3), **options):
    return keras.Sequential([keras.Input(shape), SpectralNormalization(layer, **options)])


def test_unwraps():
    fast = check_rewrites(model_of(Conv2D(4, 3, activation="relu"), name="sn"), RULES, times=1)
    assert type(fast.layers[0]) is Conv2D
    assert fast.layers[0].name == "sn"


def test_unwraps_what_training_normalized():
    model = model_of(Dense(4), (3,))
    model(np.ones((2, 3)), training=True)
    data = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    fast = kito.optimize(model, RULES)
    assert np.allclose(fast.predict_on_batch(data), model.predict_on_batch(data), atol=1e-6)


def test_opens_the_way_for_a_fold():
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), SpectralNormalization(Conv2D(4, 3)), BatchNormalization()]
    )
    assert [type(layer) for layer in check_rewrites(model, times=2).layers] == [Conv2D]


def test_declines_a_cast():
    layer = EinsumDense("ab,bc->ac", output_shape=4, dtype="float64")
    model = model_of(layer, (3,), dtype="float32")
    check_declines(model, RULES, reason="casts the float64")


def test_declines_layers_inside():
    @keras.saving.register_keras_serializable("test")
    class Two(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense = Dense(3)

        def build(self, shape):
            self.kernel = self.add_weight(shape=(3, 3), name="kernel")
            self.dense.build(shape)

        def call(self, x):
            return self.dense(x) @ self.kernel

        def compute_output_shape(self, shape):
            return shape

    check_declines(model_of(Two(), (3,)), RULES, reason="has layers inside")


def test_declines_sizes_that_are_not_known():
    # Keras infers (None, None, 4) through the wrapper and (None, None, 2, 4) without it.
    model = model_of(Conv2D(4, 3, padding="same"), (None, 2, 3))
    check_declines(model, RULES, reason="output are not known")
