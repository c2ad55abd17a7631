"""LayerNormalization -> attention."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.layers import (
    Add,
    Dense,
    Embedding,
    GroupQueryAttention,
    LayerNormalization,
    MultiHeadAttention,
    ReLU,
)

from kito import compare, explain
from kito.definition import TARGETS
from kito.rules.layer_normalization_attention import layer_normalization_attention
from kito.testing import check_declines, check_rewrites

# Keras 3.15 on PyTorch gives a product of float64 matrices as float32.
FLOAT64 = "float32" if keras.backend.backend() == "torch" else "float64"
RULES = [layer_normalization_attention]


@pytest.fixture(autouse=True)
def precise(fresh_keras):
    keras.config.set_dtype_policy(FLOAT64)


def attention(**options):
    return MultiHeadAttention(2, 3, name="attention", **options)


def grouped(**options):
    return GroupQueryAttention(3, 4, 2, name="attention", **options)


def model_of(call, **norm):
    """What `call` makes of a normalized tensor and another one of the same shape."""
    inputs = keras.Input((6, 8), name="x"), keras.Input((6, 8), name="other")
    x = LayerNormalization(name="norm", **{"epsilon": 0.1, **norm})(inputs[0])
    return keras.Model(inputs, call(x, inputs[1]))


CALLS = {
    "self": lambda layer, x, other: layer(x, x),
    "keywords": lambda layer, x, other: layer(query=x, value=x),
    "key": lambda layer, x, other: layer(other, x, x),
    "key alone": lambda layer, x, other: layer(other, other, key=x),
    "no key": lambda layer, x, other: layer(query=other, key=None, value=x),
    "query": lambda layer, x, other: layer(x, other),
    "value": lambda layer, x, other: layer(x, value=x, key=other),
    "causal": lambda layer, x, other: layer(x, x, use_causal_mask=True),
    "mask": lambda layer, x, other: layer(x, x, attention_mask=other[:, :, :6] > 0),
    "scores": lambda layer, x, other: layer(x, x, return_attention_scores=True),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("make", [attention, grouped])
def test_moves(make, call):
    layer = make()
    model = model_of(lambda x, other: call(layer, x, other))
    fast = check_rewrites(model, RULES, times=1)
    assert not fast.get_layer("norm").weights


@pytest.mark.parametrize("make", [attention, grouped])
def test_moves_into_what_a_gate_reads(make):
    layer = make(use_gate=True)
    check_rewrites(model_of(lambda x, other: layer(x, other)), RULES, times=1)
    layer = make(use_gate=True)
    check_rewrites(model_of(lambda x, other: layer(other, x)), RULES, times=1)


@pytest.mark.parametrize("make", [attention, grouped])
def test_moves_a_scale_alone_where_there_is_no_bias(make):
    model = model_of(lambda x, other: make(use_bias=False)(x, x), center=False)
    fast = check_rewrites(model, RULES, times=1)
    assert fast.get_layer("attention").use_bias is False


def test_declines_a_shift_where_there_is_no_bias():
    model = model_of(lambda x, other: attention(use_bias=False)(x, x))
    check_declines(model, RULES, reason="attention has no bias, and norm shifts")


@pytest.mark.parametrize("positions", [2, None])
def test_declines_a_bias_that_keras_would_misread(positions):
    inputs = keras.Input((positions, 8))
    x = LayerNormalization(name="norm")(inputs)
    model = keras.Model(inputs, MultiHeadAttention(2, 1, name="attention")(x, x))
    check_declines(model, RULES, reason="the heads of attention have size 1, and Keras")


def test_moves_where_keras_reads_the_bias_right():
    inputs = keras.Input((6, 8))
    x = LayerNormalization(name="norm")(inputs)
    model = keras.Model(inputs, MultiHeadAttention(2, 1, name="attention")(x, x))
    check_rewrites(model, RULES, times=1)


def test_moves_in_any_rank():
    inputs = keras.Input((3, 5, 4))
    x = LayerNormalization(name="norm")(inputs)
    model = keras.Model(inputs, attention(attention_axes=(1,))(x, x))
    check_rewrites(model, RULES, times=1)


def test_moves_what_has_a_mask():
    inputs = keras.Input((6,), dtype="int32")
    x = LayerNormalization(name="norm")(Embedding(9, 8, mask_zero=True)(inputs))
    model = keras.Model(inputs, keras.layers.LSTM(2)(attention()(x, x)))
    check_rewrites(model, RULES, times=1)


def test_moves_into_all_that_read_it():
    model = model_of(
        lambda x, other: [
            attention()(x, x),
            Dense(3, name="dense")(x),
            MultiHeadAttention(1, 2, name="second")(other, x),
        ]
    )
    fast = check_rewrites(model, RULES, times=1)
    assert not fast.get_layer("norm").weights


def test_moves_both_normalizations_of_a_call():
    inputs = keras.Input((6, 8)), keras.Input((4, 8))
    x, y = (LayerNormalization(name=f"norm_{n}")(each) for n, each in enumerate(inputs))
    check_rewrites(keras.Model(inputs, attention()(x, y)), RULES, times=2)


def test_moves_into_an_attention_that_is_called_twice():
    layer = attention()
    inputs = keras.Input((6, 8)), keras.Input((6, 8))
    norm = LayerNormalization(name="norm")
    x = norm(inputs[0])
    model = keras.Model(inputs, [layer(x, inputs[0]), layer(x, inputs[1])])
    fast = check_rewrites(model, RULES, times=1)
    assert sum(isinstance(each, MultiHeadAttention) for each in fast.layers) == 1


def test_declines_calls_of_one_attention_that_differ():
    layer = attention()
    model = model_of(lambda x, other: [layer(x, other), layer(other, x)])
    check_declines(model, RULES, reason="reads norm as another argument in each call")


def test_declines_what_is_not_projected():
    inputs = keras.Input((6, 6)), keras.Input((6, 8))
    mask = LayerNormalization(name="norm")(inputs[0])
    model = keras.Model(inputs, attention()(inputs[1], inputs[1], attention_mask=mask))
    check_declines(model, RULES, reason="attention reads norm as its attention_mask")


def test_declines_another_reader():
    model = model_of(lambda x, other: Add(name="add")([attention()(x, x), x]))
    check_declines(model, RULES, reason="norm feeds add as well as attention")


def test_declines_a_linear_layer_that_can_not_take_it():
    conv = keras.layers.Conv1D(3, 3, padding="same", name="conv")
    model = model_of(lambda x, other: [attention()(x, x), conv(x)])
    check_declines(model, RULES, reason="conv pads with zeros, and norm shifts")


def test_declines_an_attention_that_is_called_elsewhere():
    layer = MultiHeadAttention(8, 16, name="large")
    model = model_of(lambda x, other: [ReLU()(layer(x, x)), ReLU()(layer(other, other))])
    check_declines(model, RULES, reason="large is called 2 times; a copy for this call")


def test_declines_training():
    layer = attention(dropout=0.5)
    model = model_of(lambda x, other: layer(x, x, training=True))
    report = explain(model, RULES)
    assert not report.applied


@pytest.mark.parametrize("axis", [1, [1, 2]])
def test_declines_other_axes(axis):
    model = model_of(lambda x, other: attention()(x, x), axis=axis)
    # Keras on PyTorch can't run the first of them.
    (declined,) = explain(model, RULES).declined
    assert "not the last one only" in declined.reason


def test_declines_a_change_of_dtype():
    model = model_of(lambda x, other: attention(dtype="float32")(x, x), dtype="float64")
    check_declines(model, RULES, reason="attention turns float64 into float32")


def test_declines_lora():
    model = model_of(lambda x, other: attention()(x, x))
    model.get_layer("attention").query_dense.enable_lora(2)
    check_declines(model, RULES, reason="the projections of attention have LoRA")


def test_declines_float16_out_of_range():
    keras.config.set_dtype_policy("mixed_float16")
    model = model_of(lambda x, other: attention()(x, x))
    model.get_layer("norm").gamma.assign([1e-3, *[1.0] * 7])
    (declined,) = explain(model, RULES).declined
    assert "range of float16" in declined.reason


def test_declines_a_shift_too_large_for_the_dtype():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = model_of(lambda x, other: attention()(x, x))
    model.get_layer("norm").beta.assign([50.0] * 8)
    (declined,) = explain(model, RULES).declined
    assert "shifts a channel by more than" in declined.reason


def test_is_saved_and_loaded(tmp_path):
    model = model_of(lambda x, other: grouped(use_gate=True)(x, other))
    fast = check_rewrites(model, RULES, times=1)
    fast.save(tmp_path / "fast.keras")
    loaded = keras.saving.load_model(tmp_path / "fast.keras")
    assert compare(model, loaded).relative < 1e-5


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_moves_any(data):
    keras.config.set_dtype_policy(FLOAT64)
    sizes = st.integers(1, 4)
    options = {"use_gate": data.draw(st.booleans()), "use_bias": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        size = st.integers(2, 4)  # of 1 Keras may misread the bias
        key = data.draw(size)
        # Keras on JAX takes values of the size of keys only.
        value = key if keras.backend.backend() == "jax" else data.draw(size)
        layer = MultiHeadAttention(data.draw(sizes), key, value_dim=value, **options)
    else:
        groups = data.draw(sizes)
        heads = groups * data.draw(st.integers(1, 2))
        layer = GroupQueryAttention(data.draw(st.integers(2, 4)), heads, groups, **options)
    call = data.draw(st.sampled_from([*CALLS.values()]))
    norm = {"center": options["use_bias"], "epsilon": data.draw(st.sampled_from([1e-6, 0.5]))}
    check_rewrites(model_of(lambda x, other: call(layer, x, other), **norm), RULES, times=1)


def test_is_a_default_where_it_was_measured_to_help():
    found = {each for each in TARGETS if layer_normalization_attention.is_default(each)}
    assert found == {"onnx", "litert"}
