"""Composite layers and subclassed models: optimized inside where the trace is faithful."""

from collections import deque
from functools import partial
from unittest.mock import patch

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D, Dense

import kito
from kito import api
from kito.errors import first_line
from kito.graph.ir import Tensor
from kito.graph.keras_internals import sublayers
from kito.graph.layer import to_numpy
from kito.graph.trace import trace
from kito.testing import check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

BACKEND = keras.backend.backend()

SHAPE = (8, 8, 3)


@keras.saving.register_keras_serializable("test_trace")
class Block(layers.Layer):
    """A convolution with its normalization and activation, as most of the composites are."""

    def __init__(self, filters=4, **options):
        super().__init__(**options)
        self.filters = filters
        self.conv = Conv2D(filters, 3, padding="same", use_bias=False, name="conv")
        self.bn = BatchNormalization(name="bn")
        self.dropout = layers.Dropout(0.5)

    def build(self, shape):
        self.conv.build(shape)
        self.bn.build((*shape[:-1], self.filters))

    def call(self, x, training=None):
        x = self.bn(self.conv(x), training=training)
        return self.dropout(ops.relu(x), training=training) + 0.5

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def around(*composites, shape=SHAPE):
    inputs = keras.Input(shape)
    x = inputs
    for composite in composites:
        x = composite(x)
    return keras.Model(inputs, x)


def kept_whole(model, reason):
    """Assert that nothing is rewritten, that the report has the reason, and give the result."""
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert any(reason in note for note in report.notes), report.notes
    return fast


def count(model, cls):
    """How many layers of a class a model holds, however deep."""
    return sum(type(layer) is cls for layer in sublayers(model))


@pytest.mark.parametrize("shape", [SHAPE, (None, None, 3)])
def test_a_block_is_optimized_inside(shape):
    model = around(Block(name="block"), shape=shape)
    fast = check_rewrites(model, FOLDS, times=1)
    assert fast.output_shape == model.output_shape
    assert not any(isinstance(layer, BatchNormalization) for layer in fast._flatten_layers())
    assert isinstance(fast.get_layer("block"), keras.Model)


def test_the_block_itself_is_not_touched():
    block = Block()
    model = around(block)
    calls = [len(part._inbound_nodes) for part in block._flatten_layers()]
    check_rewrites(model, FOLDS, times=1)
    assert calls == [len(part._inbound_nodes) for part in block._flatten_layers()]


class SayingBlock(Block):
    """It says what it returns, and does not take `training` for that, as Keras' own layers do."""

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.filters), x.dtype)


class AroundSaying(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.block, self.bn = SayingBlock(), BatchNormalization()

    def build(self, shape):
        self.block.build(shape)
        self.bn.build((*shape[:-1], 4))

    def call(self, x, training=None):
        return self.bn(self.block(x, training=training), training=training)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


def test_a_block_in_a_block_that_says_what_it_returns():
    model = around(AroundSaying(name="block"))
    fast = check_rewrites(model, FOLDS, times=1)
    assert "compute_output_spec" not in vars(model.get_layer("block").block)
    assert count(fast, BatchNormalization) == 1  # behind the sum


def test_blocks_in_blocks():
    @keras.saving.register_keras_serializable("test_trace")
    class Stage(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.blocks = [Block(4, name="one"), Block(4, name="two")]

        def build(self, shape):
            self.blocks[0].build(shape)
            self.blocks[1].build((*shape[:-1], 4))

        def call(self, x):
            y = self.blocks[0](x)
            return {"sum": y + self.blocks[1](y), "first": y}

    check_rewrites(around(Stage()), FOLDS, times=2)


@keras.saving.register_keras_serializable("test_trace")
class ResidualBlock(Block):
    """Keras infers its shape without running it, so nothing has built its `Add`."""

    def __init__(self, filters=3, **options):
        super().__init__(filters, **options)
        self.add = layers.Add()

    def call(self, x, training=None):
        return self.add([x, super().call(x, training=training)])


def test_a_block_holds_a_layer_that_is_not_built_yet():
    block = ResidualBlock()
    model = around(block, block)
    kito.explain(model, FOLDS)
    assert not block.add.built
    check_rewrites(model, FOLDS, times=1)


def test_a_block_that_is_called_twice_is_one_model():
    block = Block(3)
    model = around(block, block)
    fast = check_rewrites(model, FOLDS, times=1)
    assert fast.count_params() == model.count_params() - 9


class ScaledBlock(Block):
    def call(self, x, times=1):
        return super().call(x) * times


@pytest.mark.parametrize(("size", "times"), [(8, 1), (4, 1), (8, 2)])
def test_a_block_that_another_block_calls_too(size, times):
    """It is rewritten for both, or, where they differ in more than sizes, for none."""

    class Outer(layers.Layer):
        def __init__(self, block):
            super().__init__()
            self.block, self.dense = block, Dense(4)

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return self.dense(self.block(x[:, :size], times=times))

    block = ScaledBlock(3, name="block")
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, [block(inputs, times=1), Outer(block)(inputs)])
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    check_equivalent(model, fast)
    assert len(report.applied) == (times == 1)
    assert fast.count_params() == model.count_params() - 9 * (times == 1)


def test_a_block_without_anything_to_rewrite_is_kept_as_it_is():
    @keras.saving.register_keras_serializable("test_trace")
    class Pre(Block):
        def build(self, shape):
            self.bn.build(shape)
            self.conv.build(shape)

        def call(self, x):
            return self.conv(self.bn(x))

    fast = kito.optimize(randomize(around(Pre(name="pre"))), FOLDS)
    assert type(fast.get_layer("pre")) is Pre


def test_a_block_inside_a_sequential():
    model = keras.Sequential([keras.Input(SHAPE), Block(), layers.ReLU()])
    assert type(check_rewrites(model, FOLDS, times=1)) is keras.Sequential


def test_a_block_of_several_inputs():
    @keras.saving.register_keras_serializable("test_trace")
    class Merge(Block):
        def build(self, x_shape, skip_shape=None):
            super().build(x_shape)

        def call(self, x, skip=None):
            return super().call(x) + skip

        def compute_output_shape(self, x_shape, skip_shape=None):
            return super().compute_output_shape(x_shape)

    inputs, skip = keras.Input(SHAPE), keras.Input((8, 8, 4))
    check_rewrites(keras.Model([inputs, skip], Merge()(inputs, skip=skip)), FOLDS, times=1)


def test_a_block_with_constants():
    check_rewrites(around(ConstantBlock()), FOLDS, times=1)


def test_a_block_with_large_constants():
    with patch("kito.graph.trace.LARGEST_CONSTANT", 3):
        kept_whole(around(ConstantBlock()), "hands a constant of 4 numbers to add")


class Up(Block):
    """Enlarges what it is given first."""

    def __init__(self, times=2, **options):
        super().__init__(**options)
        self.times, self.up = times, layers.UpSampling2D(times)

    def build(self, x_shape, skip_shape):
        super().build((*skip_shape[:-1], x_shape[-1] + skip_shape[-1]))

    def call(self, x, skip):
        return super().call(ops.concatenate([self.up(x), skip], -1))

    def compute_output_shape(self, x_shape, skip_shape):
        return super().compute_output_shape(skip_shape)

    def get_config(self):
        return super().get_config() | {"times": self.times}


@pytest.mark.parametrize("times", [1, 2, 4])
def test_a_block_that_brings_two_sizes_together(times):
    inputs = keras.Input((None, None, 3))
    x = Conv2D(4, 3, padding="same")(layers.AveragePooling2D(times)(inputs))
    model = keras.Model(inputs, Up(times)(x, inputs))
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    assert not report.notes
    check_equivalent(model, fast)


def test_a_block_that_takes_no_sizes_that_are_tried():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, Up(32)(layers.AveragePooling2D(32)(inputs), inputs))
    kept_whole(model, "its call fails on random data")


def test_a_block_that_compares_the_sizes_of_its_inputs():
    class Skip(Up):
        def call(self, x, skip):
            if x.shape[1:3] != skip.shape[1:3]:
                x = self.up(x)
            return Block.call(self, ops.concatenate([x, skip], -1))

    one, other = keras.Input((None, None, 4)), keras.Input((None, None, 3))
    model = keras.Model([one, other], Skip()(one, other))
    kept_whole(model, "does otherwise where sizes are not equal")


def test_a_block_that_is_called_with_other_arrays():
    class Table(Block):
        def call(self, x, table):
            return super().call(x) * table

    inputs, block = keras.Input((32, 32, 3)), Table()
    table = np.ones((1, 32, 32, 4), "float32")
    other = table.copy()
    other[0, 16] = 5  # which numpy does not print
    model = keras.Model(inputs, [block(inputs, table), block(inputs, other)])
    kept_whole(model, "it is called in 2 different ways")


def test_a_block_of_an_optional_input():
    class Optional(Block):
        def call(self, x, more=None):
            return super().call(x) if more is None else super().call(x) + more

    inputs, more = keras.Input(SHAPE), keras.Input((8, 8, 4), optional=True)
    model = keras.Model([inputs, more], Optional()(inputs, more))
    fast = kept_whole(model, "it gets an optional input, which may be None")
    data = np.ones((2, *SHAPE), "float32")
    assert np.allclose(to_numpy(fast([data, None])), to_numpy(model([data, None])))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no sparse tensors there")
def test_a_block_of_a_sparse_tensor():
    class BySparseness(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense, self.bn = layers.Dense(4), BatchNormalization()

        def call(self, x):
            y = self.bn(self.dense(x))
            return y if isinstance(x, keras.KerasTensor) or keras.ops.is_tensor(x) else y * 2

        def compute_output_shape(self, shape):
            return (shape[0], 4)

    inputs = keras.Input((6,), sparse=True)
    kept_whole(keras.Model(inputs, BySparseness()(inputs)), "it gets a sparse tensor")


def test_a_block_of_whose_calls_keras_infers_less():
    class Open(Block):
        def __init__(self, **options):
            super().__init__(**options)
            self.last = layers.EinsumDense("bhwc,cd->bhwd", (None, None, 4))

        def build(self, shape):
            super().build(shape)
            self.last.build((*shape[:-1], 4))

        def call(self, x):
            return self.last(super().call(x))

    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(Open()(inputs))))
    kept_whole(model, "of its calls Keras infers (None, None, None, 4), of itself (None, 8, 8, 4)")


