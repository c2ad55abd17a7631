"""Calls that compute the same."""

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from kito import Report, explain, optimize
from kito.rules.conv import conv_batchnorm
from kito.rules.duplicates import duplicates
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize

RULES = [duplicates]


def model_of(first, second, shape=(8, 8, 3), tie=True, **inputs):
    """Two layers on one input, with equal weights, and an activation of each.

    Several layers may be called in the place of one.
    """
    x = keras.Input(shape, **inputs)
    branches = [layers.ReLU(name="relu")(first(x)), layers.ELU(name="elu")(second(x))]
    model = randomize(keras.Model(x, branches))
    if tie and isinstance(first, keras.Layer):
        second.set_weights(first.get_weights())
    return model


def check(model, times, **options):
    """Like `check_rewrites`, but the model keeps its weights."""
    report = Report()
    fast = optimize(model, RULES, report=report)
    assert sum(report.folded.values()) == times, report
    assert not report.declined
    check_equivalent(model, fast, **options)
    again = Report()
    optimize(fast, RULES, report=again)
    assert not again.applied
    return fast


LAYERS = [
    lambda: layers.Conv2D(4, 3, padding="same", activation="relu"),
    lambda: layers.Dense(4),
    lambda: layers.DepthwiseConv2D(3),
    lambda: layers.SeparableConv2D(4, 3),
    lambda: layers.Conv2DTranspose(4, 3, use_bias=False),
    lambda: layers.EinsumDense("...c,cd->...d", 4, bias_axes="d"),
    lambda: layers.BatchNormalization(),
    lambda: layers.LayerNormalization(),
    lambda: layers.MaxPooling2D(),
    lambda: layers.Activation("gelu"),
    lambda: layers.PReLU(),
    lambda: layers.ZeroPadding2D(((0, 1), (2, 0))),
    lambda: layers.Rescaling(0.5, offset=1),
    lambda: layers.GlobalAveragePooling2D(keepdims=True),
]


@pytest.mark.parametrize("make", LAYERS)
def test_merges(make):
    keras.config.set_dtype_policy("float64")
    fast = check(model_of(make(), make()), times=1)
    assert len(fast.layers) == 4


@pytest.mark.parametrize("make", LAYERS)
def test_merges_two_calls_of_one_layer(make):
    layer = make()
    fast = check(model_of(layer, layer), times=1)
    assert len(fast.layers) == 4


def test_merges_all_of_many():
    x = keras.Input((4,))
    dense = [layers.Dense(3, name=f"dense_{i}") for i in range(4)]
    model = keras.Model(x, layers.Concatenate(name="out")([layer(x) for layer in dense]))
    for layer in dense:
        layer.set_weights(dense[0].get_weights())
    fast = check(model, times=3)
    assert [layer.name for layer in fast.layers[1:]] == ["dense_0", "out"]


def test_merges_many_calls_of_one_layer():
    x = keras.Input((4,))
    dense = layers.Dense(3)
    model = keras.Model(x, layers.Concatenate()([dense(x), dense(x), dense(x)]))
    check(randomize(model), times=2)


def test_merges_rows():
    x = keras.Input((8, 8, 3))
    pool = [layers.MaxPooling2D(name=f"pool_{i}")(x) for i in range(2)]
    flat = [layers.Flatten(name=f"flat_{i}")(each) for i, each in enumerate(pool)]
    fast = check(keras.Model(x, layers.Add(name="out")(flat)), times=2)
    assert len(fast.layers) == 4


def test_merges_calls_on_several_tensors():
    x, y = keras.Input((4,)), keras.Input((4,))
    sums = [layers.Add()([x, y]), layers.Add()([x, y])]
    check(keras.Model([x, y], layers.Concatenate()(sums)), times=1)


def test_merges_operations():
    x = keras.Input((4, 6))
    parts = [
        keras.ops.relu(x[:, 1:3] * 2.0 + 1.0),
        keras.ops.sigmoid(x[:, 1:3] * 2.0 + 1.0),
    ]
    check(keras.Model(x, layers.Concatenate()(parts)), times=3)


def test_merges_embeddings_that_make_masks():
    x = keras.Input((5,), dtype="int32")
    embed = [layers.Embedding(7, 3, mask_zero=True) for _ in range(2)]
    pooled = [
        layers.GlobalAveragePooling1D()(embed[0](x)),
        layers.Dense(2)(embed[1](x)),
    ]
    model = randomize(keras.Model(x, pooled))
    embed[1].set_weights(embed[0].get_weights())
    check(model, times=1)


def test_merges_what_reads_a_mask():
    x = keras.Input((5, 3))
    masked = layers.Masking()(x)
    model = keras.Model(x, [layers.GlobalAveragePooling1D()(masked) for _ in range(2)])
    check_declines(model, RULES, reason="gives an output its name")
    pooled = [layers.GlobalAveragePooling1D()(masked) for _ in range(2)]
    check(keras.Model(x, layers.Concatenate()(pooled)), times=1)


@pytest.mark.parametrize("last", [0, 1])
def test_keeps_the_one_that_is_an_output(last):
    x = keras.Input((4,))
    same = [layers.ReLU(name=f"relu_{i}")(x) for i in range(2)]
    model = keras.Model(x, [same[last], layers.Flatten(name="flat")(same[1 - last])])
    fast = check(model, times=1)
    assert fast.output_names == [f"relu_{last}", "flat"]


