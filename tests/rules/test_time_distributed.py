"""TimeDistributed(linear) -> BatchNormalization, inside or outside."""

import keras
import pytest
from keras.layers import (
    Activation,
    BatchNormalization,
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    SeparableConv2D,
    TimeDistributed,
)

from kito.definition import chain, rule
from kito.rules.time_distributed import time_distributed_batchnorm
from kito.testing import check_declines, check_rewrites

RULES = [time_distributed_batchnorm]
IMAGES = (3, 8, 7, 4)


def model_of(linear, bn, shape=IMAGES):
    return keras.Sequential([keras.Input(shape), TimeDistributed(linear), bn])


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    "linear",
    [
        lambda: Conv2D(5, 3, use_bias=False),
        lambda: Conv2DTranspose(4, 3),
        lambda: DepthwiseConv2D(3, depth_multiplier=2),
        lambda: SeparableConv2D(5, 3),
        lambda: Dense(5),
    ],
)
def test_folds(linear, wrapped):
    bn = TimeDistributed(BatchNormalization()) if wrapped else BatchNormalization()
    fast = check_rewrites(model_of(linear(), bn), RULES, times=1)
    assert isinstance(fast.layers[0], TimeDistributed)


def test_folds_sequences_of_unknown_length():
    model = model_of(Conv1D(4, 3), BatchNormalization(), (None, 9, 3))
    check_rewrites(model, RULES, times=1)


def test_folds_two_in_a_row():
    layers = [
        TimeDistributed(Dense(4)),
        BatchNormalization(),
        TimeDistributed(BatchNormalization()),
    ]
    check_rewrites(keras.Sequential([keras.Input((3, 4)), *layers]), RULES, times=2)


def test_optimizes_a_model_inside():
    inner = keras.Sequential([keras.Input((8, 7, 4)), Conv2D(3, 3), BatchNormalization()])
    model = keras.Sequential([keras.Input(IMAGES), TimeDistributed(inner, name="steps")])
    fast = check_rewrites(model, times=1)
    assert fast.get_layer("steps").count_params() == model.count_params() - 12


def test_declines_a_layer_that_is_not_linear():
    model = model_of(Activation("relu"), BatchNormalization())
    check_declines(model, RULES, reason="wraps a Activation")


def test_declines_an_activation_in_between():
    model = model_of(Conv2D(4, 3, activation="relu"), BatchNormalization())
    check_declines(model, RULES, reason="applies its activation")


def test_declines_the_axis_of_the_steps():
    model = model_of(Dense(3), BatchNormalization(axis=1), (3, 3))
    check_declines(model, RULES, reason="tells the steps apart")


def test_declines_another_axis():
    model = model_of(Conv2D(4, 3, padding="same"), BatchNormalization(axis=2), (3, 4, 4, 4))
    check_declines(model, RULES, reason="normalizes axis 1, the channels of conv2d are axis 3")


def test_declines_another_wrapped_layer():
    model = model_of(Dense(4), TimeDistributed(Dense(4)), (3, 4))
    check_declines(model, RULES, reason="wraps a Dense, not a BatchNormalization")


class Frozen(BatchNormalization):
    """As detectors have it: it never trains."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=False)


class Halved(BatchNormalization):
    def call(self, inputs, training=None):
        return super().call(inputs, training=training) / 2


class Named(Conv2D):
    """It has a setting of its own."""

    def __init__(self, *args, kind="plain", **options):
        super().__init__(*args, **options)
        self.kind = kind

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


def test_folds_subclasses_that_compute_the_same():
    model = model_of(Named(5, 3, name="conv"), TimeDistributed(Frozen()))
    fast = check_rewrites(model, RULES, times=1)
    assert type(fast.layers[0].layer) is Conv2D


def test_declines_a_subclass_that_computes_something_else():
    check_declines(
        model_of(Dense(5), TimeDistributed(Halved())), RULES, reason="wraps a Halved, not a Batch"
    )


def test_declines_a_subclass_for_which_a_rule_is_written():
    """A rule that names a class knows it better."""
    named = rule(chain(bn=Frozen), name="of_frozen")(lambda bn: bn.layer)
    model = model_of(Dense(5), TimeDistributed(Frozen()))
    check_declines(model, [*RULES, named], reason="wraps a Frozen, not a BatchNormalization")
