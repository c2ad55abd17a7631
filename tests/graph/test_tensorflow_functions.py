"""A `call` that uses functions of TensorFlow is looked into, where `keras.ops` has their like."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import BatchNormalization, Conv2D

import kito
from kito.graph.tensorflow_functions import tensorflow_as_keras
from kito.testing import check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="on that only")
SHAPE = (6, 8, 3)


class Using(layers.Layer):
    """A convolution with its normalization, and what a function makes of it."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function
        self.conv, self.bn = Conv2D(4, 3, padding="same"), BatchNormalization()

    def call(self, x):
        return self.function(self.bn(self.conv(x)))


def around(function):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, Using(function)(inputs))


FUNCTIONS = {
    "abs": tf.abs,
    "add": lambda x: tf.add(x, tf.constant(2.0)),
    "avg_pool2d": lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"),
    "cast": lambda x: tf.cast(x, tf.float16),
    "clip": lambda x: tf.clip_by_value(x, -0.5, 0.5),
    "concat": lambda x: tf.concat([x, x * 2.0], axis=-1),
    "cos": tf.cos,
    "divide": lambda x: tf.divide(x, 3.0),
    "elu": tf.nn.elu,
    "erf": tf.math.erf,
    "exp": tf.exp,
    "expand_dims": lambda x: tf.expand_dims(x, axis=2),
    "gelu": tf.nn.gelu,
    "gelu approximated": lambda x: tf.nn.gelu(x, approximate=True),
    "identity": lambda x: tf.identity(x, name="same") * 2.0,
    "leaky_relu": tf.nn.leaky_relu,
    "leaky_relu alpha": lambda x: tf.nn.leaky_relu(x, alpha=0.3),
    "log": lambda x: tf.math.log(tf.abs(x) + 1.0),
    "matmul": lambda x: tf.matmul(x, x[..., :4, :4]),
    "max_pool2d": lambda x: tf.nn.max_pool2d(x, ksize=3, strides=2, padding="SAME"),
    "maximum": lambda x: tf.maximum(0.1, x),
    "minimum": lambda x: tf.minimum(x, 0.1),
    "multiply": lambda x: tf.multiply(x, x),
    "negative": tf.negative,
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]]),
    "pad constant": lambda x: tf.pad(
        x, tf.constant([[0, 0], [1, 1], [1, 1], [0, 0]]), "CONSTANT", 2
    ),
    "pad reflected": lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="REFLECT"),
    "pow": lambda x: tf.pow(tf.abs(x), 1.5),
    "reduce_max": lambda x: tf.reduce_max(x, axis=-1),
    "reduce_mean": lambda x: tf.reduce_mean(x, axis=[1, 2], keepdims=True),
    "reduce_min": lambda x: tf.reduce_min(x, 1),
    "reduce_sum": lambda x: tf.reduce_sum(x, axis=tf.constant([1, 2])),
    "relu": lambda x: tf.nn.relu(features=x),
    "relu6": tf.nn.relu6,
    "reshape": lambda x: tf.reshape(x, [tf.shape(x)[0], -1]),
    "resize": lambda x: tf.image.resize(x, (12, 16)),
    "resize nearest": lambda x: tf.image.resize(x, [12, 16], method="nearest"),
    "rsqrt": lambda x: tf.math.rsqrt(tf.abs(x) + 0.1),
    "selu": tf.nn.selu,
    "sigmoid": tf.nn.sigmoid,
    "sin": tf.sin,
    "softmax": tf.nn.softmax,
    "softmax axis": lambda x: tf.nn.softmax(x, axis=1),
    "softplus": tf.math.softplus,
    "softsign": tf.nn.softsign,
    "split": lambda x: tf.split(x, 2, axis=-1),
    "split unequal": lambda x: tf.split(x, [1, 3], axis=-1),
    "sqrt": lambda x: tf.sqrt(tf.abs(x)),
    "square": tf.square,
    "squeeze": lambda x: tf.squeeze(x[:, :1], axis=[1]),
    "stack": lambda x: tf.stack([x, x + 1.0], axis=1),
    "subtract": lambda x: tf.subtract(1.0, x),
    "swish": tf.nn.swish,
    "tanh": tf.math.tanh,
    "tile": lambda x: tf.tile(x, [1, 2, 1, 1]),
    "transpose": lambda x: tf.transpose(x, perm=[0, 2, 1, 3]),
    "unstack": lambda x: tf.unstack(x, axis=-1)[1],
    "matmul transposed": lambda x: tf.matmul(x, x, transpose_b=True),
    "max_pool2d as of old": lambda x: tf.nn.max_pool2d(x, [1, 2, 2, 1], [1, 2, 2, 1], "VALID"),
    "depth_to_space": lambda x: tf.nn.depth_to_space(x, 2),
    "space_to_depth": lambda x: tf.nn.space_to_depth(x, block_size=2),
    "l2_normalize": lambda x: tf.math.l2_normalize(x, axis=-1),
    "log_softmax": tf.nn.log_softmax,
    "zeros_like": lambda x: x + tf.zeros_like(x),
    "ones_like": lambda x: x + tf.ones_like(x),
    "greater": lambda x: tf.cast(tf.greater(x, 0.0), "float32") * x,
    "logical_and": lambda x: tf.where(tf.logical_and(x > 0.0, tf.less(x, 1.0)), x, 0.0),
    "reduce_std": lambda x: tf.math.reduce_std(x, axis=[1, 2]),
    "reduce_variance": lambda x: tf.math.reduce_variance(x, -1),
    "reduce_prod": lambda x: tf.reduce_prod(x, axis=-1),
    "broadcast_to": lambda x: x * tf.broadcast_to(x[:1, :, :1], [1, 6, 8, 4]),
    "repeat": lambda x: tf.repeat(x, 2, axis=1),
    "reverse": lambda x: tf.reverse(x, axis=[1, 2]),
    "roll": lambda x: tf.roll(x, shift=(1, -2), axis=(1, 2)),
    "stop_gradient": lambda x: tf.stop_gradient(x) * 2.0,
    "floor, ceil, sign": lambda x: tf.floor(x) + tf.math.ceil(x * 2.0) + tf.sign(x),
    "log1p": lambda x: tf.math.log1p(tf.abs(x)),
    "size times two": lambda x: tf.image.resize(x, tf.shape(x)[1:3] * 2),
    "sizes in a list": lambda x: tf.reshape(x, [-1, tf.constant(48), np.int64(4)]),
    "as_list": lambda x: tf.reshape(x, [-1, *x.shape.as_list()[2:]]),
    "get_shape": lambda x: tf.reshape(x, [-1, x.get_shape()[1:].as_list()[0], 32]),
    "a number of numpy first": lambda x: np.sqrt(2.0 / np.pi) * x,
    "a number of numpy": lambda x: x / np.sqrt(2.0) - np.float64(1.0),
    "an array of numpy": lambda x: x * np.arange(4.0),
    "a compiled function": tf.function(lambda x: tf.nn.relu(x) + 1.0),
    "einsum": lambda x: tf.einsum("abcd,abed->abce", x, x),
    "gather": lambda x: tf.gather(x, [2, 0, 1], axis=-1),
    "hard_silu": keras.activations.hard_silu,
    "mish": keras.activations.mish,
    "sparsemax": keras.activations.sparsemax,
    "where": lambda x: tf.where(x > 0.0, x, x * 0.1),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_call_that_uses_it_is_looked_into(function):
    model = around(function)
    report = kito.Report()
    check_equivalent(randomize(model), kito.optimize(model, FOLDS, report=report))
    assert report.folded == {"conv_batchnorm": 1}
    assert not report.notes