def test_a_block_that_computes_an_output_twice():
    class Twice(Block):
        def call(self, x):
            y = super().call(x)
            return ops.relu(y), ops.relu(y)

        def compute_output_shape(self, shape):
            return (super().compute_output_shape(shape),) * 2

    inputs = keras.Input(SHAPE)
    first, second = Twice()(inputs)
    model = keras.Model(inputs, [ops.tanh(first), ops.tanh(second)])
    check_rewrites(model, [*FOLDS, "duplicates"])


class Passing(layers.Layer):
    """At inference it returns the very tensor that it gets, and so the mask that hangs on it."""

    def call(self, x, training=None):
        return x * 2 if training else x


class MaskedBlock(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.bn = Dense(4), BatchNormalization()
        self.supports_masking = True

    def build(self, shape):
        self.dense.build(shape)
        self.bn.build((*shape[:-1], 4))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)

    def call(self, x, mask=None):
        x = self.bn(self.dense(x))
        return x if mask is None else x * ops.cast(mask[..., None], x.dtype)


@pytest.mark.filterwarnings("ignore:Layer 'passing'")
def test_a_mask_that_keras_does_not_show():
    inputs = keras.Input((6,), dtype="int32")
    x = Passing()(layers.Embedding(9, 4, mask_zero=True)(inputs))
    model = keras.Model(inputs, MaskedBlock()(x))
    fast = kept_whole(model, "a mask runs through it")
    data = np.array([[1, 2, 0, 0, 3, 0]])
    assert np.allclose(to_numpy(fast(data)), to_numpy(model(data)), atol=1e-6)


def test_half_precision_casts_at_the_border():
    keras.config.set_dtype_policy("mixed_bfloat16")
    check_rewrites(around(Block()), FOLDS, times=1)


# What a trace does not show, the check on data must find.


class RandomBlock(Block):
    def call(self, x):
        return super().call(x) + keras.random.normal((8, 8, 4))


class WeightBlock(Block):
    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(self.filters,), name="scale")

    def call(self, x):
        return super().call(x) * self.scale


class MadeOfWeightBlock(WeightBlock):
    def call(self, x):
        return Block.call(self, x) * ops.exp(self.scale)


class ConstantBlock(Block):
    def call(self, x):
        return super().call(x) * ops.cast(0.5, x.dtype) + ops.arange(4, dtype=x.dtype)


class UncertainBlock(Block):
    """Statistics of the batch, as dropout that is always on has them too."""

    def call(self, x):
        return self.bn(self.conv(x), training=True)


class CountingBlock(Block):
    count = 0

    def call(self, x):
        self.count = self.count + 1
        return super().call(x)


class EagerBlock(Block):
    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            return super().call(x)
        return super().call(x) * 1.5


class SizeBlock(Block):
    def call(self, x):
        x = super().call(x)
        return x * 2 if (x.shape[1] or 0) > 32 else x


class LargeBlock(Block):
    def call(self, x):
        x = super().call(x)
        return x * 2 if (x.shape[1] or 0) > 500 else x


class SmallBlock(Block):
    def call(self, x):
        x = super().call(x)
        return ops.relu(x) if x.shape[1] == 1 else ops.relu6(x)


class WindowBlock(Block):
    """Nobody would try its size by chance."""

    def __init__(self, **options):
        super().__init__(**options)
        self.windows = [7, 14]

    def call(self, x):
        return self.doubled(super().call(x))

    def doubled(self, x):
        return x * 2 if x.shape[1] in self.windows or x.shape[2] == 77 else x


class SingleBlock(Block):
    def call(self, x):
        x = super().call(x)
        return x * 2 if x.shape[0] == 1 else x


class FewBlock(Block):
    """Branches on a batch size that nobody would try by chance."""

    def call(self, x):
        x = super().call(x)
        return x * 3 if x.shape[0] == 5 else x * 2


class AssigningBlock(Block):
    """Counts its calls where they are saved, and would make the next answer another."""

    def __init__(self, **options):
        super().__init__(**options)
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return super().call(x)


class SquareBlock(Block):
    def call(self, x):
        x = super().call(x)
        return x if x.shape[1] == x.shape[2] else x * 2


WINDOW = 7


def halved_in_a_window(x):
    return x * 0.5 if x.shape[1] == WINDOW else x


class HelperBlock(Block):
    """Compares in a function, with a number of the module."""

    def call(self, x):
        return halved_in_a_window(super().call(x))


class OptionsBlock(Block):
    def __init__(self, **options):
        super().__init__(**options)
        self.options = {"window": 7}

    def call(self, x):
        x = super().call(x)
        return x * 0.5 if x.shape[1] == self.options["window"] else x


class Counter:
    calls = 0


class HoldingBlock(Block):
    """Counts in an object, and keeps what it made in a list."""

    def __init__(self, **options):
        super().__init__(**options)
        self.counter, self.made = Counter(), []

    def call(self, x):
        self.counter.calls += 1
        self.made.append(super().call(x))
        return self.made[-1]


class Slotted:
    __slots__ = ("__weakref__", "calls")

    def __init__(self):
        self.calls = []


class PrivatelySlotted:
    __slots__ = ("__calls",)

    def __init__(self):
        self.__calls = []

    def add(self):
        self.__calls = [*self.__calls, 1]

    def __iter__(self):
        return iter(self.__calls)


class StateBlock(Block):
    """Keeps a state where few look for one."""

    def __init__(self, kind="slots", **options):
        super().__init__(**options)
        self.kind, self.slots, self.recent = kind, Slotted(), deque(maxlen=2)
        self.array, self.inside, self.private = np.zeros(2), ([],), PrivatelySlotted()

    def call(self, x):
        match self.kind:
            case "slots":
                self.slots.calls = [*self.slots.calls, 1]
            case "private slots":
                self.private.add()
            case "deque":
                self.recent.append(x)
            case "array":
                self.array[1] += 1
            case "tuple":
                self.inside[0].append(1)
            case "size":
                self.array.resize(len(self.array) + 1, refcheck=False)
        return super().call(x)

    def state(self):
        held = self.slots.calls, self.recent, self.array, self.inside, self.private
        return [list(each) for each in held]


@pytest.mark.parametrize("kind", ["slots", "private slots", "deque", "array", "size", "tuple"])
def test_declines_a_state_and_leaves_it_as_it_is(kind):
    block = StateBlock(kind, name="block")
    model = around(block)
    before = block.state()
    report = kito.explain(model, FOLDS)
    assert "its call changes block." in report.notes[0]
    assert not report.applied
    assert [*map(len, block.state())] == [*map(len, before)]
    assert block.array[1] == before[2][1]


class EqualBlock(Block):
    """Each call leaves what the last one left."""

    def __init__(self, **options):
        super().__init__(**options)
        self.held = {}

    def call(self, x):
        self.held["last"] = (*x.shape[1:], 0.5)
        return super().call(x)


def test_a_state_that_is_always_equal_is_none():
    model = around(EqualBlock(name="block"))
    model(np.zeros((1, *SHAPE), "float32"))
    check_rewrites(model, FOLDS, times=1)


class LoopBlock(Block):
    """A function is lost where the loop is saved, and with it what the function reads."""

    def call(self, x):
        return ops.fori_loop(0, 3, lambda _, value: value * 0.5, super().call(x))


class BoundBlock(WeightBlock):
    """A weight becomes a setting of an operation."""

    def call(self, x):
        return ops.clip(Block.call(self, x), 0.0, self.scale)


class NumpyBlock(Block):
    def call(self, x):
        return super().call(x) * float(np.asarray(ops.convert_to_numpy(x)).sum() > 0)


@pytest.mark.parametrize(
    ("block", "shape", "reason"),
    [
        (RandomBlock, SHAPE, "drawn at random"),
        (WeightBlock, SHAPE, "its call hands a weight to multiply"),
        (BoundBlock, SHAPE, "its call hands a weight to clip"),
        (
            MadeOfWeightBlock,
            SHAPE,
            "hands a tensor made of weights, or drawn at random, to multiply",
        ),
        (UncertainBlock, SHAPE, "calls bn with training=True"),
        (CountingBlock, SHAPE, "whole: its call changes count.count: the next need not be"),
        (AssigningBlock, SHAPE, "the call of count assigns to count/count: the next"),
        (EagerBlock, SHAPE, "differ by"),
        (SizeBlock, (None, None, 3), "does otherwise where a size is 1023"),
        (LargeBlock, (None, None, 3), "does otherwise where a size is 1023"),
        (SmallBlock, (None, None, 3), "does otherwise where a size is 1"),
        (WindowBlock, (None, None, 3), "does otherwise where a size is 7"),
        (SingleBlock, SHAPE, "does otherwise with a batch of 1"),
        (FewBlock, SHAPE, "does otherwise with a batch of 5"),
        (LoopBlock, SHAPE, "its call hands a function to fori_loop"),
        (SquareBlock, (None, None, 3), "does otherwise where sizes are not equal"),
        (HelperBlock, (None, None, 3), "does otherwise where a size is 7"),
        (OptionsBlock, (None, None, 3), "does otherwise where a size is 7"),
        (HoldingBlock, SHAPE, "its call changes count.counter and 1 more"),
    ],
)
def test_declines_what_a_trace_does_not_show(block, shape, reason):
    composite = block(name="count")
    model = around(composite, shape=shape)
    before = dict(vars(composite))
    fast = kept_whole(model, reason)
    assert {**vars(composite), "_called": True} == {**before, "_called": True}
    if block is HoldingBlock:
        assert not composite.made
        assert not composite.counter.calls
    # JAX clips with a weight in a compiled call only.
    if block is not RandomBlock and (block is not BoundBlock or BACKEND != "jax"):
        check_equivalent(model, fast)


@pytest.mark.parametrize("size", [8, None])
def test_a_layer_inside_runs_once_on_the_same_data(size):
    """Convolutions are most of what checking a trace costs."""
    ran = []

    @keras.saving.register_keras_serializable("test_trace")
    class Watched(Conv2D):
        def call(self, x, training=None):
            if not isinstance(x, keras.KerasTensor):
                ran.append(tuple(x.shape))
            return super().call(x)

    block = Block(3)
    block.dropout = Watched(3, 3, padding="same")
    block.dropout.build((None, size, size, 3))
    model = around(block, shape=(size, size, 3))
    ran.clear()
    kito.explain(model, FOLDS)
    assert ran.pop(0) == (2, 8, 8, 3)  # does it compute what a convolution does?
    assert ran == [(2, size or 16, size or 16, 3), (1, size or 20, size or 20, 3)]


