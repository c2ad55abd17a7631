"""The sizes that a call reads, and what it compares them with."""

import copy
import enum
import fractions
import functools
import json
import math
import operator

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D
from keras.ops import shape as size_of

import kito
from kito.graph.ir import Tensor
from kito.graph.record import BATCH_SIZE, record
from kito.graph.size_reads import Reads
from kito.graph.sizes import ODD
from kito.graph.trace import trace
from kito.testing import check_rewrites, randomize
from tests.folds import FOLDS
from tests.graph.helpers import added_or_pooled


class Sizes(enum.IntEnum):
    SMALL = 13


class Options:
    size = 13


@functools.cache
def is_small(size):
    return size == 13


class Block(layers.Layer):
    """A convolution with its normalization, and what a function makes of a size and the result."""

    def __init__(self, function=None, **options):
        super().__init__(**options)
        self.function = function
        self.conv, self.bn = Conv2D(4, 3, padding="same"), BatchNormalization()
        self.half = 26

    def build(self, shape):
        first = shape[0] if isinstance(shape[0], tuple | list) else shape
        self.conv.build(first)
        self.bn.build((*first[:-1], 4))

    def call(self, x):
        y = self.bn(self.conv(x))
        return y * 2.0 if self.function and self.function(self, x) else y

    def compute_output_shape(self, shape):
        first = shape[0] if isinstance(shape[0], tuple | list) else shape
        return (*first[:-1], 4)


def reads(function, sizes=(None, None), size=None, batch=None):
    """What a block reads with unknown sizes, and then with a number in their place."""
    block = Block(function)
    block.build((None, None, None, 3))
    before, found = Reads(), Reads()
    record(block, (Tensor((None, *sizes, 3), "float32"),), {}, before)
    if size is not None:
        found = Reads(size, tuple(before.shapes))
        known = tuple(size if each is None else each for each in sizes) if batch is None else sizes
        record(block, (Tensor((batch, *known, 3), "float32"),), {}, found)
    return before if size is None else found


def kept_whole(block, reason, shape=(None, None, 3)):
    """Assert that nothing is rewritten in a block, and that the report says why."""
    inputs = keras.Input(shape)
    report = kito.Report()
    kito.optimize(randomize(keras.Model(inputs, block(inputs))), FOLDS, report=report)
    assert not report.applied
    assert reason in report.notes[0]


def test_keras_itself_does_not_count():
    assert reads(None).shapes == []


@pytest.mark.parametrize(
    "read",
    [
        lambda block, x: x.shape and False,
        lambda block, x: ops.shape(x) and False,
        lambda block, x: keras.tree.map_structure(lambda leaf: leaf.shape, [x]) and False,
    ],
)
def test_a_shape_is_read(read):
    assert set(reads(read).shapes) == {(None, None, None, 3)}


def test_what_a_layer_inside_reads_is_its_own():
    inside = Block(lambda block, x: x.shape[1] == 13)
    inside.build((None, None, None, 3))
    assert reads(lambda block, x: inside(x) is None).shapes == []