def test_merges_inside_nested_models():
    x = keras.Input((4,))
    inner = keras.Model(x, layers.Add()([layers.ReLU()(x), layers.ReLU()(x)]), name="inner")
    outer = keras.Input((4,))
    check(keras.Model(outer, inner(outer)), times=1)


def test_merges_what_another_rule_made():
    x = keras.Input((8, 8, 3))
    pairs = [(layers.Conv2D(4, 3), layers.BatchNormalization()) for _ in range(2)]
    branches = [
        layers.Activation(name)(bn(conv(x)))
        for name, (conv, bn) in zip(("relu", "elu"), pairs, strict=True)
    ]
    model = randomize(keras.Model(x, branches))
    for one, other in zip(*pairs, strict=True):
        other.set_weights(one.get_weights())
    report = Report()
    fast = optimize(model, [conv_batchnorm, duplicates], report=report)
    check_equivalent(model, fast)
    assert len(fast.layers) == 4


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_merges_no_more_than_is_equal(data):
    options = [
        {"filters": data.draw(st.integers(3, 4)), "use_bias": data.draw(st.booleans())}
        for _ in range(2)
    ]
    tie = data.draw(st.booleans()) and options[0] == options[1]
    pair = [layers.Conv2D(kernel_size=3, **each) for each in options]
    check(model_of(*pair, tie=tie), times=int(tie))


def leaves(model):
    check(model, times=0)


def test_leaves_other_weights():
    leaves(model_of(layers.Conv2D(4, 3), layers.Conv2D(4, 3), tie=False))


def test_leaves_another_configuration():
    leaves(model_of(layers.Conv2D(4, 3), layers.Conv2D(4, 3, dilation_rate=2)))
    leaves(model_of(layers.LayerNormalization(), layers.LayerNormalization(epsilon=0.1)))
    leaves(model_of(layers.LeakyReLU(0.1), layers.LeakyReLU(0.2)))


def test_leaves_another_dtype():
    leaves(model_of(layers.ReLU(), layers.ReLU(dtype="float64")))


def test_leaves_another_class():
    leaves(model_of(layers.GlobalMaxPooling2D(), layers.GlobalAveragePooling2D()))


def test_leaves_another_input():
    x, y = keras.Input((4,)), keras.Input((4,))
    sums = [layers.Subtract()([x, y]), layers.Subtract()([y, x])]
    leaves(keras.Model([x, y], layers.Concatenate()(sums)))


def test_leaves_another_constant():
    x = keras.Input((4, 6))
    leaves(keras.Model(x, layers.Add()([x[:, 1:3], x[:, 2:4]])))
    leaves(keras.Model(x, layers.Add()([x * 2.0, x * 3.0])))
    leaves(keras.Model(x, [keras.ops.sum(x, axis=1), keras.ops.sum(x, axis=2)]))


@pytest.mark.parametrize("cls", [layers.Dropout, layers.GaussianNoise])
def test_leaves_what_is_random(cls):
    leaves(model_of(cls(0.5), cls(0.5)))


def test_leaves_layers_with_a_state():
    def lstm():
        return layers.LSTM(3, stateful=True)

    one, other = lstm(), lstm()
    x = keras.Input((5, 3), batch_size=2)
    model = randomize(keras.Model(x, layers.Concatenate()([one(x), other(x)])))
    other.set_weights(one.get_weights())
    report = explain(model, RULES)
    assert not report.applied


def test_leaves_layers_with_several_outputs():
    x = keras.Input((4,))
    halves = [keras.ops.split(x, 2, axis=1) for _ in range(2)]
    leaves(keras.Model(x, layers.Add()([halves[0][0], halves[1][1]])))


def test_leaves_layers_written_in_python():
    class Custom(keras.layers.Layer):
        def call(self, x):
            return x * 2

    leaves(model_of(Custom(), Custom()))


def test_leaves_functions_of_one_name():
    def named(function):
        function.__name__ = function.__qualname__ = "relu"
        return function

    one, other = named(lambda x: x * 2), named(lambda x: x * 3)
    x = keras.Input((4,))
    acts = [layers.Activation(one), layers.Activation(other)]
    model = keras.Model(x, layers.Add()([act(x) for act in acts]))
    assert acts[0].get_config()["activation"] == acts[1].get_config()["activation"]
    assert not explain(model, RULES).applied


def test_leaves_a_layer_whose_call_was_replaced():
    one, other = layers.ReLU(), layers.ReLU()
    one.call = lambda x: x * 2
    x = keras.Input((4,))
    model = keras.Model(x, layers.Add()([one(x), other(x)]))
    assert not explain(model, RULES).applied


def test_declines_two_outputs():
    x = keras.Input((4,))
    model = keras.Model(x, [layers.ReLU(name="one")(x), layers.ReLU(name="two")(x)])
    check_declines(model, RULES, reason="gives an output its name")


def test_declines_what_is_called_with_training():
    x = keras.Input((4,))
    norm = layers.BatchNormalization(name="norm")
    model = keras.Model(x, layers.Add()([norm(x, training=True), norm(x, training=True)]))
    (declined,) = explain(model, RULES).declined
    assert declined.reason == "norm is called with training=True"


def test_leaves_training_apart():
    x = keras.Input((4,))
    norm = layers.BatchNormalization()
    model = keras.Model(x, layers.Add()([norm(x, training=True), norm(x)]))
    assert not explain(model, RULES).applied


def test_counts_rewrites_of_random_weights():
    # `check_rewrites` gives layers without weights nothing to differ in
    model = model_of(layers.MaxPooling2D(), layers.MaxPooling2D())
    check_rewrites(model, RULES, times=1)
