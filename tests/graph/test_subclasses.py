"""Subclasses of Keras' layers that compute what these do are rewritten, others stay."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D

import kito
from kito.graph.layer import to_numpy
from kito.testing import check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

SHAPES = [(8, 8, 3), (None, None, 3)]


def model_of(*row, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *row])


class Started(Conv2D):
    """It only sets an argument."""

    def __init__(self, filters, size=3, note="", **options):
        super().__init__(filters, size, kernel_initializer="he_normal", **options)
        self.note = note

    def get_config(self):
        return {**super().get_config(), "note": self.note}


class Frozen(BatchNormalization):
    """Does not train where it is not trainable, as those of many detectors."""

    def call(self, x, training=False):
        return super().call(x, training=bool(training) and self.trainable)


class Handing(BatchNormalization):
    def call(self, inputs, training=None):
        return super().call(inputs, training=training)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cls", [Frozen, Handing])
def test_what_computes_the_same_folds(cls, shape):
    model = model_of(Started(4, note="first"), cls(epsilon=0.1), shape=shape)
    fast = check_rewrites(model, FOLDS, times=1)
    assert [type(layer) for layer in fast.layers] == [Conv2D]


def test_in_a_composite():
    class Block(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.conv, self.bn = Started(4), Frozen()

        def call(self, x):
            return ops.relu(self.bn(self.conv(x)))

    check_rewrites(model_of(Block()), FOLDS, times=1)


def test_what_nothing_is_folded_into_keeps_its_class():
    model = model_of(Started(4), layers.ReLU(), Frozen())
    fast = kito.optimize(randomize(model), FOLDS)
    assert [type(layer) for layer in fast.layers] == [Started, layers.ReLU, Frozen]
    check_equivalent(model, fast)


def test_a_rule_for_a_subclass_matches_that():
    @kito.rule(kito.chain(conv=Conv2D, norm=Frozen))
    def frozen(conv, norm):
        raise kito.Decline(f"{norm.name} is a {type(norm.layer.source).__name__}")

    model = randomize(model_of(Conv2D(4, 3), Frozen(name="norm")))
    [declined] = kito.explain(model, [*FOLDS, frozen]).declined
    assert declined.reason == "norm is a Frozen"
    assert kito.explain(model, FOLDS).applied


class Doubled(BatchNormalization):
    def call(self, x, training=False):
        return super().call(x, training=training) * 2.0


class OtherEpsilon(BatchNormalization):
    def call(self, x, training=False):
        self.epsilon, before = 0.5, self.epsilon
        y = super().call(x, training=training)
        self.epsilon = before
        return y


class Always(BatchNormalization):
    def call(self, x, training=False):
        return super().call(x, training=True)


class Sized(BatchNormalization):
    def call(self, x, training=False):
        y = super().call(x, training=training)
        return y * 2.0 if x.shape[1] == 13 else y


class WithData(BatchNormalization):
    def call(self, x, training=False):
        y = super().call(x, training=training)
        return y if isinstance(x, keras.KerasTensor) else y * 2.0


class Counting(BatchNormalization):
    """Does something else in its third call."""

    calls = 0

    def call(self, x, training=False):
        self.calls += 1
        return super().call(x, training=training)


class Masking(BatchNormalization):
    def compute_mask(self, inputs, mask=None):
        return None


class Renamed(BatchNormalization):
    @property
    def trainable(self):
        return False


class MoreWeights(BatchNormalization):
    def __init__(self, **options):
        super().__init__(**options)
        self.extra = self.add_weight(shape=(), name="extra")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "cls", [Doubled, OtherEpsilon, Always, Sized, WithData, Counting, Masking, Renamed, MoreWeights]
)
def test_what_may_compute_something_else_stays(cls, shape):
    model = model_of(Conv2D(4, 3), cls(name="norm"), shape=shape)
    data = np.random.default_rng(0).normal(size=(2, 15, 15, 3)).astype("float32")
    data = data if None in shape else data[:, :8, :8]
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert not report.applied
    assert type(fast.layers[-1]) is cls
    assert "may compute something else" in report.unmatched[0].reason
    np.testing.assert_array_equal(to_numpy(fast(data)), to_numpy(model(data)))


def test_a_convolution_with_another_kernel_stays():
    class Standardized(Conv2D):
        """Its kernel is another one than its weight."""

        @property
        def kernel(self):
            return super().kernel / 2

    class Masked(Conv2D):
        def convolution_op(self, inputs, kernel):
            return super().convolution_op(inputs, kernel * 0.5)

    for cls in (Standardized, Masked):
        model = randomize(model_of(cls(4, 3), BatchNormalization()))
        report = kito.Report()
        check_equivalent(model, kito.optimize(model, FOLDS, report=report))
        assert not report.applied


class Masked(BatchNormalization):
    """Sets to zero what a mask hides."""

    def call(self, x, training=None, mask=None):
        y = super().call(x, training=training)
        return y if mask is None else y * ops.cast(ops.expand_dims(mask, -1), y.dtype)


class HandingMask(BatchNormalization):
    def call(self, x, training=None, mask=None):
        return super().call(x, training=training, mask=mask)


@pytest.mark.parametrize(("cls", "times"), [(Masked, 0), (HandingMask, 1)])
def test_what_does_otherwise_with_a_mask_stays(cls, times):
    words = keras.Input((6,), dtype="int32")
    x = layers.Dense(4)(layers.Embedding(5, 4, mask_zero=True)(words))
    model = randomize(keras.Model(words, cls()(x)))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert sum(report.folded.values()) == times
    check_equivalent(model, fast)


class ByDtype(layers.Dense):
    """Doubles integers."""

    def call(self, x):
        return super().call(x * 2 if x.dtype == "int32" else x)


@pytest.mark.parametrize("order", [("float32", "int32"), ("int32", "float32")])
def test_what_does_otherwise_in_another_call_stays(order):
    dense = ByDtype(4)
    inputs = [keras.Input((6,), dtype=dtype) for dtype in order]
    model = keras.Model(inputs, [BatchNormalization()(dense(x)) for x in inputs])
    fast = kito.optimize(randomize(model), FOLDS)
    check_equivalent(model, fast)
    assert any(isinstance(layer, ByDtype) for layer in fast.layers)


class WithFlag(Conv2D):
    def call(self, x, flag=None):
        return super().call(-x if flag else x)


def test_what_is_called_with_an_argument_of_its_own_stays():
    inputs = keras.Input((8, 8, 3))
    x = BatchNormalization()(WithFlag(4, 3)(inputs, flag=False))
    fast = kito.optimize(randomize(keras.Model(inputs, x)), FOLDS, strict=True)
    assert any(isinstance(layer, WithFlag) for layer in fast.layers)


class Added(layers.Add):
    def call(self, inputs):
        return super().call(inputs)


def test_what_merges_folds():
    inputs = keras.Input((8, 8, 3))
    convs = [Conv2D(4, 3)(inputs), Conv2D(4, (2, 3))(layers.Cropping2D(((1, 0), (0, 0)))(inputs))]
    model = keras.Model(inputs, BatchNormalization()(Added()(convs)))
    check_rewrites(model, ["add_batchnorm"], times=1)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has no sparse tensors there")
def test_what_reads_a_sparse_tensor_stays():
    inputs = keras.Input((6,), sparse=True)
    model = keras.Model(inputs, BatchNormalization()(ByDtype(4)(inputs)))
    assert not kito.explain(model, FOLDS).applied


class DropPath(layers.Layer):
    """Leaves out a branch of some samples, in training."""

    def __init__(self, rate=0.1, **options):
        super().__init__(**options)
        self.rate, self.seed = rate, keras.random.SeedGenerator(0)

    def call(self, x, training=None):
        if not training:
            return x
        kept = keras.random.uniform((ops.shape(x)[0], 1, 1, 1), seed=self.seed) > self.rate
        return x * ops.cast(kept, x.dtype) / (1 - self.rate)

    def compute_output_shape(self, shape):
        return shape


def beside(dropping, shape=(8, 8, 3)):
    inputs = keras.Input(shape)
    branch = dropping(BatchNormalization()(Conv2D(3, 1)(inputs)))
    return keras.Model(inputs, layers.ReLU()(layers.Add()([inputs, branch])))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_acts_in_training_only_is_left_out(shape):
    fast = check_rewrites(beside(DropPath(), shape), ["conv_batchnorm", "identities"], times=2)
    assert not any(isinstance(layer, DropPath) for layer in fast.layers)


@keras.saving.register_keras_serializable("test_subclasses")
class Residual(layers.Layer):
    """It can be loaded, though what it drops paths with is not registered."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.bn, self.drop = Conv2D(3, 1), BatchNormalization(), DropPath()

    def build(self, shape):
        self.conv.build(shape)
        self.bn.build(shape)

    def call(self, x, training=None):
        branch = self.bn(self.conv(x), training=training)
        return x + self.drop(branch, training=training)


