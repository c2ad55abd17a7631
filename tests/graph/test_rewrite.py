"""The engine: fixed point, guards, names, and rules that misbehave."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import BatchNormalization, Conv2D, Dense

import kito
from kito import Decline, chain, many, readers, rule
from kito.rules.dense import dense_batchnorm
from kito.samples import random_inputs
from kito.testing import check_declines, check_equivalent, check_rewrites, randomize
from tests.folds import FOLDS


def model_of(*layers):
    return randomize(keras.Sequential([keras.Input((4,)), *layers]))


@rule(chain(dense=Dense))
def to_relu(dense):
    return dense.evolve(activation="relu")


@rule(chain(dense=Dense))
def to_tanh(dense):
    return dense.evolve(activation="tanh")


def test_a_rule_that_always_fires_is_named():
    with pytest.raises(kito.RuleError, match=r"do not come to an end: 'to_relu' .* at 'd'"):
        kito.optimize(model_of(Dense(3, name="d")), [to_relu], strict=True)


def test_two_rules_that_undo_each_other_are_named():
    @rule(chain(dense=Dense))
    def to_linear(dense):
        if dense.activation == "linear":
            raise Decline("it is linear already")
        return dense.evolve(activation="linear")

    @rule(chain(dense=Dense))
    def to_silu(dense):
        if dense.activation == "silu":
            raise Decline("it is silu already")
        return dense.evolve(activation="silu")

    with pytest.raises(kito.RuleError, match="or the rule that undoes it"):
        kito.optimize(model_of(Dense(3)), [to_linear, to_silu], strict=True)


def test_a_rule_that_makes_ever_more_layers_is_named():
    @rule(chain(dense=Dense))
    def split(dense):
        return [dense.evolve(activation="linear"), dense.evolve(units=dense.units)]

    with pytest.raises(kito.RuleError, match="'split'"):
        kito.optimize(model_of(Dense(4)), [split], strict=True)


def test_a_rule_that_raises_is_named_with_the_layers():
    @rule(chain(dense=Dense, bn=BatchNormalization))
    def broken(dense, bn):
        return dense.no_such_thing

    with pytest.raises(kito.RuleError, match=r"'broken' failed on d, b: AttributeError: .*no_such"):
        kito.optimize(
            model_of(Dense(3, name="d"), BatchNormalization(name="b")), [broken], strict=True
        )


@pytest.mark.parametrize("result", [None, "layer", [], [3]])
def test_a_rule_that_returns_no_layer_is_named(result):
    @rule(chain(dense=Dense))
    def odd(dense):
        return result

    with pytest.raises(kito.RuleError, match="'odd'"):
        kito.optimize(model_of(Dense(3)), [odd], strict=True)


def test_a_rule_that_gives_weights_of_another_shape_is_found_out():
    @rule(chain(dense=Dense, bn=BatchNormalization))
    def wrong(dense, bn):
        return dense.evolve(kernel=dense.kernel[:, :1])

    with pytest.raises(kito.GraphError, match="needs the weight 'kernel' of shape"):
        kito.optimize(model_of(Dense(3), BatchNormalization()), [wrong], strict=True)


def test_a_rule_that_changes_the_output_shape_is_found_out():
    @rule(chain(dense=Dense, bn=BatchNormalization))
    def wrong(dense, bn):
        return dense.evolve(units=1, kernel=dense.kernel[:, :1], bias=dense.bias[:1])

    with pytest.raises(kito.GraphError, match="returns"):
        kito.optimize(model_of(Dense(3), BatchNormalization()), [wrong], strict=True)


def test_evolve_knows_the_names():
    @rule(chain(dense=Dense))
    def odd(dense):
        return dense.evolve(kernels=dense.kernel)

    with pytest.raises(kito.RuleError, match="no weight or configuration entry 'kernels'"):
        kito.optimize(model_of(Dense(3)), [odd], strict=True)


def test_a_weight_that_stays_is_not_copied_before_the_model_is_built():
    """A rewrite of each layer would double the memory, for nothing if another rewrite follows."""

    @rule(chain(dense=Dense))
    def active(dense):
        if dense.layer.is_new:
            raise Decline("it is done")
        changed = dense.evolve(activation="relu")
        assert changed.new_weights["kernel"] is dense.layer.variables["kernel"]
        return changed

    model = model_of(Dense(4, name="dense"))
    fast = kito.optimize(model, [active], strict=True)
    before = keras.ops.convert_to_numpy(model.get_layer("dense").kernel).copy()
    fast.get_layer("dense").kernel.assign_add(np.ones((4, 4)))
    np.testing.assert_array_equal(model.get_layer("dense").kernel, before)
    model.get_layer("dense").kernel.assign(np.zeros((4, 4)))
    np.testing.assert_allclose(fast.get_layer("dense").kernel, before + 1)


def test_a_tensor_that_stays_is_handed_on_and_two_layers_get_one_each():
    """A copy of it would double the memory; two variables may not have one buffer on JAX."""

    @rule(chain(dense=Dense))
    def twice(dense):
        if dense.layer.is_new:
            raise Decline("it is done")
        changed = dense.layer.evolve(kernel=2 * dense.kernel)
        active = changed.evolve(activation="relu")
        assert active.new_weights["kernel"] is changed.new_weights["kernel"]
        return active(changed(dense.input))

    model = model_of(Dense(4, name="dense"))
    fast = kito.optimize(model, [twice], strict=True)
    one, other = (layer.kernel for layer in fast.layers if layer.weights)
    one.assign(np.zeros((4, 4)))
    expected = 2 * keras.ops.convert_to_numpy(model.get_layer("dense").kernel)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(other), expected)
    assert fast.predict_on_batch(random_inputs(model)).shape == (2, 4)


def test_a_rule_may_return_several_layers():
    @rule(chain(dense=Dense, bn=BatchNormalization))
    def unfold(dense, bn):
        scale = np.diag(1 / np.sqrt(bn.moving_variance + bn.epsilon) * bn.gamma)
        shift = bn.beta - scale @ bn.moving_mean
        return [dense.evolve(), dense.evolve(kernel=scale, bias=shift)]

    model = model_of(Dense(4, name="d"), BatchNormalization(name="b"), layers.ReLU())
    fast = kito.optimize(model, [unfold])
    assert [layer.name for layer in fast.layers] == ["d", "b", "re_lu"]
    check_equivalent(model, fast)


def test_a_rule_that_would_break_a_mask_is_declined():
    @rule(chain(one=Dense, two=layers.Flatten))
    def drop_flatten(one, two):
        return one.evolve()

    inputs = keras.Input((1,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True)(inputs)
    with pytest.warns(UserWarning, match="does not support masking"):
        x = layers.Flatten()(Dense(3)(x))
        model = keras.Model(inputs, x)
    report = kito.Report()
    with pytest.warns(UserWarning, match="does not support masking"):
        kito.optimize(model, [drop_flatten], report=report)
    assert "a mask runs through" in report.declined[0].reason


def test_rules_apply_to_a_fixed_point_in_any_order():
    model = model_of(Dense(4), BatchNormalization(), BatchNormalization(), BatchNormalization())
    check_rewrites(model, [dense_batchnorm], times=3)


def test_a_layer_whose_call_was_replaced_is_left_alone():
    dense = Dense(3, name="dense")
    model = keras.Sequential([keras.Input((4,)), dense, BatchNormalization()])
    dense.call = lambda x, training=None: keras.ops.abs(x[..., :3])
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert "dense has a `call` of its own" in report.declined[0].reason
    assert "dense (Dense) is shared" in report.notes[0]
    check_equivalent(model, fast)


def test_a_layer_whose_convolution_was_replaced_is_left_alone():
    conv = layers.Conv1D(3, 1, name="conv")
    kept = layers.Conv1D(3, 1, name="kept")
    model = keras.Sequential([keras.Input((8, 4)), conv, BatchNormalization(), kept])
    for layer in (conv, kept):
        convolve = layer.convolution_op
        layer.convolution_op = lambda x, kernel, f=convolve: f(x, keras.ops.sign(kernel))
    report = kito.Report()
    fast = kito.optimize(randomize(model), FOLDS, report=report)
    assert "conv has a `convolution_op` of its own" in report.declined[0].reason
    assert [note.split(" is ")[0] for note in report.notes] == ["conv (Conv1D)", "kept (Conv1D)"]
    check_equivalent(model, fast)


def test_declines_more_than_one_tensor():
    @rule(chain(attention=layers.Attention))
    def one_input(attention):
        return attention.evolve()

    inputs = keras.Input((4, 4))
    model = keras.Model(inputs, layers.Attention(name="mix")([inputs, inputs]))
    check_declines(model, [one_input], reason="mix is called with more than one tensor")


def test_declines_a_layer_that_reads_its_producer_twice():
    @rule(chain(dense=Dense, add=layers.Add))
    def drop(dense, add):
        return dense.evolve()

    inputs = keras.Input((4,))
    x = Dense(4)(inputs)
    model = keras.Model(inputs, layers.Add()([x, x]))
    report = kito.Report()
    kito.optimize(model, [drop], report=report)
    assert not report.applied


def test_names_that_are_taken():
    inputs = keras.Input((6, 6, 3))
    shared = BatchNormalization(name="bn")
    x = shared(Conv2D(3, 1, name="one")(inputs))
    y = shared(Conv2D(3, 1, name="two")(inputs))
    model = keras.Model(inputs, [layers.ReLU()(x), layers.ReLU()(y)])
    fast = check_rewrites(model, FOLDS, times=2)
    convs = [layer.name for layer in fast.layers if isinstance(layer, Conv2D)]
    assert sorted(convs) in (["bn", "one"], ["bn", "two"])


def test_the_name_of_an_output_is_not_given_away():
    inputs = keras.Input((6, 6, 3))
    shared = BatchNormalization(name="bn")
    x = shared(Conv2D(3, 1, name="one")(inputs))
    y = shared(Conv2D(3, 1, name="two")(inputs))
    check_declines(keras.Model(inputs, [x, y]), FOLDS, reason="bn gives an output its name")
    # Once the other call is gone, the name is free.
    check_rewrites(keras.Model(inputs, [x, layers.ReLU()(y)]), FOLDS, times=2)


def test_the_definition_of_a_rule_is_checked():
    with pytest.raises(kito.RuleDefinitionError, match=r"\(x, y\) are not the captures .* \(x\)"):
        rule(chain(x=Dense))(lambda x, y: x)
    with pytest.raises(kito.RuleDefinitionError, match="at least one link"):
        chain()
    with pytest.raises(kito.RuleDefinitionError, match="not a Keras layer class: 'Dense'"):
        chain(x="Dense")


def test_the_report_says_that_nothing_was_rewritten():
    assert "nothing: no rule applies" in str(kito.Report())


def test_the_report_tells_old_names_from_new():
    model = model_of(Dense(4, name="d"), BatchNormalization(name="a"), BatchNormalization(name="b"))
    report = kito.explain(model, FOLDS)
    assert report.renamed == {"d": "b", "a": "b", "b": "b"}
    assert report.folded == {"dense_batchnorm": 2}
    assert "d -> a" in str(report)
    assert '"renamed"' in report.to_json()


def test_a_reader_may_have_an_array_among_its_arguments():
    x = keras.Input((4, 3))
    y = layers.Dropout(0.5)(x) * np.array([1.0, 2.0, 3.0], "float32")
    check_rewrites(keras.Model(x, y), ["identities"], times=1, tolerance=1e-6)


# Calls that stand side by side


def heads(*ends, norm=None):
    """A tensor and Dense layers that read it, each with a layer behind it."""
    inputs = keras.Input((4,))
    x = (norm or layers.ReLU(name="source"))(inputs)
    outputs = [end(Dense(n, name=f"dense_{n}")(x)) for n, end in enumerate(ends, start=2)]
    return randomize(keras.Model(inputs, outputs))


@rule(readers(source=layers.ReLU, dense=Dense))
def relu_twice(source, dense):
    """Nothing but work: relu(relu(x)) = relu(x)."""
    first = kito.Layer.new(layers.Activation, activation="relu", dtype=source.config["dtype"])
    shared = first(source.input)
    return [each.evolve(units=each.units)(shared) for each in dense]


def test_all_readers_are_rewritten_at_once():
    model = heads(layers.ReLU(name="one"), layers.ReLU(name="two"))
    fast = check_rewrites(model, [relu_twice], times=1)
    assert [layer.name for layer in fast.layers if isinstance(layer, Dense)] == [
        "dense_2",
        "dense_3",
    ]
    assert sum(isinstance(layer, layers.Activation) for layer in fast.layers) == 1


def test_readers_may_be_outputs():
    model = heads(layers.Identity(), layers.Identity())
    inner = keras.Model(model.inputs, [layer.output for layer in model.layers[2:4]])
    fast = check_rewrites(inner, [relu_twice], times=1)
    assert fast.output_names == inner.output_names == ["dense_2", "dense_3"]


def test_the_report_tells_which_reader_became_which():
    report = kito.Report()
    kito.optimize(heads(layers.ReLU(), layers.ReLU()), [relu_twice], report=report)
    names = report.renamed
    assert (names["dense_2"], names["dense_3"]) == ("dense_2", "dense_3")


def test_a_source_that_is_an_output_is_kept():
    inputs = keras.Input((4,))
    x = layers.ReLU(name="source")(inputs)
    model = keras.Model(inputs, [x, Dense(2)(x), Dense(3)(x)])
    check_declines(model, [relu_twice], reason="source is an output of the model")


def test_a_result_for_each_reader_is_asked_for():
    @rule(readers(dense=Dense))
    def only_one(dense):
        return dense[0].evolve(units=dense[0].units)(dense[0].input)

    with pytest.raises(kito.RuleError, match="it returned 1 results for 2 calls"):
        kito.optimize(heads(layers.ReLU(), layers.ReLU()), [only_one], strict=True)


def test_a_reader_may_give_way_to_a_tensor_that_is_there():
    @rule(readers(dropout=layers.Dropout))
    def drop_all(dropout):
        return [each.input for each in dropout]

    inputs = keras.Input((4,))
    ends = [layers.ReLU()(layers.Dropout(0.5)(inputs)) for _ in range(3)]
    fast = check_rewrites(keras.Model(inputs, ends), [drop_all], times=1)
    assert not any(isinstance(layer, layers.Dropout) for layer in fast.layers)


def test_readers_in_a_model_that_is_called_twice():
    inner = heads(layers.ReLU(), layers.ReLU())
    one, two = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([one, two], [*inner(one), *inner(two)])
    check_rewrites(model, [relu_twice], times=1)


@pytest.mark.parametrize(
    ("links", "message"), [({}, "at least one link"), ({"a": Dense, "b": many(Dense)}, "not many")]
)
def test_readers_are_behind_a_chain_of_links(links, message):
    with pytest.raises(kito.RuleDefinitionError, match=message):
        readers(**links)


def test_readers_behind_a_chain():
    @rule(readers(scale=layers.Rescaling, between=many(layers.Dropout), relus=layers.ReLU))
    def scaled_relus(scale, between, relus):
        assert scale.scale > 0
        assert len(between) == 2
        return [scale.layer(relu.layer(scale.input)) for relu in relus]

    x = keras.Input((4,))
    y = layers.Dropout(0.5)(layers.Dropout(0.5)(layers.Rescaling(2.0)(x)))
    model = keras.Model(x, [layers.Softmax()(layers.ReLU()(y)) for _ in range(2)])
    check_rewrites(model, [scaled_relus], times=1)


def test_a_reason_has_the_class_of_what_a_rule_made_under_another_name():
    row = [
        Conv2D(4, 3, name="conv"),
        layers.ReLU(name="relu"),
        layers.Rescaling(2.0, name="double"),
    ]
    model = randomize(keras.Sequential([keras.Input((8, 8, 3)), *row]))
    report = kito.explain(model, ["linear_activation", "linear_affine"])
    [reason] = {each.reason for each in report.declined}
    assert reason == "relu (Conv2D) applies its activation (relu) before double"
