"""Dtype policies, quantized layers and LoRA."""

import keras
import numpy as np
import pytest
from keras.layers import BatchNormalization, Conv2D, Dense, Embedding

import kito
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

SHAPE = (8, 8, 3)


def model_of(*layers, shape=SHAPE):
    return keras.Sequential([keras.Input(shape), *layers])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"])
def test_policies(policy):
    keras.config.set_dtype_policy(policy)
    model = model_of(Conv2D(4, 3, use_bias=False), BatchNormalization(), Dense(3))
    fast = check_rewrites(model, FOLDS, times=1)
    assert fast.layers[0].dtype_policy.name == policy
    assert fast.layers[0].kernel.dtype == model.layers[0].kernel.dtype


def test_declines_a_normalization_in_float32_after_a_half_precision_layer():
    model = model_of(Conv2D(4, 3, dtype="mixed_float16"), BatchNormalization(dtype="float32"))
    check_declines(model, FOLDS, reason="turns float16 into float32")


@pytest.mark.parametrize("gamma", [1e-4, 1e4])
def test_declines_a_scale_that_float16_can_not_hold(gamma):
    keras.config.set_dtype_policy("mixed_float16")
    model = randomize(model_of(Conv2D(4, 3), BatchNormalization()))
    model.layers[1].gamma.assign([1.0, gamma, 1.0, 1.0])
    (declined,) = kito.explain(model, FOLDS).declined
    assert "could leave the range of float16" in declined.reason


def test_folds_a_channel_that_is_switched_off_in_float16():
    keras.config.set_dtype_policy("mixed_float16")
    model = randomize(model_of(Conv2D(4, 3), BatchNormalization()))
    model.layers[1].gamma.assign([1.0, 0.0, 1.0, 1.0])
    assert len(kito.explain(model, FOLDS).applied) == 1


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_declines_quantized_layers(mode):
    model = randomize(model_of(Dense(8), BatchNormalization(), shape=(16,)))
    model.layers[0].quantize(mode)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert f"is quantized ({mode})" in report.declined[0].reason
    data = np.random.default_rng(0).normal(size=(4, 16)).astype("float32")
    assert np.array_equal(model.predict_on_batch(data), fast.predict_on_batch(data))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of layers that Keras can't quantize
@pytest.mark.parametrize("config", [keras.quantizers.GPTQConfig, keras.quantizers.AWQConfig])
def test_declines_layers_that_were_quantized_for_their_data(config):
    inputs, embedding, dense = keras.Input((6,), dtype="int32"), Embedding(5, 8), Dense(8)
    model = keras.Model(inputs, BatchNormalization()(dense(embedding(inputs))))
    data = np.random.default_rng(0).integers(0, 5, (4, 6))
    structure = {"pre_block_layers": [embedding], "sequential_blocks": [dense]}
    settings = {"group_size": -1, "num_samples": 4, "sequence_length": 6}
    quantization = config(
        list(data[:, None]), lambda x: x, quantization_layer_structure=structure, **settings
    )
    randomize(model).quantize(quantization.mode, config=quantization)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert f"is quantized ({quantization.mode})" in report.declined[0].reason
    assert np.array_equal(model.predict_on_batch(data), fast.predict_on_batch(data))


@pytest.mark.parametrize(
    ("layer", "shape"), [(Dense(5), (6,)), (Conv2D(5, 3), SHAPE)], ids=["dense", "conv"]
)
def test_merges_lora(layer, shape):
    model = model_of(layer, BatchNormalization(), shape=shape)
    layer.enable_lora(2, lora_alpha=3)
    layer.bias.assign(np.ones(5))
    layer.lora_kernel_b.assign(np.random.default_rng(1).normal(size=layer.lora_kernel_b.shape))
    fast = check_rewrites(model, FOLDS, times=1)
    assert len(fast.weights) == 2
    assert not fast.layers[0].lora_enabled


def test_keeps_lora_where_nothing_is_folded():
    dense = Dense(5)
    model = model_of(dense, keras.layers.ReLU(), shape=(6,))
    dense.enable_lora(2)
    randomize(model)
    fast = kito.optimize(model, FOLDS)
    assert fast.layers[0].lora_enabled
    check_equivalent(model, fast)


def test_an_output_that_an_operation_gives_keeps_its_dtype():
    """An operation has no dtype of its own: it gives what the layers before it give."""
    inputs = keras.Input(SHAPE)
    inner = keras.layers.ReLU()(BatchNormalization()(Conv2D(4, 3)(inputs)))
    outer = keras.ops.relu(keras.ops.abs(Conv2D(4, 3, name="last")(inner)))
    model = randomize(keras.Model(inputs, outer))
    report = kito.Report()
    fast = kito.optimize(model, precision="bfloat16", report=report)
    assert keras.backend.standardize_dtype(fast.output.dtype) == "float32"
    assert fast.get_layer("last").compute_dtype == "float32"
    assert "bfloat16" in {layer.compute_dtype for layer in fast.layers}
    assert any("bfloat16" in note for note in report.notes)