class Untold(layers.Layer):
    """Keras runs it to find out what it returns."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inside = layers.ReLU()

    def call(self, x):
        return self.inside(x) if ops.shape(x)[1] != 13 else x


def test_what_is_run_to_infer_its_outputs_reads_for_itself():
    untold = Untold()
    untold.build((None, None, None, 3))
    block = Block(lambda block, x: block.untold(x) is None)
    block.untold = untold
    block.build((None, None, None, 3))
    args = (Tensor((None, None, None, 3), "float32"),)
    with trace(block, args, {}, {}) as (_, found):
        assert found.shapes == []


# Each branches at a size of 13.
COMPARISONS = {
    "equal": lambda block, x: x.shape[1] == 13,
    "by another name": lambda block, x: size_of(x)[2] == 13,
    "an attribute": lambda block, x: x.shape[1] == block.half // 2,
    "a class": lambda block, x: x.shape[1] == Options.size,
    "an enumeration": lambda block, x: x.shape[1] == Sizes.SMALL,
    "one of several": lambda block, x: x.shape[1] in (5, 13),
    "a number of numpy": lambda block, x: x.shape[1] == np.int64(13),
    "a sum with one": lambda block, x: x.shape[1] and x.shape[1] + np.int64(2) == 15,
    "a float": lambda block, x: x.shape[1] is not None and x.shape[1] < 13.5,
    "a difference": lambda block, x: x.shape[1] is not None and not x.shape[1] - 13,
    "another difference": lambda block, x: x.shape[1] is not None and 20 - x.shape[1] == 7,
    "a sum": lambda block, x: x.shape[1] is not None and x.shape[1] + 7 == 20,
    "a multiple": lambda block, x: x.shape[1] is not None and 2 * x.shape[1] == 26,
    "a half": lambda block, x: x.shape[1] is not None and x.shape[1] // 2 == 6,
    "a remainder": lambda block, x: x.shape[1] is not None and x.shape[1] % 10 == 3,
    "no remainder": lambda block, x: x.shape[1] is not None and not x.shape[1] % 13,
    "inside": lambda block, x: layers.MaxPooling2D(2)(x).shape[1] == 6,
    "of several sizes": lambda block, x: np.array_equal(x.shape[1:3], (13, 13)),
    "the larger one": lambda block, x: None not in x.shape[1:3] and max(x.shape[1:3]) == 13,
    "a copy": lambda block, x: copy.deepcopy(x.shape)[1] == 13,
    "by its kind": lambda block, x: isinstance(x.shape[1], int) and x.shape[1] == 13,
    "asked of a layer": lambda block, x: layers.ReLU().compute_output_shape(x.shape)[1] == 13,
    "inside, larger": lambda block, x: layers.UpSampling2D(2)(x).shape[1] == 26,
}


@pytest.mark.parametrize("function", COMPARISONS.values(), ids=COMPARISONS)
def test_the_size_at_which_a_call_branches_is_found(function):
    found = reads(function, size=ODD)
    assert 13 in found.compared
    assert not found.uses
    kept_whole(Block(function), "its call does otherwise where a size is")


UNCLEAR = {
    "looks up": lambda block, x: {13: True}.get(x.shape[1], False),
    "remembers": lambda block, x: is_small(x.shape[1]),
    "names": lambda block, x: f"{x.shape[1]}" == "13",
    "divides": lambda block, x: x.shape[1] is not None and math.ceil(x.shape[1] / 2) == 7,
    "rounds up": lambda block, x: x.shape[1] is not None and math.ceil(x.shape[1]) == 13,
    "writes a shape": lambda block, x: "13" in str(x.shape),
    "takes a fraction": lambda block, x: x.shape[1] is not None and x.shape[1] * 0.5 == 6.5,
    "converts": lambda block, x: x.shape[1] is not None and int(x.shape[1]) == 13,
    "multiplies two": lambda block, x: x.shape[1] and x.shape[2] and x.shape[1] * x.shape[2] == 169,
    **{
        name: lambda block, x, use=use: x.shape[1] is not None and use(x.shape[1])
        for name, use in {
            "writes": lambda size: "%d" % size == "13",  # noqa: UP031 (that is what is tested)
            "indexes": lambda size: ([0] * 13 + [1] + [0] * ODD)[size],
            "repeats": lambda size: len([0] * size) == 13,
            "counts": lambda size: len(range(size)) == 13,
            "takes its index": lambda size: operator.index(size) == 13,
            "keeps": lambda size: +size == 13,
            "inverts": lambda size: ~size == -14,
            "is a power": lambda size: 2**size == 2**13,
            "is divided": lambda size: divmod(26, size) == (2, 0),
            "takes its real part": lambda size: size.real == 13,
            "counts its bits": lambda size: size.bit_length() == 4,
            "makes a fraction": lambda size: fractions.Fraction(size, 13) == 1,
            "asks a convolution": lambda size: (
                Conv2D(4, 3).compute_output_shape((1, size, size, 3))[1] == 11
            ),
            "makes an array": lambda size: np.zeros(size).size == 13,
            "compares an array": lambda size: (size == np.array([13])).all(),
        }.items()
    },
    "multiplies with numpy": lambda block, x: (
        None not in x.shape[1:3] and np.prod(x.shape[1:3]) == 169
    ),
}


@pytest.mark.parametrize("function", UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_unclear_is_noted(function):
    assert reads(function, size=ODD).uses
    kept_whole(Block(function), "may be another at another size")


@pytest.mark.parametrize(
    "use",
    [
        lambda block, size: json.dumps(size) == "13",
        pytest.param(
            lambda block, size: ops.zeros(size).shape[0] == 13,
            marks=pytest.mark.skipif(
                keras.backend.backend() == "torch",
                reason="PyTorch takes the number of the size, and the comparison is not seen",
            ),
        ),
    ],
    ids=["json", "an operation"],
)
def test_what_takes_only_integers_keeps_a_layer_whole(use):
    def function(block, x):
        return x.shape[1] is not None and use(block, x.shape[1])

    kept_whole(Block(function), "may be another at another size")


@pytest.mark.parametrize(
    "function",
    [
        lambda block, x: {3: True}.get(x.shape[-1]),
        lambda block, x: f"{x.shape[3]}" == "3",
        lambda block, x: int(x.shape[-1]) == 13,
    ],
)
def test_sizes_that_are_known_are_plain_numbers(function):
    found = reads(function, size=ODD)
    assert not found.uses
    assert not found.compared
    block = Block(function)
    inputs = keras.Input((None, None, 3))
    check_rewrites(randomize(keras.Model(inputs, block(inputs))), FOLDS, times=1)


def test_a_batch_is_found():
    def function(block, x):
        return ops.shape(x)[0] is not None and ops.shape(x)[0] % 4 == 0

    assert {4, 5} <= reads(function, (8, 8), BATCH_SIZE, BATCH_SIZE).compared
    kept_whole(Block(function), "its call does otherwise with a batch of 4", (8, 8, 3))


def test_many_comparisons_keep_a_layer_whole():
    def function(block, x):
        return any(x.shape[1] == 7 * number for number in range(1, 60))

    kept_whole(Block(function), "compares sizes with more than 64 numbers")


@pytest.mark.parametrize(
    "function",
    [
        lambda block, x: None not in x.shape[1:3] and x.shape[1] > x.shape[2],
        lambda block, x: None not in x.shape[1:3] and x.shape[2] >= 2 * x.shape[1],
        lambda block, x: None not in x.shape[1:3] and x.shape[1] < x.shape[2] < 2 * x.shape[1],
    ],
)
def test_one_axis_is_longer_than_another(function):
    kept_whole(Block(function), "does otherwise where sizes are not equal")


@pytest.mark.parametrize(
    "function",
    [
        lambda x, at_13: ops.roll(x, np.int64(3 if at_13 else 1), axis=1),
        lambda x, at_13: ops.clip(x, -1.0, np.float32(0.1 if at_13 else 1.0)),
        lambda x, at_13: ops.clip(x, np.full(4, -0.1 if at_13 else -1.0), np.ones(4)),
    ],
)
def test_settings_of_operations_are_compared(function):
    """Of operations with numbers of numpy Keras has no configuration."""

    class Setting(Block):
        def call(self, x):
            return function(super().call(x), x.shape[1] == 13)

    kept_whole(Setting(), "its call does otherwise where a size is 13")


class Patient(Block):
    """It does something else where an operation fails, in a function of another module."""

    def call(self, inputs):
        return super().call(added_or_pooled(*inputs))


def test_a_call_that_catches_errors():
    one, other = keras.Input((None, None, 3)), keras.Input((None, None, 3))
    model = randomize(keras.Model([one, other], Patient()([one, other])))
    report = kito.Report()
    kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert "does otherwise where sizes are not equal" in report.notes[0]


def test_the_class_is_as_it_was():
    before = vars(keras.KerasTensor)["shape"]
    with pytest.raises(TypeError):
        reads(lambda block, x: x.shape[1] > 0)
    assert vars(keras.KerasTensor)["shape"] is before


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="functions of TensorFlow")
@pytest.mark.parametrize("read", ["shape", "get_shape"])
def test_sizes_are_read_with_tensorflow(read):
    import tensorflow as tf

    def function(block, x):
        size = tf.shape(x)[1] if read == "shape" else x.get_shape().as_list()[1]
        return size is not None and size == 13

    assert 13 in reads(function, size=ODD).compared