class Positions(layers.Layer):
    """Adds what a table has for each place, of which there are few."""

    def build(self, shape):
        self.table = self.add_weight(shape=(20, shape[-1]), name="table")

    def call(self, x):
        return x + self.table[: ops.shape(x)[1]]


class Alike(layers.Layer):
    """Two convolutions of one name, and two normalizations."""

    def __init__(self, shared=None, **options):
        super().__init__(**options)
        self.one, self.bn = Conv2D(3, 1, name="conv"), BatchNormalization(name="bn")
        self.other, self.bn2 = shared or Conv2D(3, 1, name="conv"), BatchNormalization(name="bn")

    def build(self, shape):
        for layer in (self.one, self.bn, self.other, self.bn2):
            if not layer.built:
                layer.build((None, None, 4, 3))

    def call(self, x):
        x = ops.reshape(x, (ops.shape(x)[0], -1, 4, 3))
        return self.bn2(self.other(self.bn(self.one(x))))

    def compute_output_shape(self, shape):
        return (shape[0], None, 4, 3)


def test_layers_of_one_name():
    block = Alike(name="block")
    fast = check_rewrites(around(block), FOLDS, times=2)
    names = [layer.name for layer in fast.get_layer("block").layers]
    assert {"bn", "bn_1"} < set(names)
    assert [part.name for part in sublayers(block)[1:]] == ["conv", "bn", "conv", "bn"]


def test_a_model_with_layers_of_one_name():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = Alike(name="block"), Alike(name="block")

        def call(self, x):
            return self.second(self.first(x))

    model = Net()
    model(np.zeros((1, *SHAPE), "float32"))
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 4}
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    expected, answer = (to_numpy(each(data, training=False)) for each in (model, fast))
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_layers_of_one_name_that_are_shared():
    """Each has its name from the first block that calls it; in the third they meet."""

    class Both(Alike):
        def __init__(self, one, other):
            super().__init__(other)
            self.one = one

    first, second = Alike(), Alike()
    model = around(first, second, Both(first.one, second.one))
    randomize(model)
    report = kito.Report()
    check_equivalent(model, kito.optimize(model, FOLDS, report=report))
    assert any("two layers of 'both' have the name 'conv'" in each for each in report.notes)


def test_layers_of_one_name_on_several_levels():
    """Each level calls a layer of the one below, and has one of that name itself."""

    class Level(layers.Layer):
        def __init__(self, below=None, **options):
            super().__init__(**options)
            self.below = below
            self.conv, self.bn = Conv2D(3, 1, name="conv"), BatchNormalization(name="bn")

        def call(self, x):
            y = self.bn(self.conv(x))
            return y if self.below is None else self.below(y) + self.below.conv(y)

    model = randomize(around(Level(Level(Level(name="inner"), name="middle"), name="outer")))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 3}
    check_equivalent(model, fast)


class ShortText(keras.Model):
    def __init__(self):
        super().__init__()
        self.positions = Positions()
        self.conv, self.bn = layers.Conv1D(4, 3), BatchNormalization()

    def call(self, x):
        return self.bn(self.conv(self.positions(x)))


def test_a_model_that_takes_few_words_only():
    model = ShortText()
    data = np.random.default_rng(0).normal(size=(2, 20, 3)).astype("float32")
    model(data)
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    expected, answer = (to_numpy(each(data, training=False)) for each in (model, fast))
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


def test_data_of_which_the_call_leaves_nothing_show_nothing():
    class CroppingBlock(Block):
        def call(self, x):
            return super().call(x)[:, 20:, 20:] + float(isinstance(x, keras.KerasTensor))

        def compute_output_shape(self, shape):
            return super().compute_output_shape((*shape[:1], None, None, *shape[3:]))

    kept_whole(around(CroppingBlock(), shape=(None, None, 3)), "differ by")


class Noise(layers.Layer):
    def __init__(self, seed, **options):
        super().__init__(**options)
        self.seed = seed

    def call(self, x, training=None):
        return x + keras.random.normal(ops.shape(x), seed=self.seed) if training else x


