"""Inputs, outputs, names, nesting and sharing: what must be the same afterwards, and is."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import BatchNormalization, Conv2D, Dense

import kito
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS

SHAPE = (8, 8, 3)
OLD = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 14)


def conv_bn(x, filters=4, **names):
    x = Conv2D(filters, 3, padding="same", name=names.get("conv"))(x)
    return BatchNormalization(name=names.get("bn"))(x)


def test_inputs_and_outputs_in_lists_keep_their_order():
    one, two = keras.Input(SHAPE, name="one"), keras.Input((8, 8, 5), name="two", dtype="float64")
    model = keras.Model([two, one], [conv_bn(two, bn="b"), conv_bn(one, bn="a")])
    fast = check_rewrites(model, FOLDS, times=2)
    assert [tensor.name for tensor in fast.inputs] == ["two", "one"]
    assert [tensor.dtype for tensor in fast.inputs] == ["float64", "float32"]
    assert fast.output_names == ["b", "a"]


def test_a_functional_model_with_a_call_of_its_own_keeps_the_names_of_its_outputs():
    class Doubled(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training) * 2

    inputs = keras.Input(SHAPE)
    model = randomize(Doubled(inputs, conv_bn(inputs, bn="norm")))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert report.applied
    assert list(fast.output_names) == list(model.output_names) == ["norm"]
    check_equivalent(model, fast)


def test_inputs_and_outputs_in_dicts():
    left, right = keras.Input(SHAPE, name="left"), keras.Input(SHAPE, name="right")
    model = keras.Model(
        {"right": right, "left": left}, {"sum": conv_bn(left) + right[..., :1], "right": right}
    )
    fast = check_rewrites(model, FOLDS, times=1)
    assert set(fast.input) == {"left", "right"}
    assert set(fast.output) == {"sum", "right"}


def test_nested_structures():
    a, b, c = (keras.Input(SHAPE, name=name) for name in "abc")
    outputs = {"deep": [conv_bn(a), (conv_bn(b), c)], "flat": conv_bn(c)}
    check_rewrites(keras.Model([a, (b, c)], outputs), FOLDS, times=3)


def test_an_output_that_is_also_consumed_inside():
    inputs = keras.Input(SHAPE)
    x = conv_bn(inputs)
    check_rewrites(keras.Model(inputs, [x, conv_bn(x)]), FOLDS, times=2)


def test_the_same_tensor_returned_twice():
    inputs = keras.Input(SHAPE)
    x = conv_bn(inputs)
    check_rewrites(keras.Model(inputs, [x, x, inputs]), FOLDS, times=1)


def test_declines_a_convolution_that_is_an_output():
    inputs = keras.Input(SHAPE)
    conv = Conv2D(4, 3, name="conv")(inputs)
    model = keras.Model(inputs, [BatchNormalization()(conv), conv])
    check_declines(model, FOLDS, reason="conv is an output of the model")


def test_declines_a_convolution_that_feeds_two_layers():
    inputs = keras.Input(SHAPE)
    conv = Conv2D(4, 3, name="conv3")(inputs)
    model = keras.Model(inputs, layers.Add(name="add")([BatchNormalization(name="bn")(conv), conv]))
    check_declines(model, FOLDS, reason="conv3 feeds add as well as bn")


def test_a_model_cut_out_between_inner_tensors():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3)(inputs)
    whole = keras.Model(inputs, layers.ReLU()(conv_bn(x)))
    cut = keras.Model(x, whole.output)
    check_rewrites(cut, FOLDS, times=1)


def test_models_that_share_layers_stay_apart():
    inputs = keras.Input(SHAPE)
    x = conv_bn(inputs)
    short, long = keras.Model(inputs, x), keras.Model(inputs, layers.ReLU()(x))
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    randomize(long)
    before = long.predict_on_batch(data)
    check_rewrites(short, FOLDS, times=1, seed=0)
    assert np.array_equal(long.predict_on_batch(data), before)


@pytest.mark.skipif(OLD, reason="Keras before 3.14 refuses unused inputs")
def test_an_unused_input_stays():
    used, unused = keras.Input(SHAPE, name="used"), keras.Input((2,), name="unused")
    fast = check_rewrites(keras.Model([used, unused], conv_bn(used)), FOLDS, times=1)
    assert [tensor.name for tensor in fast.inputs] == ["used", "unused"]


@pytest.mark.skipif(OLD, reason="Keras before 3.14 passes no None to a layer")
def test_an_optional_input_stays_optional():
    inputs = keras.Input(SHAPE)
    maybe = keras.Input((8, 8, 4), optional=True, name="maybe")

    @keras.saving.register_keras_serializable("test")
    class AddIfThere(layers.Layer):
        def call(self, x, y=None):
            return x if y is None else x + y

        def compute_output_shape(self, x_shape, y_shape=None):
            return x_shape

    model = randomize(keras.Model([inputs, maybe], AddIfThere()(conv_bn(inputs), maybe)))
    fast = kito.optimize(model, FOLDS)
    x = np.ones((1, *SHAPE), "float32")
    answers = [keras.ops.convert_to_numpy(each([x, None])) for each in (fast, model)]
    assert np.allclose(*answers, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "batch"), [((None, None, 3), None), (SHAPE, 2), ((None, 8, 3), None)]
)
def test_known_and_unknown_sizes_stay(shape, batch):
    inputs = keras.Input(shape, batch_size=batch)
    model = keras.Model(inputs, conv_bn(inputs))
    fast = check_rewrites(model, FOLDS, times=1)
    assert fast.input_shape == model.input_shape
    assert fast.output_shape == model.output_shape


def test_names_and_containers_stay():
    model = keras.Sequential(
        [keras.Input(SHAPE, name="image"), Conv2D(4, 3), BatchNormalization(name="bn")], name="net"
    )
    fast = check_rewrites(model, FOLDS, times=1)
    assert type(fast) is keras.Sequential
    assert fast.name == "net"
    assert [layer.name for layer in fast.layers] == ["bn"]
    assert fast.inputs[0].name == "image"


def test_trainable_flags_stay():
    inputs = keras.Input(SHAPE)
    frozen = Dense(3, name="frozen")
    frozen.trainable = False
    model = keras.Model(inputs, frozen(conv_bn(inputs)))
    fast = check_rewrites(model, FOLDS, times=1)
    assert not fast.get_layer("frozen").trainable
    model.trainable = False
    assert not kito.optimize(model, FOLDS).trainable
    assert not kito.optimize(model, FOLDS).trainable_weights


@pytest.mark.parametrize("frozen", [True, False])
def test_a_shared_layer_keeps_the_flags_of_what_it_holds(frozen):
    """The result has another flag than a layer that it shares with the model."""

    class Held(layers.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    inner = Dense(3)
    model = keras.Sequential([keras.Input(SHAPE), Conv2D(4, 3), BatchNormalization(), Held(inner)])
    model.trainable = not frozen
    inner.trainable = frozen
    fast = check_rewrites(model, FOLDS, times=1)
    assert inner.trainable is frozen
    assert fast.trainable is not frozen


def test_a_compiled_model_evaluates_as_before():
    model = keras.Sequential([keras.Input(SHAPE), Conv2D(4, 3), BatchNormalization()])
    model.compile("adam", loss="mse", metrics=["mae"])
    randomize(model)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(4, *SHAPE)), rng.normal(size=(4, 6, 6, 4))
    fast = kito.optimize(model, FOLDS)
    expected = model.evaluate(*data, verbose=0)
    assert np.allclose(fast.evaluate(*data, verbose=0), expected, rtol=1e-5)


def own_error(expected, answer):
    return ops.mean(ops.abs(expected - answer) ** 1.5, axis=-1)


class OwnMetric(keras.metrics.MeanMetricWrapper):
    def __init__(self, name="own", dtype=None):
        super().__init__(own_error, name, dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


@pytest.mark.parametrize(
    "options",
    [
        {"loss": own_error, "metrics": [own_error, OwnMetric()]},
        {"loss": lambda expected, answer: own_error(expected, answer)},
        {"loss": keras.losses.Huber(0.1), "weighted_metrics": ["mae"]},  # Keras loads delta=1
        {"loss": [own_error], "optimizer": type("Own", (keras.optimizers.SGD,), {})(0.5)},
    ],
    ids=["functions", "lambda", "huber", "optimizer"],
)
def test_a_model_compiled_with_what_keras_can_not_load_evaluates_as_before(options):
    model = keras.Sequential([keras.Input(SHAPE), Conv2D(4, 3), BatchNormalization()])
    model.compile(**options)
    randomize(model)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(4, *SHAPE)), rng.normal(size=(4, 6, 6, 4))
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.notes
    expected = model.evaluate(*data, verbose=0)
    assert np.allclose(fast.evaluate(*data, verbose=0), expected, rtol=1e-5)
    assert type(fast.optimizer) is type(model.optimizer)
    assert fast.optimizer is not model.optimizer
    assert not {*map(id, fast.metrics)} & {*map(id, model.metrics)}


@keras.saving.register_keras_serializable("test_structures")
class Compiled(keras.Model):
    """It is compiled in its own way."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = Dense(2)
        self.scale = self.add_weight(shape=(2,), initializer="ones", name="scale")

    def call(self, x):
        return self.dense(x) * self.scale

    def compile(self, own_optimizer, own_loss):
        super().compile(loss=own_loss)
        self.own_optimizer, self.own_loss = own_optimizer, own_loss

    def get_compile_config(self):
        own = {"own_optimizer": self.own_optimizer, "own_loss": self.own_loss}
        return keras.saving.serialize_keras_object(own)


