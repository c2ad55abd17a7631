"""Which calls read the size of a tensor: only these are recorded with many sizes."""

from unittest.mock import patch

import keras
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D

import kito
from kito.graph import sizes
from kito.graph.record import record
from kito.graph.size_reads import sizes_read
from kito.testing import check_rewrites, randomize
from tests.folds import FOLDS


def helper(x):
    return ops.shape(x)


class Block(layers.Layer):
    """A convolution, and what a subclass does with the result."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv = Conv2D(4, 3, padding="same")
        self.bn = BatchNormalization()
        self.after = keras.Sequential([layers.ReLU(), layers.Conv2D(4, 1)])

    def build(self, shape):
        self.conv.build(shape)
        self.bn.build((*shape[:-1], 4))
        self.after.build((*shape[:-1], 4))

    def call(self, x):
        x = self.bn(self.conv(x))
        return ops.relu(self.after(x)) + ops.mean(x, axis=(1, 2), keepdims=True)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


class ShapeBlock(Block):
    def call(self, x):
        x.shape  # noqa: B018
        return super().call(x)


class OpsBlock(Block):
    def call(self, x):
        ops.shape(x)
        return super().call(x)


class HelperBlock(Block):
    def call(self, x):
        helper(x)
        return super().call(x)


class InsideBlock(Block):
    """What is read where the function that reads is an argument of one of Keras'."""

    def call(self, x):
        keras.tree.map_structure(lambda leaf: leaf.shape, [x])
        return super().call(x)


class PatientBlock(Block):
    """It tries what some sizes do not allow."""

    def call(self, inputs):
        x, other = inputs
        try:
            x = x + other
        except Exception:
            x = x + ops.mean(other, axis=(1, 2), keepdims=True)
        return super().call(x)

    def build(self, shapes):
        super().build(shapes[0])

    def compute_output_shape(self, shapes):
        return super().compute_output_shape(shapes[0])


def built(cls):
    block = cls()
    inputs = keras.Input((None, None, 3))
    return block, keras.Model(inputs, block(inputs))


def readers(block):
    tensor = kito.graph.ir.Tensor((None, None, None, 3), "float32")
    with sizes_read() as found:
        record(block, (tensor,), {})
    return found


def test_keras_itself_does_not_count():
    assert readers(built(Block)[0]) == []


@pytest.mark.parametrize(
    ("cls", "reader"),
    [
        (ShapeBlock, "ShapeBlock.call"),
        (OpsBlock, "OpsBlock.call"),
        (HelperBlock, "helper"),
        (InsideBlock, "InsideBlock.call.<locals>.<lambda>"),
    ],
)
def test_a_size_is_read(cls, reader):
    assert set(readers(built(cls)[0])) == {reader}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="functions of TensorFlow")
@pytest.mark.parametrize("function", ["shape", "get_shape"])
def test_a_size_is_read_with_tensorflow(function):
    import tensorflow as tf

    class TensorFlowBlock(Block):
        def call(self, x):
            (x.get_shape if function == "get_shape" else lambda: getattr(tf, function)(x))()
            return super().call(x)

    assert readers(built(TensorFlowBlock)[0])


def test_the_class_is_as_it_was():
    before = vars(keras.KerasTensor)["shape"]
    with pytest.raises(KeyError), sizes_read():
        raise KeyError
    assert vars(keras.KerasTensor)["shape"] is before


@pytest.mark.parametrize(("cls", "times"), [(Block, 1), (ShapeBlock, 4)])
def test_what_reads_no_size_is_recorded_once_more(cls, times):
    model = randomize(built(cls)[1])
    with patch.object(sizes, "record", wraps=sizes.record) as recorded:
        kito.explain(model, FOLDS)
    assert recorded.call_count == times
    check_rewrites(model, FOLDS, times=1)


def test_a_call_that_catches_errors_is_recorded_with_many_sizes():
    one, other = keras.Input((None, None, 3)), keras.Input((None, None, 3))
    model = randomize(keras.Model([one, other], PatientBlock()([one, other])))
    report = kito.Report()
    kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert any("does otherwise where sizes are not equal" in note for note in report.notes)