class Sampling(layers.Layer):
    """Keras lists the state of its generator twice, for it hands that to a layer inside."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(0)
        self.noise = Noise(self.seed)
        self.conv, self.bn = Conv2D(4, 3), BatchNormalization()

    def call(self, x):
        return self.bn(self.conv(self.noise(x)))


def test_the_variables_of_the_source_can_be_assigned_afterwards():
    model = around(Sampling())
    kito.optimize(model, FOLDS)
    assert not any("assign" in vars(variable) for variable in model.variables)
    model.set_weights(model.get_weights())


class Odd(keras.Model):
    """A U-Net that mends what a pooling of an odd size has lost."""

    def __init__(self):
        super().__init__()
        self.down, self.up = layers.MaxPooling2D(), layers.UpSampling2D()
        self.conv, self.bn = Conv2D(4, 3, padding="same"), BatchNormalization()

    def call(self, x):
        y = self.bn(self.conv(x))
        z = self.up(self.down(y))
        if z.shape[1:3] != y.shape[1:3]:
            z = ops.image.resize(z, y.shape[1:3])
        return ops.concatenate([y, z])


class Inner(keras.Model):
    """Does otherwise for one size of a tensor inside."""

    def __init__(self):
        super().__init__()
        self.pool = layers.MaxPooling2D(4)
        self.conv, self.bn = Conv2D(4, 3, padding="same"), BatchNormalization()

    def call(self, x):
        y = self.bn(self.conv(self.pool(x)))
        return ops.mean(y, axis=(1, 2)) if y.shape[1] == 3 else y * 2.0


class Shuffle(layers.Layer):
    """Reshapes to sizes that it reads, of which only one may be unknown."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.bn = Conv2D(4, 3, padding="same"), BatchNormalization()

    def call(self, x):
        y = self.bn(self.conv(x))
        _, rows, columns, channels = y.shape
        y = ops.reshape(y, (-1, rows, columns, 2, channels // 2))
        y = ops.transpose(y, (0, 1, 2, 4, 3))
        return ops.reshape(y, (-1, rows, columns, channels))


class Shuffled(keras.Model):
    def __init__(self):
        super().__init__()
        self.unit = Shuffle()

    def call(self, x):
        return self.unit(x)


# On other backends Keras infers what it returns for any size, and the layer stays whole.
ON_TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="stays whole")


@pytest.mark.parametrize(
    ("kind", "size"),
    [(Odd, 13), (Inner, 12), pytest.param(Shuffled, 8, marks=ON_TENSORFLOW)],
)
def test_a_subclassed_model_is_that_of_the_size_that_it_was_built_for(kind, size):
    model = kind()
    data = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    model(data)
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    assert "the result takes no others" in report.notes[0]
    expected, answer = (to_numpy(each(data, training=False)) for each in (model, fast))
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@ON_TENSORFLOW
def test_a_note_says_which_sizes_the_result_takes_where_nobody_can_copy_the_model():
    class Uncopied(Odd):
        def __init__(self, helper=None):
            super().__init__()
            self.helper = helper

    model = Uncopied(object())
    model(np.zeros((2, 13, 13, 3), "float32"))
    report = kito.Report()
    assert type(kito.optimize(model, rules=[], report=report)) is not Uncopied
    assert "the result takes no others" in report.notes[0]
    report = kito.Report()
    model.helper = None
    assert type(kito.optimize(model, rules=[], report=report)) is Uncopied
    assert not report.notes


class Flat(keras.Model):
    """Images of 13 to 16 pixels have as many numbers in the end."""

    def __init__(self):
        super().__init__()
        self.steps = [Conv2D(4, 3, strides=2, padding="same") for _ in range(3)]
        self.head = Dense(2)

    def call(self, x):
        for step in self.steps:
            x = step(x)
        return self.head(layers.Flatten(name="flat")(x))


@pytest.mark.parametrize("rules", [FOLDS, None])
def test_a_size_that_a_layer_has_weights_for_is_known(rules):
    model, data = Flat(), np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    model(data)
    fast = kito.optimize(randomize(model), rules, strict=True)
    assert np.allclose(to_numpy(fast(data)), to_numpy(model(data)), atol=1e-5)
    assert not {*map(id, fast.weights)} & {*map(id, model.weights)}


def test_a_model_of_one_size_in_which_nothing_is_rewritten_takes_all_that_it_took():
    class Repeated(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = Dense(4)

        def call(self, x):
            mean = ops.mean(x, axis=1, keepdims=True)
            return self.dense(ops.repeat(mean, ops.shape(x)[1], axis=1))

    model = Repeated()
    model(np.ones((2, 5, 3), "float32"))
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert not report.applied
    assert not report.notes
    longer = np.ones((2, 9, 3), "float32")
    assert np.array_equal(to_numpy(fast(longer)), to_numpy(model(longer)))


def test_a_block_that_is_not_yet_built_inside_is_kept_whole():
    class Inner(layers.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = Conv2D(4, 3, padding="same"), BatchNormalization(name="inner_bn")

        def build(self, shape):
            """The weights come with the first call."""

        def call(self, x):
            return self.bn(self.conv(x))

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return ops.relu(self.inner(x))

        def compute_output_shape(self, shape):
            return (*shape[:-1], 4)

    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, BatchNormalization()(Conv2D(4, 3)(Outer()(inputs))))
    report = kito.Report()
    kito.optimize(model, FOLDS, strict=True, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    assert any("gets its weights when it is called on data" in note for note in report.notes)


def test_what_a_layer_inside_returns_is_inferred_once_for_equal_tensors():
    ran = []

    class Inside(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = Dense(4)

        def call(self, x, offset):
            ran.append(x)
            return self.dense(x) + offset

    class Outside(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inside = Inside()

        def call(self, x):
            return sum(self.inside(x, ops.zeros(4) + offset) for offset in (1, 1, 1, 2))

    outside = Outside()
    outside(np.zeros((1, *SHAPE), "float32"))
    ran.clear()
    with trace(outside, (Tensor((None, *SHAPE), "float32"),), {}, {}):
        assert len(ran) == 2


def test_what_no_rule_applies_in_is_not_run():
    """To find out whether a trace is right costs more than to record it."""
    ran = []

    class Watched(Block):
        def call(self, x):
            if not isinstance(x, keras.KerasTensor):
                ran.append(x)
            return self.conv(ops.relu(x))

    report = kito.Report()
    model = around(Watched())
    fast = kito.optimize(model, FOLDS, report=report)
    assert not ran
    assert not report.notes
    check_equivalent(model, fast)


def test_what_can_not_be_copied_is_unfolded_only_if_its_trace_is_right():
    """A layer that no rule touched, and that its trace stands for all the same."""

    class Normalized(Gate):
        def __init__(self, units, **options):
            super().__init__(units, **options)
            self.bn = BatchNormalization()

        def build(self, shape):
            super().build(shape)
            self.bn.build(shape)

        def call(self, x):
            return super().call(ops.relu(self.bn(x)))

    class Eager(Normalized):
        def call(self, x):
            return super().call(x) * (1.0 if isinstance(x, keras.KerasTensor) else 1.5)

    for gate, notes in (Normalized, 0), (Eager, 1):
        report = kito.Report()
        model = randomize(around(gate(3, name="gate")))
        fast = kito.optimize(model, FOLDS, report=report)
        assert len(report.notes) == notes
        assert isinstance(fast.get_layer("gate"), keras.Model) != bool(notes)
        check_equivalent(model, fast)


def test_what_can_not_be_copied_is_unfolded_in_every_call():
    class Forgetful(Block):
        """Its configuration is that of a smaller one."""

        def call(self, x):
            return ops.relu(self.bn(x))[..., :3] + self.conv(x)[..., :3]

        def build(self, shape):
            self.conv.build(shape)
            self.bn.build(shape)

        def compute_output_shape(self, shape):
            return shape

        def get_config(self):
            return {**super().get_config(), "filters": 3}

    block = Forgetful(4, name="block")
    model = randomize(around(block, block))
    fast = kito.optimize(model, FOLDS)
    assert isinstance(fast.get_layer("block"), keras.Model)
    check_equivalent(model, fast)


class FreshBlock(Block):
    """Makes another composite in each call, whose trace is wrong."""

    def call(self, x):
        return Fresh(self.conv, self.bn)(x)


class Fresh(layers.Layer):
    def __init__(self, conv, bn):
        super().__init__()
        self.conv, self.bn = conv, bn

    def call(self, x):
        x = self.bn(self.conv(x))
        return x if isinstance(x, keras.KerasTensor) else x * 1.5


def test_composites_that_a_call_makes_come_to_an_end():
    """Each trace has another one, so there is always one that nobody knows to be wrong."""
    model = randomize(around(FreshBlock()))
    with patch.object(api, "lift", wraps=api.lift) as lift:
        fast = kito.optimize(model, FOLDS)
    assert lift.call_count == api.ROUNDS + 1
    check_equivalent(model, fast)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's functions")
def test_grouped_convolutions_are_not_compiled_to_find_out(monkeypatch):
    block = Block()
    block.conv = Conv2D(4, 3, padding="same", groups=2, name="conv")
    model = around(block, shape=(8, 8, 4))
    compiled = []
    monkeypatch.setattr(tf.config, "run_functions_eagerly", lambda on: compiled.append(not on))
    kito.explain(model, FOLDS)
    assert compiled == [False, True] * (len(compiled) // 2)
    assert compiled


def test_declines_a_block_that_leaves_keras():
    inputs = keras.Input(batch_shape=(2, *SHAPE))
    block = NumpyBlock()
    block.compute_output_spec = lambda x: keras.KerasTensor((2, 8, 8, 4), "float32")
    block.build(inputs.shape)
    model = keras.Model(inputs, block(inputs))
    report = kito.Report()
    kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    note = report.notes[0]
    assert "its call fails on symbolic tensors, which have no values (ValueError: " in note
    assert "kito looks inside a call that uses layers and keras.ops" in note


def test_an_error_is_what_the_innermost_layer_said():
    class Inner(layers.Layer):
        def call(self, x):
            raise ValueError("there is no number")

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def call(self, x):
            return self.inner(x)

    with pytest.raises(ValueError, match="there is no number") as caught:
        Outer()(np.ones((1, 2)))
    assert str(caught.value).startswith("Exception encountered when calling")
    assert first_line(caught.value) == "there is no number"


def test_declines_a_block_with_training_true():
    inputs = keras.Input(SHAPE)
    model = randomize(keras.Model(inputs, Block(name="block")(inputs, training=True)))
    report = kito.Report()
    kito.optimize(model, FOLDS, report=report)
    assert "it is called with training=True" in report.notes[0]


class ResizingBlock(Block):
    """Holds a layer that takes itself to be in training, unless it is told otherwise."""

    def __init__(self, **options):
        super().__init__(**options)
        self.resizing = layers.Resizing(8, 8)

    def call(self, x, training=None):
        return self.resizing(super().call(x, training=training))


def test_what_a_layer_inside_is_not_told_it_inherits():
    check_rewrites(around(ResizingBlock()), FOLDS, times=1)


class AddingBlock(Block):
    """Makes a layer in each call."""

    def call(self, x):
        return layers.Add()([x, layers.Activation("relu")(super().call(x))])


def test_layers_that_a_call_makes_are_the_same_at_every_size():
    check_rewrites(around(AddingBlock(3), shape=(None, None, 3)), FOLDS, times=1)


def on_levels(block, *sizes):
    """A block that is called on pictures of several sizes, as a head of a detector is."""
    inputs = [keras.Input((size, size, 3)) for size in sizes]
    return keras.Model(inputs, [block(each) for each in inputs])


def test_a_head_over_five_levels():
    model = on_levels(Block(name="head"), 32, 16, 8, 4, 2)
    fast = check_rewrites(model, FOLDS, times=1)
    assert fast.output_shape == model.output_shape
    assert count(fast, Conv2D) == 1
    assert fast.count_params() < model.count_params()


is_built = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="there Keras infers that not all sizes go, and builds no model"
)


class Decoder(layers.Layer):
    """Goes from the smallest of several pictures, of which each halves the one before, to the
    largest.
    """

    def __init__(self, levels, **options):
        super().__init__(**options)
        self.ups = [layers.UpSampling2D() for _ in range(levels - 1)]
        self.blocks = [Block(4) for _ in range(levels - 1)]

    def call(self, features):
        *skips, x = features
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=True):
            x = block(up(x)) + skip
        return x


@is_built
@pytest.mark.parametrize("levels", [2, 3, 5])
def test_a_decoder_of_pictures_of_any_size(levels):
    x = inputs = keras.Input((None, None, 3))
    features = [x := Conv2D(4, 3, 2, padding="same")(x) for _ in range(levels)]
    model = randomize(keras.Model(inputs, Decoder(levels)(features)))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": levels - 1}
    size = 2**levels
    data = np.random.default_rng(0).normal(size=(2, 3 * size, 4 * size, 3)).astype("float32")
    np.testing.assert_allclose(to_numpy(fast(data)), to_numpy(model(data)), rtol=0, atol=1e-4)


class EighthsNet(keras.Model):
    """Its decoder takes sizes of which the one is eight times the other, and of others Keras infers
    nothing.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.pool = Conv2D(4, 3, padding="same"), layers.MaxPooling2D(8)
        self.decoder, self.bn = Eighths(), BatchNormalization()

    def call(self, x):
        x = self.conv(x)
        return self.bn(self.decoder([x, self.pool(x)]))


class Eighths(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.up = layers.UpSampling2D(8, interpolation="bilinear")
        self.conv = Conv2D(4, 3, padding="same")

    def call(self, features):
        large, small = features
        return self.conv(self.up(small)) + large


def test_a_model_of_which_keras_builds_no_calls_is_copied():
    model, data = EighthsNet(), np.random.default_rng(0).normal(size=(2, 8, 16, 3))
    model(data)
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert "Keras can't build its calls" in report.notes[-1]
    np.testing.assert_array_equal(to_numpy(fast(data)), to_numpy(model(data)))
    assert not {id(each) for each in fast.variables} & {id(each) for each in model.variables}


class Pyramid(layers.Layer):
    """Halves a picture five times and adds up three of the levels: not all sizes go."""

    def __init__(self, **options):
        super().__init__(**options)
        self.convs = [Conv2D(4, 3, 2, padding="same") for _ in range(5)]
        self.bns = [BatchNormalization() for _ in range(5)]
        self.up = layers.UpSampling2D()

    def call(self, x):
        levels = [x := bn(conv(x)) for conv, bn in zip(self.convs, self.bns, strict=True)]
        return levels[2] + self.up(levels[3] + self.up(levels[4]))


@is_built
def test_a_layer_that_halves_a_picture_of_any_size_often():
    inputs = keras.Input((None, None, 3))
    report = kito.Report()
    kito.optimize(randomize(keras.Model(inputs, Pyramid()(inputs))), FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 5}


class PooledHead(layers.Layer):
    """Calls a head that others call too, on a smaller picture."""

    def __init__(self, head, **options):
        super().__init__(**options)
        self.head, self.pool = head, layers.MaxPooling2D()

    def call(self, x):
        return self.head(self.pool(x))


@pytest.mark.parametrize("first", ["head", "around"])
def test_a_head_that_another_block_calls_on_another_size(first):
    inputs = keras.Input(SHAPE)
    head = Block(3, name="head")
    head.build((None, *SHAPE))
    around_head = PooledHead(head, name="around")
    calls = [head, around_head] if first == "head" else [around_head, head]
    model = keras.Model(inputs, [call(inputs) for call in calls])
    fast = check_rewrites(model, FOLDS, times=1)
    assert count(fast, Conv2D) == 1
    assert fast.output_shape == model.output_shape


class Detector(keras.Model):
    """Its `call` calls one head on each level."""

    def __init__(self):
        super().__init__()
        self.head, self.pool = Block(name="head"), layers.MaxPooling2D()

    def call(self, x):
        levels = [x]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        return [self.head(level) for level in levels]


def test_a_head_in_a_subclassed_model():
    model = Detector()
    model(np.zeros((2, 32, 32, 3), "float32"))
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    data = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    for one, other in zip(model(data), fast(data), strict=True):
        assert np.allclose(to_numpy(one), to_numpy(other), rtol=0, atol=1e-4)


class TextBlock(Block):
    """Branches on a size that it looks at as text, so that nobody knows what it compares with."""

    def call(self, x):
        x = super().call(x)
        return ops.tanh(x) if str(x.shape[1]) == "16" else x


def test_declines_a_block_that_does_otherwise_at_one_of_its_sizes():
    model = on_levels(TextBlock(), 8, 16)
    kept_whole(model, "its call does otherwise with tensors of another size")


class StretchBlock(Block):
    """Brings everything to one size, which differs where its input has one."""

    def call(self, x):
        return ops.reshape(super().call(x), (-1, x.shape[1] * x.shape[2], self.filters))

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] * shape[2], self.filters)


def test_declines_a_block_that_needs_the_sizes_in_which_its_calls_differ():
    kept_whole(on_levels(StretchBlock(), 8, 16), "its call fails on symbolic tensors")


def test_declines_a_block_that_is_called_in_two_ways():
    block = ScaledBlock(3)
    one, two = keras.Input(SHAPE), keras.Input(SHAPE)
    model = keras.Model([one, two], [block(one), block(two, times=2)])
    kept_whole(model, "called in 2 different ways")


def test_declines_a_mask():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.LSTM(3)(MaskedBlock()(x)))
    check_equivalent(model, kept_whole(model, "a mask runs through it"))


# Subclassed models


class Network(keras.Model):
    """One tensor in, one out; any size."""

    def __init__(self):
        super().__init__()
        self.block = Block(name="block")
        self.head = Dense(2, name="head")

    def call(self, x):
        return self.head(ops.mean(self.block(x), axis=(1, 2)))


class DictNetwork(Network):
    """A dict in, a dict out."""

    def call(self, inputs):
        y = self.block(inputs["image"])
        return {"scores": self.head(y), "sum": y + inputs["offset"]}


class FlatNetwork(Network):
    """One size only."""

    def __init__(self):
        super().__init__()
        self.flatten = layers.Flatten()

    def call(self, x):
        return self.head(self.flatten(self.block(x)))


@pytest.mark.parametrize("kind", [Network, FlatNetwork, DictNetwork])
def test_what_draws_inputs_by_itself_takes_a_subclassed_model(kind):
    model = kind()
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    given = {"image": data, "offset": data[:, :1, :1, :1]} if kind is DictNetwork else data
    model(given)
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, verify=True, strict=True, report=report)
    assert report.applied
    assert report.verification.passed
    assert kito.compare(model, fast).relative < 1e-5
    answer = kito.predictor(model, "keras")(given)
    expected = model.predict_on_batch(given)
    keras.tree.assert_same_structure(answer, expected)
    keras.tree.map_structure(
        partial(np.testing.assert_allclose, rtol=0, atol=1e-4), answer, expected
    )
    assert any("bfloat16" in note for note in report_of(model, precision="bfloat16").notes)


def report_of(model, **options):
    report = kito.Report()
    kito.optimize(model, report=report, **options)
    return report


def test_a_subclassed_model_becomes_functional():
    model = Network()
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    model(data)
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert len(report.applied) == 1
    assert fast.input_shape == (None, None, None, 3)
    assert np.allclose(fast.predict_on_batch(data), model.predict_on_batch(data), atol=1e-5)
    larger = np.ones((1, 20, 24, 3), "float32")
    assert np.allclose(fast.predict_on_batch(larger), model.predict_on_batch(larger), atol=1e-5)


def test_a_subclassed_model_of_one_size():
    model = FlatNetwork()
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    model(data)
    fast = kito.optimize(randomize(model), FOLDS)
    assert fast.input_shape == (None, *SHAPE)
    assert np.allclose(fast.predict_on_batch(data), model.predict_on_batch(data), atol=1e-4)


def test_a_subclassed_model_of_a_dict():
    model = DictNetwork()
    data = {"image": np.ones((2, *SHAPE), "float32"), "offset": np.ones((2, 1, 1, 1), "float32")}
    model(data)
    fast = kito.optimize(randomize(model), FOLDS)
    expected, answer = model.predict_on_batch(data), fast.predict_on_batch(data)
    assert expected.keys() == answer.keys()
    for name in expected:
        assert np.allclose(expected[name], answer[name], atol=1e-5)


@pytest.mark.parametrize("counts", [(6, 7), (8,)])  # where 8 are the features too, it is fixed
def test_a_subclassed_model_of_graphs_of_any_size(counts):
    """An adjacency matrix has the nodes on two axes, of which the last one is no channels."""

    class GraphNetwork(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.bn, self.head = Dense(4), BatchNormalization(), Dense(8)

        def call(self, inputs):
            nodes, edges = inputs
            return self.head(ops.matmul(edges, self.bn(self.dense(nodes))))

    def graphs(count):
        rng = np.random.default_rng(0)
        return rng.random((2, count, 8), "float32"), rng.random((2, count, count), "float32")

    model = GraphNetwork()
    model(graphs(counts[0]))
    fast = kito.optimize(randomize(model), FOLDS)
    assert fast.count_params() == model.count_params() - 16
    for count in counts:
        expected, answer = (to_numpy(each(graphs(count))) for each in (model, fast))
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_functional_model_with_a_call_of_its_own():
    class Doubled(keras.Model):
        def __init__(self):
            inputs = keras.Input(SHAPE, name="image")
            super().__init__(inputs, BatchNormalization()(Conv2D(4, 3)(inputs)))

        def call(self, x, training=None):
            return super().call(x, training=training) * 2.0

    model = randomize(Doubled())
    fast = kito.optimize(model, FOLDS)
    assert fast.inputs[0].name == "image"
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    assert np.allclose(fast.predict_on_batch(data), model.predict_on_batch(data), atol=1e-5)


def test_a_subclassed_model_that_can_not_be_traced():
    class Weighted(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.block = Block(name="block")
            self.scale = self.add_weight(shape=(4,), name="scale")

        def call(self, x):
            return self.block(x) * self.scale

    model, data = Weighted(), np.ones((2, *SHAPE), "float32")
    model(data)
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert type(fast) is Weighted
    assert fast.layers[0] is not model.layers[0]
    assert np.array_equal(to_numpy(fast(data)), to_numpy(model(data)))
    for [note] in (report.notes, kito.explain(model, FOLDS).notes):
        assert note.startswith("nothing is rewritten: the subclassed model")
    with pytest.raises(kito.InputError, match="can't be traced"):
        kito.optimize(model, FOLDS, precision="bfloat16")


def test_a_subclassed_model_that_can_neither_be_traced_nor_copied():
    class Untraceable(Network):
        def __init__(self, scale):
            super().__init__()
            self.scale = [scale]

        def call(self, x):
            return super().call(x) * float(ops.convert_to_numpy(x).sum())

        def get_config(self):
            raise NotImplementedError

    model = Untraceable(2)
    model(np.ones((2, *SHAPE), "float32"))
    for function in (kito.optimize, kito.explain):
        with pytest.raises(kito.InputError, match=r"can't be traced|has not kept the shapes"):
            function(model, FOLDS)


def test_a_subclassed_model_that_is_always_in_training():
    class Uncertain(Network):
        def call(self, x):
            return layers.Dropout(0.5, name="always")(super().call(x), training=True)

    model = Uncertain()
    model(np.ones((2, *SHAPE), "float32"))
    assert type(kept_whole(model, "calls always with training=True")) is Uncertain


def test_a_copy_of_a_subclassed_model_whose_constructor_takes_no_name():
    class Scaled(keras.Model):
        def __init__(self, width=4):
            super().__init__()
            self.dense, self.scale = Dense(width), self.add_weight(shape=(1,), name="scale")

        def call(self, x):
            return self.dense(x) * self.scale

    model, data = Scaled(), np.ones((2, *SHAPE), "float32")
    model(data)
    fast = kept_whole(model, "can't be traced")
    assert type(fast) is Scaled
    assert fast.name == model.name
    assert np.array_equal(to_numpy(fast(data)), to_numpy(model(data)))
    assert fast.dense.kernel is not model.dense.kernel
    other = Scaled(8)  # of which Keras says that its width is 4
    other(data)
    with pytest.raises(kito.InputError, match="its configuration builds other weights"):
        kito.optimize(other, FOLDS)


def test_a_subclassed_model_of_several_arguments():
    class Two(Network):
        def call(self, x, y):
            return super().call(x) + y

    model, image, added = Two(), np.ones((2, *SHAPE), "float32"), np.ones((2, 2), "float32")
    model(image, added)
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert type(fast) is Two
    assert fast is not model
    assert np.array_equal(to_numpy(fast(image, added)), to_numpy(model(image, added)))
    for [note] in (report.notes, kito.explain(model, FOLDS).notes):
        assert "does not take its inputs as one argument" in note
    with pytest.raises(kito.InputError, match="does not take its inputs as one argument"):
        kito.optimize(model, FOLDS, precision="bfloat16")


class Lazy(layers.Layer):
    """It makes what it holds when it is built."""

    def build(self, shape):
        self.dense = Dense(4)
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


@keras.saving.register_keras_serializable("kito_tests")
class HolderOfTwo(keras.Model):
    """A model of two arguments that is given what it holds."""

    def __init__(self, inner, **options):
        super().__init__(**options)
        self.inner = inner

    def call(self, x, y):
        return ops.cast(self.inner(x), y.dtype) + y

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config.pop("inner"))
        return cls(inner, **config)


class Attention(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 2)

    def call(self, x):
        return self.attention(x, x)


class Kept(keras.Model):
    """A model that keeps what it is made of, and has no `get_config`."""

    def __init__(self, inner, units, activations=()):
        super().__init__()
        self.inner, self.units, self.activations = inner, units, activations
        self.steps = [Dense(units, activation=each) for each in (None, *activations)]

    def call(self, x, y):
        x = self.inner(x)
        for step in self.steps:
            x = step(x)
        return x + y


def holding(make):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = make()

        def call(self, x, y):
            return self.inner(x) + y

    return Two()


@pytest.mark.parametrize(
    "make",
    [
        lambda: holding(lambda: keras.Sequential([Dense(4), BatchNormalization()])),
        lambda: holding(Lazy),
        lambda: holding(Attention),
        lambda: HolderOfTwo(Dense(4)),
        lambda: HolderOfTwo(Dense(4), dtype="mixed_bfloat16"),
        lambda: Kept(keras.Sequential([Dense(3)]), 4, ["relu"]),
    ],
    ids=["deferred", "lazy", "attention", "from_config", "dtype", "kept"],
)
def test_what_a_copy_of_a_model_of_several_arguments_holds(make):
    model, data = make(), np.ones((2, 3, 4), "float32")
    model(data, data)
    fast = kito.optimize(randomize(model), FOLDS)
    assert type(fast) is type(model)
    assert np.array_equal(
        *(to_numpy(ops.cast(each(data, data), "float32")) for each in (fast, model))
    )
    assert not {*map(id, fast.weights)} & {*map(id, model.weights)}


def test_a_model_of_several_arguments_that_is_made_of_something_unknown():
    class Made(keras.Model):
        def __init__(self, maker):
            super().__init__()
            self.maker, self.dense = maker, Dense(4)

        def call(self, x, y):
            return self.dense(x) + y

    model, data = Made(object()), np.ones((2, 4), "float32")
    model(data, data)
    with pytest.raises(kito.InputError, match="it is made of a object"):
        kito.optimize(model, FOLDS)


class TrainingNetwork(Network):
    def call(self, x, training):
        return super().call(x)


class AnyNetwork(Network):
    def call(self, x, *args, **kwargs):
        return super().call(x)


@pytest.mark.parametrize("cls", [TrainingNetwork, AnyNetwork])
def test_a_subclassed_model_with_more_parameters_than_inputs(cls):
    model = cls()
    data = np.ones((2, *SHAPE), "float32")
    model(data, training=False)
    fast = kito.optimize(randomize(model), FOLDS)
    assert not any(isinstance(layer, BatchNormalization) for layer in fast.layers)
    expected = to_numpy(model(data, training=False))
    assert np.allclose(to_numpy(fast(data)), expected, atol=1e-5)


def test_a_subclassed_model_that_assigns_to_a_variable():
    class Counting(Network):
        def build(self, shape):
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.count.assign(self.count + 1.0)
            return super().call(x)

    model = Counting()
    model(np.ones((2, *SHAPE), "float32"))
    before = float(model.count)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert any("the next need not be the same" in note for note in report.notes)
    assert float(model.count) == float(fast.count) == before


def test_a_subclassed_model_of_which_a_layer_counts_its_calls():
    """It can't be copied either; the error says why, and not what it does with integers."""

    @keras.saving.register_keras_serializable("test_trace")
    class Counting(Block):
        calls = 0

        def call(self, x, training=None):
            self.calls += 1
            return super().call(x)

    @keras.saving.register_keras_serializable("test_trace")
    class CountingNetwork(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.block = Counting(name="block")

        def call(self, x):
            return self.block(x)

    model = CountingNetwork()
    model(np.ones((2, *SHAPE), "float32"))
    with pytest.raises(kito.InputError, match=r"changes block\.calls.*does not carry calls"):
        kito.optimize(model, FOLDS)


def test_a_subclassed_model_of_volumes_runs_on_small_ones():
    ran = []

    class Volumes(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = layers.Conv3D(2, 3, padding="same"), BatchNormalization()

        def call(self, x):
            if not isinstance(x, keras.KerasTensor):
                ran.append(x.shape[1])
            return self.bn(self.conv(x))

    model = Volumes()
    data = np.random.default_rng(0).normal(size=(2, 8, 6, 4, 3)).astype("float32")
    model(data)
    ran.clear()
    fast = kito.optimize(randomize(model), FOLDS)
    assert fast.input_shape == (None, None, None, None, 3)
    assert max(ran) < 32
    assert np.allclose(to_numpy(fast(data)), to_numpy(model(data)), atol=1e-4)


def test_places_in_a_table_that_are_a_weight():
    """The reason is that these are weights, and not that other places are none in the table."""

    class Table(Block):
        def build(self, shape):
            super().build(shape)
            self.table = self.add_weight(shape=(1, 4), name="table")
            self.places = self.add_weight(
                shape=(1,), dtype="int32", initializer="zeros", trainable=False
            )

        def call(self, x, training=None):
            return super().call(x) + ops.take(self.table, self.places, axis=0)

    kept_whole(around(Table()), "a tensor made of weights")


def test_names_in_a_report_are_the_same_each_time():
    class Residual(Block):
        def call(self, x, training=None):
            return ops.relu(super().call(x)) + ops.mean(x, -1, keepdims=True)

    model = randomize(around(Residual(), Residual()))
    first, second = (kito.explain(model, None) for _ in range(2))
    assert first.applied
    assert str(first) == str(second)


def test_a_model_without_a_call():
    class Gan(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator = Network()

    with pytest.raises(kito.InputError, match="optimize each of those"):
        kito.optimize(Gan(), FOLDS)


def test_an_unbuilt_model():
    with pytest.raises(kito.InputError, match="is not built"):
        kito.optimize(Network(), FOLDS)
    with pytest.raises(kito.InputError, match="is not built"):
        kito.optimize(keras.Sequential([Dense(3)]), FOLDS)


def test_not_a_model():
    with pytest.raises(kito.InputError, match="load it first, with"):
        kito.optimize("model.keras", FOLDS)


def test_a_keras_2_model():
    fake = type("Functional", (), {"__module__": "tf_keras.src.engine.functional"})
    with pytest.raises(kito.InputError, match="a tf_keras"):
        kito.optimize(fake(), FOLDS)


def test_a_functional_model_with_a_class_of_its_own():
    class Backbone(keras.Model):
        def __init__(self, **options):
            inputs = keras.Input(SHAPE)
            super().__init__(inputs, BatchNormalization()(Conv2D(4, 3)(inputs)), **options)

    fast = check_rewrites(Backbone(name="backbone"), FOLDS, times=1)
    assert fast.name == "backbone"


@keras.saving.register_keras_serializable("test_trace")
class Gate(layers.Layer):
    """A layer whose configuration no one can read back."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.dense = Dense(units, activation="sigmoid")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return x * self.dense(x)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "units": self.units, "unknown": 1}


@keras.saving.register_keras_serializable("test_trace")
class GatedBlock(Block):
    """A layer that can be saved, around one that can't."""

    def __init__(self, filters=4, **options):
        super().__init__(filters, **options)
        self.gate = Gate(filters)
        self.identity = layers.Identity(dtype=self.dtype_policy)

    def build(self, shape):
        super().build(shape)
        self.gate.build((*shape[:-1], self.filters))

    def call(self, x, training=None):
        return self.identity(self.gate(super().call(x, training=training)), training=training)


class OfUnits(keras.Model):
    """A Functional model with a class of its own, which saves what it was made of."""

    def __init__(self, units=4, **options):
        inputs = keras.Input(SHAPE)
        super().__init__(inputs, self.made(inputs, units), **options)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("test_trace")
class GatedNet(OfUnits):
    """It can be saved by its own configuration only."""

    def made(self, inputs, units):
        return Gate(units, name="gate")(Conv2D(units, 3)(inputs))


def saved_and_loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


def test_what_a_trace_lays_open_can_be_saved(tmp_path):
    fast = check_rewrites(around(GatedBlock()), FOLDS, times=1)
    check_equivalent(fast, saved_and_loaded(fast, tmp_path))


def test_a_trace_with_an_identity_runs_at_any_size():
    inner_input, inputs = keras.Input((None, None, 3)), keras.Input(SHAPE)
    inner = keras.Model(inner_input, GatedBlock()(inner_input))
    check_rewrites(keras.Model(inputs, inner(inputs)), FOLDS, times=1)


def test_a_model_with_a_class_of_its_own_keeps_it_where_nothing_is_rewritten(tmp_path):
    model = randomize(GatedNet(4))
    fast = kito.optimize(model, FOLDS)
    assert type(fast) is GatedNet
    check_equivalent(model, fast)
    source = saved_and_loaded(model, tmp_path)  # Keras 3.14 loses the names of outputs
    check_equivalent(source, saved_and_loaded(fast, tmp_path))
    inputs = keras.Input(SHAPE)
    outer = keras.Model(inputs, BatchNormalization()(Dense(3)(model(inputs))))
    assert type(check_rewrites(outer, FOLDS, times=1).layers[1]) is GatedNet


# Batch sizes, shapes and names that a trace must not freeze or lose


class HeadsBlock(Block):
    """Splits the channels with the batch size that it reads, as most attention layers do."""

    def call(self, x):
        x = super().call(x)
        batch, height, width = ops.shape(x)[0], x.shape[1], x.shape[2]
        x = ops.reshape(x, (batch, height * width, 2, self.filters // 2))
        return ops.reshape(ops.flip(x, axis=1), (batch, height, width, self.filters))


class BatchBlock(Block):
    def call(self, x):
        return super().call(x) * ops.shape(x)[0]


class RepeatBlock(Block):
    def call(self, x):
        x = super().call(x)
        return x + ops.broadcast_to(ops.mean(x, axis=0, keepdims=True), ops.shape(x))


def test_a_batch_size_in_a_reshape_stays_open():
    model = around(HeadsBlock())
    fast = check_rewrites(model, FOLDS, times=1)
    assert fast.output_shape == model.output_shape
    for batch in (1, 3):
        data = np.random.default_rng(0).normal(size=(batch, *SHAPE)).astype("float32")
        assert np.allclose(
            fast.predict_on_batch(data), model.predict_on_batch(data), rtol=0, atol=1e-4
        )


class NamedBlock(HeadsBlock):
    """Reads the batch size, and compares something else with a number."""

    def call(self, x):
        x = super().call(x)
        shape = (ops.shape(x)[0], *x.shape[1:])
        return x if self.filters == 3 else ops.reshape(ops.tanh(x), shape)


class InferredBlock(Block):
    """A reshape to the batch size and one size that is inferred."""

    def call(self, x):
        x = super().call(x)
        return ops.reshape(x, (ops.shape(x)[0], -1, self.filters))

    def compute_output_shape(self, shape):
        return (shape[0], None if None in shape[1:3] else shape[1] * shape[2], self.filters)


@pytest.mark.parametrize("size", [8, None])
def test_a_batch_size_beside_an_inferred_size(size):
    fast = check_rewrites(around(InferredBlock(), shape=(size, size, 3)), FOLDS, times=1)
    assert fast.output_shape == (None, size and size * size, 4)


def test_a_batch_size_in_a_reshape_is_no_branch():
    check_rewrites(around(NamedBlock()), FOLDS, times=1)


@pytest.mark.parametrize("block", [BatchBlock, RepeatBlock])
def test_declines_another_use_of_the_batch_size(block):
    model = around(block())
    check_equivalent(model, kept_whole(model, "computes with the batch size"))


class Swish(layers.Layer):
    """A layer that nobody registered, and that computes with a weight of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.beta = self.add_weight(shape=(1,), initializer="ones")

    def call(self, x):
        return x * ops.sigmoid(self.beta * x)

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable("test_trace")
class SwishBlock(Block):
    def __init__(self, filters=4, **options):
        super().__init__(filters, **options)
        self.swish = Swish()

    def call(self, x):
        return self.swish(super().call(x))


class TanhTwice(layers.Layer):
    """Nobody registered it."""

    def call(self, x):
        return ops.tanh(x) * 2


class Excited(layers.Layer):
    """Nobody registered it, nor what it holds."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.last = layers.Dense(4), TanhTwice()

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return x * self.last(self.dense(x))


@keras.saving.register_keras_serializable("test_trace")
class UnknownBlock(Block):
    def __init__(self, kind="leaf", **options):
        super().__init__(**options)
        self.kind, self.last = kind, {"leaf": TanhTwice, "excited": Excited}[kind]()

    def build(self, shape):
        super().build(shape)
        self.last.build((*shape[:-1], 4))

    def call(self, x):
        return self.last(super().call(x))

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


@keras.saving.register_keras_serializable("test_trace")
class UnknownNetwork(OfUnits):
    def made(self, inputs, units):
        x = BatchNormalization()(Conv2D(units, 3, padding="same")(inputs))
        return TanhTwice()(Excited(name="excited")(x))


@pytest.mark.parametrize("kind", ["leaf", "excited", "network"])
def test_what_can_not_be_loaded_is_replaced_by_its_calls(kind, tmp_path):
    model = UnknownNetwork(4) if kind == "network" else around(UnknownBlock(kind))
    fast = check_rewrites(model, FOLDS, times=1)
    check_equivalent(fast, saved_and_loaded(fast, tmp_path))
    assert count(fast, TanhTwice) == count(fast, Excited) == 0


def test_what_can_not_be_loaded_stays_where_nothing_is_rewritten():
    model = around(TanhTwice(name="leaf"))
    assert count(kito.optimize(model), TanhTwice) == 1


def test_declines_to_lay_open_what_can_not_be_loaded(tmp_path):
    model = around(SwishBlock(name="block"))
    fast = kept_whole(model, "Keras can load the SwishBlock, but not the Swish inside it")
    fast.save(tmp_path / "fast.keras")
    check_equivalent(model, keras.saving.load_model(tmp_path / "fast.keras"))


@keras.saving.register_keras_serializable()
class NamelessBlock(Block):
    """Its activation is a function that the layer inside it can't name in a file."""

    def __init__(self, filters=4, **options):
        super().__init__(filters, **options)
        self.nameless = layers.Activation(lambda x: x * ops.sigmoid(1.702 * x))

    def call(self, x):
        return self.nameless(super().call(x))


def test_declines_to_lay_open_an_activation_without_a_name(tmp_path):
    model = around(NamelessBlock(name="block"))
    fast = kept_whole(model, "Keras can load the NamelessBlock, but not the Activation inside it")
    assert fast.get_layer("block") is not model.get_layer("block")
    check_equivalent(fast, saved_and_loaded(fast, tmp_path))


@keras.saving.register_keras_serializable("test_trace")
def halved(x):
    return x * 0.5


@keras.saving.register_keras_serializable("test_trace")
class LambdaBlock(Block):
    def __init__(self, filters=4, **options):
        super().__init__(filters, **options)
        self.halved = layers.Lambda(halved)

    def call(self, x):
        return self.halved(super().call(x))


def test_lays_open_a_lambda_that_can_be_loaded(tmp_path):
    fast = check_rewrites(around(LambdaBlock()), FOLDS, times=1)
    check_equivalent(fast, saved_and_loaded(fast, tmp_path))


@keras.saving.register_keras_serializable("test_trace")
class SizedBlock(Block):
    """Gives `reshape` a size of numpy's."""

    def call(self, x):
        y = super().call(x)
        return ops.reshape(y, (-1, *y.shape[1:-1], np.prod(y.shape[-1:])))


def test_sizes_of_numpy_are_saved_as_numbers(tmp_path):
    fast = check_rewrites(around(SizedBlock()), FOLDS, times=1)
    check_equivalent(fast, saved_and_loaded(fast, tmp_path))


@keras.saving.register_keras_serializable("test_trace")
class TiledBlock(Block):
    """Gives `tile` a number of numpy's: an operation that Keras can't write to a file."""

    def call(self, x):
        return ops.tile(super().call(x), (1, 1, 1, np.int64(1)))


@keras.saving.register_keras_serializable("test_trace")
class Around(OfUnits):
    def made(self, inputs, units):
        x = BatchNormalization(name="bn")(Conv2D(units, 3, padding="same")(inputs))
        return TiledBlock(units, name="block")(x)


def test_what_holds_a_block_that_can_not_be_laid_open_is_rewritten_all_the_same(tmp_path):
    model = randomize(Around(4))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    assert "Keras can load the TiledBlock, but not the Tile inside it" in report.notes[0]
    check_equivalent(model, saved_and_loaded(fast, tmp_path))


@keras.saving.register_keras_serializable("test_trace")
class Strict(Block):
    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.filters), x.dtype)


class Holder(keras.Model):
    def __init__(self):
        super().__init__()
        self.block, self.conv, self.bn = Strict(name="strict"), Conv2D(2, 1), BatchNormalization()

    def call(self, x, training=None):
        return self.bn(self.conv(self.block(x, training=training)), training=training)


def test_a_layer_that_says_what_it_returns_without_training_is_copied():
    model = Holder()
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    model(data)
    fast = kito.optimize(randomize(model), ["identities"])
    assert type(fast.get_layer("strict")) is Strict
    expected, answer = (to_numpy(each(data, training=False)) for each in (model, fast))
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


def test_lays_open_what_can_not_be_loaded_if_nobody_will():
    model = around(SwishBlock(name="block"))
    fast = kito.optimize(randomize(model), FOLDS, savable=False)
    check_equivalent(model, fast)
    assert not count(fast, BatchNormalization)


def test_lays_open_a_block_that_can_not_be_loaded_either():
    class Unregistered(SwishBlock):
        pass

    check_rewrites(around(Unregistered()), FOLDS, times=1)


@keras.saving.register_keras_serializable("test_trace")
class SwishNetwork(OfUnits):
    def made(self, inputs, units):
        x = BatchNormalization()(Conv2D(units, 3, padding="same")(inputs))
        return self.last()(x)

    def last(self):
        return Swish(name="last")


@keras.saving.register_keras_serializable("test_trace")
class WrittenSwish(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.bn, self.swish = Conv2D(4, 3), BatchNormalization(), Swish()

    def call(self, x):
        return self.swish(self.bn(self.conv(x)))


@pytest.mark.parametrize("cls", [SwishNetwork, WrittenSwish])
def test_declines_to_take_apart_a_model_whose_layers_can_not_be_loaded(cls, tmp_path):
    model = cls()
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    model(data)
    fast = kept_whole(model, f"Keras can load the {cls.__name__}, but not the Swish inside")
    assert type(fast) is cls
    loaded = saved_and_loaded(fast, tmp_path)
    assert np.array_equal(loaded.predict_on_batch(data), model.predict_on_batch(data))


class Halves(keras.Initializer):
    """Nobody registered it."""

    def __call__(self, shape, dtype=None):
        return ops.ones(shape, dtype) / 2


class Penalty(keras.Regularizer):
    """It can't be saved."""

    def __call__(self, x):
        return ops.sum(x)


class Cell(layers.SimpleRNNCell):
    """Nobody registered it."""


def third(x):
    return ops.tanh(x) / 3


@keras.saving.register_keras_serializable("test_trace")
class Made(layers.Layer):
    """Its configuration has an initializer."""

    def __init__(self, initializer, **options):
        super().__init__(**options)
        self.initializer = keras.initializers.get(initializer)

    def build(self, shape):
        self.shift = self.add_weight(shape=shape[-1:], initializer=self.initializer)

    def call(self, x):
        return x + self.shift

    def get_config(self):
        given = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "initializer": given}


HELD = {
    "an initializer of a user's layer": lambda: Made(Halves()),
    "a step": lambda: layers.TimeDistributed(Swish()),
    "an activation of a step": lambda: layers.TimeDistributed(Dense(4, activation=third)),
    "an activation": lambda: layers.LSTM(4, activation=third, return_sequences=True),
    "a layer as an activation": lambda: Dense(4, activation=TanhTwice()),
    "a cell": lambda: layers.RNN(Cell(4), return_sequences=True),
    "one of two cells": lambda: layers.RNN([layers.GRUCell(4), Cell(4)], return_sequences=True),
    "an initializer": lambda: Dense(4, kernel_initializer=Halves()),
    "a regularizer": lambda: Dense(4, kernel_regularizer=Penalty()),
}


@keras.saving.register_keras_serializable("test_trace")
class Taught(layers.Layer):
    """It can be loaded, but not all that it holds."""

    def __init__(self, kind="a step", **options):
        super().__init__(**options)
        self.kind, self.dense, self.bn = kind, Dense(4), BatchNormalization()
        self.last = HELD[kind]()

    def build(self, shape):
        self.dense.build(shape)
        self.bn.build((*shape[:-1], 4))
        self.last.build((*shape[:-1], 4))

    def call(self, x):
        return self.last(ops.relu(self.bn(self.dense(x))))

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


@pytest.mark.parametrize("kind", HELD)
def test_declines_to_lay_open_what_holds_what_can_not_be_loaded(kind, tmp_path):
    model = around(Taught(kind), shape=(5, 3))
    fast = kept_whole(model, "Keras can load the Taught, but not the ")
    check_equivalent(model, saved_and_loaded(fast, tmp_path))


@keras.saving.register_keras_serializable("test_trace")
class Tupled(layers.Layer):
    """Its `build` takes tuples only; in a file, shapes are lists."""

    def __init__(self, only=True, **options):
        super().__init__(**options)
        self.only = only

    def build(self, shape):
        shape = shape if self.only else tuple(shape)
        self.scale = self.add_weight(shape=shape[1:-1] + (1,))  # noqa: RUF005

    def call(self, x):
        return x * self.scale

    def get_config(self):
        return {**super().get_config(), "only": self.only}


@keras.saving.register_keras_serializable("test_trace")
class TupledBlock(Block):
    def __init__(self, filters=4, **options):
        super().__init__(filters, **options)
        self.listed, self.tupled = Tupled(only=False), Tupled()

    def build(self, shape):
        super().build(shape)
        self.listed.build(tuple(shape))
        self.tupled.build(tuple(shape))

    def call(self, x):
        return self.tupled(self.listed(super().call(x)))


def test_declines_to_lay_open_what_is_built_of_tuples_only(tmp_path):
    model = around(TupledBlock(name="block"))
    fast = kept_whole(model, "Keras can load the TupledBlock, but not the Tupled inside it")
    check_equivalent(model, saved_and_loaded(fast, tmp_path))


def test_declines_a_block_that_adds_a_loss():
    class Penalized(Block):
        def call(self, x):
            y = super().call(x)
            self.add_loss(ops.mean(y))
            return y

    kept_whole(around(Penalized()), "its call adds a loss")


def test_a_nested_model_whose_layers_can_not_be_loaded_is_kept_alone(tmp_path):
    inputs = keras.Input(SHAPE)
    x = BatchNormalization()(Conv2D(3, 3, padding="same")(inputs))
    model = keras.Model(inputs, SwishNetwork(name="network")(x))
    fast = check_rewrites(model, FOLDS, times=1)
    assert type(fast.get_layer("network")) is SwishNetwork
    assert fast.get_layer("network") is not model.get_layer("network")
    check_equivalent(model, saved_and_loaded(fast, tmp_path))


@keras.saving.register_keras_serializable("test_trace")
class Halved(Block):
    """Its configuration lacks the factor, its `build` takes tuples, and no rule applies to it."""

    def __init__(self, filters=4, factor=1.0, **options):
        super().__init__(filters, **options)
        self.factor = factor

    def build(self, shape):
        super().build(shape[:-1] + (self.filters,))  # noqa: RUF005

    def call(self, x):
        return self.bn(ops.relu(self.conv(x))) * self.factor


@keras.saving.register_keras_serializable("test_trace")
class HalvedNetwork(SwishNetwork):
    def last(self):
        return Halved(factor=0.5, name="last")


def test_what_can_not_be_copied_need_not_be_loaded(tmp_path):
    """What stands inside takes its place."""
    fast = check_rewrites(HalvedNetwork(), FOLDS, times=1)
    assert type(fast.get_layer("last")) is type(fast)
    check_equivalent(fast, saved_and_loaded(fast, tmp_path))


def test_a_model_of_which_nothing_can_be_loaded_is_taken_apart():
    class Unregistered(SwishNetwork):
        pass

    check_rewrites(Unregistered(), FOLDS, times=1)


def test_an_unfaithful_block_inside_a_faithful_one():
    @keras.saving.register_keras_serializable("test_trace")
    class Pair(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.good, self.bad = Block(4, name="good"), EagerBlock(4, name="bad")

        def build(self, shape):
            self.good.build(shape)
            self.bad.build((*shape[:-1], 4))

        def call(self, x):
            return self.bad(self.good(x))

    keras.saving.register_keras_serializable("test_trace")(EagerBlock)
    report = kito.Report()
    model = randomize(around(Pair(name="pair")))
    fast = kito.optimize(model, FOLDS, report=report)
    assert [applied.path for applied in report.applied] == [("pair", "good")]
    assert [note for note in report.notes if note.startswith("bad (EagerBlock) is kept whole")]
    check_equivalent(model, fast)


def test_rewrites_nothing_where_a_shape_is_inferred_wrongly():
    """As Keras does on TensorFlow for a TimeDistributed in a composite, with a fixed batch."""

    @keras.saving.register_keras_serializable("test_trace")
    class Wrong(Block):
        def compute_output_shape(self, shape):
            return (shape[0], 8, *shape[2:-1], self.filters)

    inputs = keras.Input((None, 8, 3))
    first = Wrong(name="first")
    x = layers.Add()([first(inputs), first(inputs)])
    x = keras.Sequential([Conv2D(2, 1), BatchNormalization()])(Block(name="second")(x))
    model = keras.Model(inputs, x)
    fast = kept_whole(model, "Keras infers the shape (None, 8, 8, 4), its call gives (2, 16, 8, 4)")
    data = np.ones((2, 12, 8, 3), "float32")
    assert np.allclose(fast.predict_on_batch(data), model.predict_on_batch(data))


class Marked(layers.Layer):
    """One that can't be copied, for it has something that its configuration does not carry."""

    def __init__(self, fold=True, **options):
        super().__init__(**options)
        self.fold = fold
        self.conv, self.bn = Conv2D(3, 3, padding="same"), BatchNormalization()
        self.note = "set later"

    def build(self, shape):
        self.conv.build(shape)
        self.bn.build(shape)

    def call(self, x):
        x = self.conv(x)
        return self.bn(x if self.fold else ops.relu(x))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "fold": self.fold}

    @classmethod
    def from_config(cls, config):
        made = cls(**config)
        made.note = None
        return made


class Holding(layers.Layer):
    def __init__(self, inside, **options):
        super().__init__(**options)
        self.inside = inside

    def build(self, shape):
        if not self.inside.built:
            self.inside.build(shape)

    def call(self, x):
        return ops.relu(self.inside(x))

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize("fold", [False, True])
def test_blocks_with_one_in_common_that_is_called_as_another_layer(fold):
    inside = Marked(fold, name="stem")
    model = around(Conv2D(3, 1, name="first"), Holding(inside, name="head"))
    model = keras.Model(model.inputs, Holding(inside, name="stem")(model.output))
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, [*FOLDS, "lone_batchnorm"], report=report)
    check_equivalent(model, fast)
    assert not report.faults
    assert report.applied


class Calling(Block):
    def __call__(self, x, **options):
        return super().__call__(x, **options) * 2


def test_a_call_around_the_call_is_kept():
    model = around(Calling(name="block"))
    fast = kept_whole(model, "it has a `__call__` of its own")
    assert isinstance(fast.get_layer("block"), Calling)
    check_equivalent(model, fast)


def test_a_call_around_the_call_of_what_is_rewritten():
    class Doubling(layers.Dense):
        def __call__(self, x, **options):
            return super().__call__(x * 2, **options)

    inputs = keras.Input(SHAPE)
    x = BatchNormalization()(Conv2D(3, 1)(Doubling(3)(inputs)))
    check_rewrites(keras.Model(inputs, x), FOLDS, times=1)


class Idle(layers.Layer):
    """It has nothing but rewrites that are no reason to take it apart."""

    def __init__(self, note=None, **options):
        super().__init__(**options)
        self.dense, self.bn, self.note = Dense(3), BatchNormalization(), note

    def build(self, shape):
        self.dense.build(shape)
        self.bn.build(shape)

    def call(self, x):
        return self.dense(ops.tanh(self.bn(x * 0.5 + 1.0)))

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize("note", [None, "not in the configuration"])
def test_what_can_not_be_copied_is_taken_apart_at_once(note):
    """So that nothing is left for a second run."""
    idle = Idle(name="idle")
    idle.note = note
    model = randomize(around(idle, layers.ReLU(), shape=(3,)))
    report = kito.Report()
    fast = kito.optimize(model, [*FOLDS, "affine_affine"], report=report)
    check_equivalent(model, fast)
    assert bool(report.applied) == (note is not None)
    assert isinstance(fast.get_layer("idle"), Idle) == (note is None)
    assert not kito.explain(fast, [*FOLDS, "affine_affine"]).applied


@keras.saving.register_keras_serializable("test_trace")
class Picture(OfUnits):
    def made(self, inputs, units):
        return layers.GlobalAveragePooling2D()(layers.ReLU()(Conv2D(units, 3)(inputs)))


def test_a_model_with_a_class_of_its_own_in_a_wrapper_is_copied():
    model = around(
        layers.TimeDistributed(Picture(name="picture"), name="frames"), shape=(5, *SHAPE)
    )
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    check_equivalent(model, fast)
    assert not report.notes
    assert not {id(each) for each in model.variables} & {id(each) for each in fast.variables}


@keras.saving.register_keras_serializable("test_trace")
class ForLarge(layers.Layer):
    """It has a layer that it needs, and builds, for large pictures only."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.bn = Conv2D(4, 3, padding="same"), BatchNormalization()
        self.large = Conv2D(4, 5, padding="same")

    def call(self, x):
        x = self.bn(self.conv(x))
        return self.large(x) if (x.shape[1] or 0) > 100 else x


@pytest.mark.skipif(BACKEND == "jax", reason="there Keras does not compare a size it doesn't know")
@pytest.mark.filterwarnings("ignore:`build.*was called on layer 'block':UserWarning")
def test_what_a_trace_builds_it_takes_back():
    model = around(ForLarge(name="block"), shape=(None, None, 3))
    names = [variable.path for variable in model.variables]
    kept_whole(model, "its call does otherwise where a size is")
    assert [variable.path for variable in model.variables] == names
    assert not model.get_layer("block").large.built
    model(np.ones((1, 101, 8, 3)))  # which builds it
    assert len(model.variables) == len(names) + 2


@keras.saving.register_keras_serializable("test_trace")
class Doubled(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 2.0 * super().call(inputs, training=training)


def test_a_sequential_with_a_call_of_its_own_has_the_names_and_dtypes_of_its_inputs():
    inputs = keras.Input(SHAPE, name="picture", dtype="uint8")
    model = Doubled([inputs, layers.Rescaling(1 / 255), Conv2D(4, 3), BatchNormalization()])
    fast = kito.optimize(randomize(model), FOLDS)
    pictures = np.random.default_rng(0).integers(0, 255, (2, *SHAPE), "uint8")
    assert kito.compare(model, fast, pictures).relative < 1e-6
    assert not count(fast, BatchNormalization)
    [given] = fast.inputs
    assert (given.name, given.dtype) == ("picture", "uint8")
    assert given.shape == (None, None, None, 3)  # as a Sequential runs on any
