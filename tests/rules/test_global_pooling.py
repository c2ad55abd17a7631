"""Global pooling -> Reshape."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Masking,
    Multiply,
    ReLU,
    Reshape,
)

from kito import explain
from kito.rules.global_pooling import POOLING, global_pooling_reshape
from kito.testing import TOLERANCES, check_declines, check_rewrites

RULES = [global_pooling_reshape]
FLOAT64 = max(1e-10, TOLERANCES["float64"])
FIRST = {"data_format": "channels_first"}


def model_of(*row, shape=(5, 4, 3), **inputs):
    return keras.Sequential([keras.Input(shape, **inputs), *row])


@pytest.mark.parametrize("cls", POOLING)
def test_keeps_the_axes(cls):
    keras.config.set_dtype_policy("float64")
    dimensions = POOLING[cls]
    model = model_of(
        cls(), Reshape((*[1] * dimensions, 3), name="reshape"), shape=(*[5] * dimensions, 3)
    )
    (layer,) = check_rewrites(model, RULES, times=1, tolerance=FLOAT64).layers
    assert (type(layer), layer.name, layer.keepdims) == (cls, "reshape", True)


@pytest.mark.parametrize("cls", [GlobalAveragePooling2D, GlobalMaxPooling2D])
def test_keeps_the_axes_channels_first(cls):
    check_rewrites(model_of(cls(**FIRST), Reshape((5, 1, 1))), RULES, times=1)


@pytest.mark.parametrize("shape", [(5, 4, 3), (None, None, 3), (5, 4, None)])
def test_keeps_the_axes_whatever_is_known(shape):
    model = model_of(GlobalAveragePooling2D(), Reshape((1, 1, -1)), shape=shape)
    fast = check_rewrites(model, RULES, times=1)
    assert fast.output_shape == (None, 1, 1, shape[-1])


def test_keeps_the_axes_of_a_batch_of_a_fixed_size():
    model = model_of(
        GlobalAveragePooling2D(), Reshape((1, 1, 3)), shape=None, batch_shape=(2, 5, 4, 3)
    )
    assert check_rewrites(model, RULES, times=1).output_shape == (2, 1, 1, 3)


def test_squeeze_and_excite():
    x = keras.Input((5, 4, 3))
    squeezed = Reshape((1, 1, 3))(GlobalAveragePooling2D()(x))
    gate = keras.layers.Conv2D(3, 1, activation="sigmoid")(squeezed)
    check_rewrites(keras.Model(x, Multiply()([x, gate])), RULES, times=1)


def test_averages_what_a_mask_leaves():
    model = model_of(Masking(), GlobalAveragePooling1D(), Reshape((1, 3)), shape=(5, 3))
    check_rewrites(model, RULES, times=1)


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    channels=st.integers(1, 3),
    maximum=st.booleans(),
    seed=st.integers(0, 99),
)
def test_keeps_the_axes_of_any_shape(sizes, channels, maximum, seed):
    keras.config.set_dtype_policy("float64")
    cls = [cls for cls, dimensions in POOLING.items() if dimensions == len(sizes)][maximum]
    model = model_of(cls(), Reshape((*[1] * len(sizes), channels)), shape=(*sizes, channels))
    check_rewrites(model, RULES, times=1, tolerance=FLOAT64, seed=seed)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1, 1), (1, 3, 1), (1, 1, 1, 3), (3,)])
def test_declines_another_shape(shape):
    model = model_of(GlobalAveragePooling2D(), Reshape(shape))
    check_declines(model, RULES, reason=", not (1, 1, 3)")


def test_declines_the_shape_of_the_other_data_format():
    model = model_of(GlobalAveragePooling2D(**FIRST), Reshape((1, 1, 5)))
    check_declines(model, RULES, reason="reshape makes (1, 1, 5), not (5, 1, 1)")


def test_declines_unknown_channels_in_another_place():
    model = model_of(GlobalAveragePooling1D(), Reshape((-1, 1)), shape=(5, None))
    check_declines(model, RULES, reason="reshape makes (None, 1), not (1, None)")


def test_declines_a_pooling_that_keeps_its_axes():
    model = model_of(GlobalAveragePooling2D(keepdims=True), Reshape((1, 1, 3)))
    check_declines(model, RULES, reason="keeps its axes already")


def test_declines_a_change_of_dtype():
    model = model_of(GlobalAveragePooling2D(), Reshape((1, 1, 3), dtype="float16"))
    check_declines(model, RULES, reason="reshape turns float32 into float16")


def test_declines_a_pooling_that_something_else_reads():
    x = keras.Input((5, 4, 3))
    y = GlobalAveragePooling2D()(x)
    model = keras.Model(x, [Reshape((1, 1, 3))(y), ReLU()(y)])
    check_declines(model, RULES, reason="feeds re_lu as well as reshape")


def test_leaves_a_subclass():
    class Scaled(GlobalAveragePooling2D):
        def call(self, inputs):
            return super().call(inputs) * 2

    assert not explain(model_of(Scaled(), Reshape((1, 1, 3))), RULES).applied


def test_it_is_no_reason_to_open_a_layer():
    assert not global_pooling_reshape.opens