def test_a_model_that_is_compiled_in_its_own_way():
    model, data = Compiled(), np.ones((4, 3), "float32")
    model(data)
    model.compile(keras.optimizers.SGD(0.5), keras.losses.MeanSquaredError())
    fast = kito.optimize(model, FOLDS)
    assert type(fast) is Compiled
    assert float(fast.own_optimizer.learning_rate) == 0.5
    assert fast.own_optimizer is not model.own_optimizer
    expected = model.evaluate(data, data[:, :2], verbose=0)
    assert np.allclose(fast.evaluate(data, data[:, :2], verbose=0), expected, rtol=1e-5)


def test_penalties_of_rewritten_layers_are_missed_in_the_loss():
    inputs = keras.Input(SHAPE)
    x = BatchNormalization()(Conv2D(4, 3, kernel_regularizer="l2")(inputs))
    x = Conv2D(4, 1, kernel_regularizer="l2", activity_regularizer="l2")(layers.ReLU()(x))
    model = randomize(keras.Model(inputs, x))
    report = kito.Report()
    kito.optimize(model, FOLDS, report=report)
    assert not report.notes
    model.compile(loss="mse")
    kito.optimize(model, FOLDS, report=report)
    assert report.notes == [
        "the loss of `evaluate` lacks what regularizers of rewritten layers added to it (1)"
    ]