@pytest.mark.parametrize(
    "function",
    [
        lambda x: keras.ops.image.resize(x, x.shape[1:3]),
        lambda x: keras.ops.image.resize(x, keras.ops.shape(x)[1:-1]),
    ],
)
def test_parts_of_a_shape_are_plain_sizes_to_keras(function, tmp_path):
    """It saves no others."""
    model = around(function)
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    fast.save(tmp_path / "fast.keras")
    check_equivalent(model, keras.saving.load_model(tmp_path / "fast.keras"))


def test_a_grouped_convolution_in_three_dimensions():
    """TensorFlow computes one only where it is compiled."""

    class Grouped(layers.Layer):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv3D(4, 3, padding="same", groups=4)
            self.bn = BatchNormalization()

        def call(self, x):
            return self.bn(self.conv(x))

    inputs = keras.Input((4, 6, 5, 4))
    check_rewrites(keras.Model(inputs, Grouped()(inputs)), FOLDS, times=1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.nn.silu(x, beta=2.0),
        lambda x: tf.transpose(x, conjugate=True),
        lambda x: tf.image.adjust_contrast(x, 2.0),
        lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0] * 2, -1])),
        lambda x: tf.split(x, [-1, 1], axis=-1)[0],
        lambda x: x + 1e-9 * x / tf.cast(tf.shape(x)[0], "float32"),
    ],
)
def test_what_keras_has_not_stays_whole(function):
    model = around(function)
    report = kito.Report()
    check_equivalent(randomize(model), kito.optimize(model, FOLDS, report=report))
    assert not report.applied
    assert "is kept whole" in report.notes[0]


def test_a_subclassed_model():
    class Residual(keras.Model):
        def __init__(self):
            super().__init__()
            self.stem, self.main = Using(tf.nn.relu), Using(tf.nn.tanh)

        def call(self, x, training=False):
            x = self.stem(x)
            return tf.reduce_mean(tf.nn.relu(self.main(x) + x), axis=[1, 2])

    model = Residual()
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    model(data)
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 2}
    np.testing.assert_allclose(fast(data), model(data), rtol=0, atol=1e-5)


def test_elsewhere_keras_refuses_as_it_did():
    check_rewrites(around(tf.nn.relu), FOLDS, times=1)
    with pytest.raises(ValueError, match="KerasTensor cannot be used as input"):
        tf.nn.relu(keras.Input(SHAPE))


def test_tensors_of_tensorflow_are_its_own(monkeypatch):
    """It asks others too where these do not fit."""
    asked = []
    monkeypatch.setattr(keras.ops, "concatenate", lambda *args: asked.append(args))

    @tf.function
    def joined():
        return tf.concat([tf.zeros((2, 3)), tf.zeros((3, 4, 5))], 0)

    with tensorflow_as_keras(), pytest.raises(ValueError, match=r"(?i)dimension|rank"):
        joined.get_concrete_function()
    assert not asked