def test_a_block_that_drops_paths_is_taken_apart(tmp_path):
    model = model_of(Residual(), layers.ReLU())
    fast = check_rewrites(model, [*FOLDS, "identities"], times=2)
    fast.save(tmp_path / "fast.keras")
    check_equivalent(model, keras.models.load_model(tmp_path / "fast.keras"))


class DropAlways(DropPath):
    def call(self, x, training=True):
        return super().call(x, training)


class DropSmall(DropPath):
    def call(self, x, training=None):
        return x * 2 if ops.shape(x)[1] < 16 else super().call(x, training)


class Masks(DropPath):
    def compute_mask(self, x, mask=None):
        return ops.any(x > 0, axis=-1)


class Counts(DropPath):
    def call(self, x, training=None):
        self.count = getattr(self, "count", 0) + 1
        return super().call(x, training)


class Penalizes(DropPath):
    def call(self, x, training=None):
        self.add_loss(ops.mean(x))
        return super().call(x, training)


class Scales(DropPath):
    def __init__(self, **options):
        super().__init__(**options)
        self.scale = self.add_weight(shape=(1,))

    def call(self, x, training=None):
        return x * self.scale


class Learns(Scales):
    """Has a weight that it needs in training only."""

    def call(self, x, training=None):
        return x * self.scale if training else x


class Returns(DropPath):
    """Says nothing of training."""

    def call(self, x):
        return x


@pytest.mark.parametrize(
    "cls", [DropAlways, DropSmall, Masks, Counts, Penalizes, Scales, Learns, Returns]
)
def test_what_may_act_at_inference_stays(cls):
    model = randomize(beside(cls(), (None, None, 3)))
    fast = kito.optimize(model, ["conv_batchnorm", "identities"])
    assert any(isinstance(layer, cls) for layer in fast.layers)
    data = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype("float32")
    answers = [to_numpy(each(data, training=False)) for each in (model, fast)]
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
def test_what_casts_stays(dtype):
    model = randomize(beside(DropPath(dtype=dtype)))
    fast = kito.optimize(model, ["identities"])
    assert any(isinstance(layer, DropPath) for layer in fast.layers)
    assert fast.output.dtype == model.output.dtype