def test_layers_called_with_the_same_tensor_twice():
    inputs = keras.Input(SHAPE)
    x = conv_bn(inputs)
    y = conv_bn(inputs)
    outputs = [layers.Add()([x, x]), layers.Concatenate()([x, y, x])]
    check_rewrites(keras.Model(inputs, outputs), FOLDS, times=2)


def test_ops_on_symbolic_tensors():
    inputs = keras.Input(SHAPE)
    x = ops.relu(conv_bn(inputs)) * 2.0 + np.arange(4, dtype="float32")
    x = ops.concatenate([x, x[..., :2]], axis=-1)
    check_rewrites(keras.Model(inputs, ops.mean(conv_bn(x), axis=(1, 2))), FOLDS, times=2)


def test_keyword_tensors_and_several_outputs():
    inputs = keras.Input((6, 8))
    x = BatchNormalization()(Dense(8)(inputs))
    attention = layers.MultiHeadAttention(2, 4)
    x, scores = attention(query=x, value=inputs, return_attention_scores=True)
    x, state = layers.GRU(4, return_state=True)(
        x, initial_state=layers.Lambda(ops.zeros_like)(Dense(4)(inputs[:, 0]))
    )
    x = BatchNormalization()(Dense(3)(x))
    check_rewrites(keras.Model(inputs, [x, scores, state]), FOLDS, times=2)


@pytest.mark.parametrize("calls", [1, 2])
def test_nested_models_are_optimized_inside_and_keep_their_names(calls):
    inner_input = keras.Input(SHAPE)
    inner = keras.Model(inner_input, conv_bn(inner_input, 3), name="encoder")
    inputs = keras.Input(SHAPE)
    x = inputs
    for _ in range(calls):
        x = inner(x)
    model = keras.Model(inputs, conv_bn(x))
    fast = check_rewrites(model, FOLDS, times=2)
    encoder = fast.get_layer("encoder")
    assert encoder.count_params() == inner.count_params() - 12
    assert fast.count_params() == model.count_params() - 12 - 16


def test_nested_sequential_in_sequential():
    inner = keras.Sequential([keras.Input(SHAPE), Conv2D(3, 1), BatchNormalization()], name="inner")
    model = keras.Sequential([keras.Input(SHAPE), inner, Conv2D(4, 1), BatchNormalization()])
    fast = check_rewrites(model, FOLDS, times=2)
    assert type(fast.get_layer("inner")) is keras.Sequential


def test_submodels_with_the_same_layer_names():
    def submodel(name):
        inputs = keras.Input(SHAPE, name="in")
        return keras.Model(inputs, conv_bn(inputs, conv="conv", bn="bn"), name=name)

    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, [submodel("a")(inputs), submodel("b")(inputs)])
    check_rewrites(model, FOLDS, times=2)


def test_declines_across_the_border_of_a_submodel():
    inner_input = keras.Input(SHAPE)
    inner = keras.Model(inner_input, Conv2D(4, 3)(inner_input))
    inputs = keras.Input(SHAPE)
    model = randomize(keras.Model(inputs, BatchNormalization()(inner(inputs))))
    check_equivalent(model, kito.optimize(model, FOLDS))


def test_a_deep_nest():
    model = keras.Sequential([keras.Input(SHAPE), Conv2D(3, 1), BatchNormalization()])
    for _ in range(50):
        inputs = keras.Input(SHAPE)
        model = keras.Model(inputs, model(inputs))
    check_rewrites(model, FOLDS, times=1)


def test_a_layer_named_like_another_ones_weight():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, conv_bn(inputs, conv="bias_conv", bn="kernel"))
    check_rewrites(model, FOLDS, times=1)


def test_the_callers_model_is_not_touched():
    inputs = keras.Input(SHAPE)
    model = randomize(keras.Model(inputs, layers.ReLU()(conv_bn(inputs))))
    before = {layer.name: dict(vars(layer)) for layer in model.layers}
    calls = {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    config = model.get_config()
    kito.optimize(model, FOLDS)
    assert config == model.get_config()
    assert calls == {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    for layer in model.layers:
        now = vars(layer)
        assert {name: id(value) for name, value in now.items()} == {
            name: id(value) for name, value in before[layer.name].items()
        }


def test_training_true_is_kept():
    inputs = keras.Input(SHAPE)
    x = Conv2D(4, 3)(inputs)
    model = keras.Model(inputs, BatchNormalization(name="bn")(x, training=True))
    randomize(model)
    report = kito.Report()
    fast = kito.optimize(model, FOLDS, report=report)
    assert not report.applied
    assert "bn is called with training=True" in report.declined[0].reason
    assert fast.count_params() == model.count_params()


def words_into(model):
    """A model that hands another one words, of which some are masked."""
    words = keras.Input((6,), dtype="int32")
    return keras.Model(words, model(layers.Embedding(5, 3, mask_zero=True)(words)))


@pytest.mark.filterwarnings("ignore:.*destroy the mask information:UserWarning")
@pytest.mark.parametrize("depth", [1, 2])
def test_a_mask_that_comes_into_a_nested_model(depth):
    """Keras does not show it there: what would end it, or not end it any more, is left alone."""
    inputs = keras.Input((6, 3))
    nested = keras.Model(inputs, layers.LSTM(2)(Dense(3)(inputs * 2.0)))
    for _ in range(depth - 1):
        x = keras.Input((6, 3))
        nested = keras.Model(x, nested(x))
    check_declines(words_into(nested), ["affine_linear"], reason="a mask runs through multiply")


@pytest.mark.filterwarnings("ignore:.*destroy the mask information:UserWarning")
def test_what_a_mask_runs_through_in_a_nested_model_is_folded():
    inputs = keras.Input((6, 3))
    nested = keras.Model(inputs, layers.LSTM(2)(BatchNormalization()(Dense(3)(inputs))))
    check_rewrites(words_into(nested), FOLDS, times=1)


class Block(layers.Layer):
    """A mask ends here, and not in the layers inside."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.bn = Dense(3), BatchNormalization()

    def call(self, x):
        return self.bn(self.dense(x))


@pytest.mark.filterwarnings("ignore:.*destroy the mask information:UserWarning")
def test_a_block_in_a_nested_model_through_which_a_mask_may_run_is_kept_whole():
    inputs = keras.Input((6, 3))
    model = words_into(keras.Model(inputs, layers.LSTM(2)(Block()(inputs))))
    check_equivalent(randomize(model), kito.optimize(model, FOLDS))
    [note] = kito.explain(model, FOLDS).notes
    assert "is kept whole: a mask runs through it" in note


def test_a_mask_reaches_its_reader():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True)(inputs)
    x = BatchNormalization()(Dense(3)(x))
    model = keras.Model(inputs, layers.LSTM(2)(x))
    fast = check_rewrites(model, FOLDS, times=1)
    data = np.array([[1, 2, 0, 0, 0, 0], [1, 2, 3, 4, 1, 2]])
    assert np.allclose(model.predict_on_batch(data), fast.predict_on_batch(data), atol=1e-6)


@pytest.mark.parametrize("function", [kito.optimize, kito.explain])
def test_where_weights_would_be_lost_it_is_an_error(function):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, BatchNormalization()(Dense(3)(inputs)))
    with keras.StatelessScope(), pytest.raises(kito.InputError, match="would have no weights"):
        function(model)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a function of TensorFlow")
def test_in_a_function_of_tensorflow_it_is_an_error():
    tf = pytest.importorskip("tensorflow")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, BatchNormalization()(Dense(3)(inputs)))

    @tf.function(autograph=False)
    def optimized(x):
        return kito.optimize(model)(x)

    with pytest.raises(kito.InputError, match="would have no weights"):
        optimized(np.ones((2, 4), "float32"))
