"""The default sets of the targets, measured choice, and 16 bits."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import BatchNormalization, Conv2D, Dense

import kito
from kito import Decline, plugins, rule, tune
from kito.definition import TARGETS, chain
from kito.testing import check_equivalent, randomize

SHAPE = (8, 8, 4)


def network():
    """Something for many rules, and an output that depends on all."""
    inputs = x = keras.Input(SHAPE)
    x = Conv2D(8, 3, groups=4, use_bias=False)(x)
    x = layers.Activation("silu")(BatchNormalization()(x))
    x = layers.Activation("gelu")(Conv2D(8, 3, groups=2)(x))
    x = layers.Dropout(0.5)(layers.MaxPooling2D()(x))
    x = layers.ReLU()(BatchNormalization()(layers.Add()([x, x])))
    return randomize(keras.Model(inputs, Dense(3)(layers.GlobalAveragePooling2D()(x))))


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_the_same_answers(target):
    model = network()
    fast = kito.optimize(model, target=target)
    check_equivalent(model, fast)
    assert not kito.explain(fast, target=target).applied


def test_the_default_set_is_that_of_the_target():
    sets = {target: {each.name for each in plugins.select(None, target)} for target in TARGETS}
    assert "silu" in sets["tensorflow"] - sets["onnx"]
    assert "gelu" in sets["onnx"] - sets["tensorflow"]
    assert plugins.select(None) == plugins.select(None, keras.backend.backend())
    assert all("conv_batchnorm" in rules for rules in sets.values())


@pytest.mark.parametrize("target", ["tensorflow", "onnx"])
def test_the_order_of_the_rules_does_not_matter(target):
    model = network()
    rules = plugins.select(None, target)
    names = list(plugins.registry())
    results = [
        kito.optimize(model, order)
        for order in (rules, rules[::-1], [*rules[1::2], *rules[::2]], names[::-1], names)
    ]
    configs = [result.get_config() for result in results]
    assert configs[0] == configs[1] == configs[2]
    assert configs[3] == configs[4] != configs[0]


def test_a_target_that_there_is_not():
    with pytest.raises(kito.InputError, match=r"no target 'tensorrt'; there are tensorflow, jax"):
        kito.optimize(network(), target="tensorrt")
    with pytest.raises(kito.RuleDefinitionError, match=r"no target \(tensorrt\)"):
        rule(chain(dense=Dense), default=["tensorrt"])(lambda dense: dense)


# tune, with times that are made up


@rule(chain(conv=Conv2D), default=False)
def widen(conv):
    """Make a kernel of 1x1 one of 3x3."""
    if conv.kernel_size != (1, 1):
        raise Decline(f"{conv.name} is wide already")
    kernel = np.zeros((3, 3, *conv.kernel.shape[2:]))
    kernel[1, 1] = conv.kernel[0, 0]
    return conv.evolve(kernel_size=(3, 3), padding="same", kernel=kernel)


@rule(chain(relu=layers.ReLU), default=False)
def rectify(relu):
    """Write a ReLU as an Activation."""
    return kito.Layer.new(layers.Activation, name=relu.name, dtype="float32", activation="relu")


def pointwise():
    inputs = keras.Input(SHAPE)
    return randomize(keras.Model(inputs, layers.ReLU()(Conv2D(4, 1)(inputs))))


def tuned(ratios, optional, **options):
    """The report of `tune` where adding a rule makes the model so many times faster."""
    model, report = pointwise(), kito.Report()
    built, answers = [], iter(ratios)

    def build(rules, report):
        built.append(tuple(each.name for each in rules))
        return kito.optimize(model, rules, report=report)

    result = tune.tune(build, [], optional, None, report, timer=lambda *_: next(answers), **options)
    check_equivalent(model, result)
    return report, built


def test_tune_keeps_what_pays():
    report, built = tuned([1.5, 0.9, 1.4], [widen, rectify])
    assert [(each.rule, each.kept) for each in report.timed] == [
        ("widen", True),
        ("rectify", False),
    ]
    assert built == [(), ("widen",), ("widen", "rectify")]
    assert report.folded == {"widen": 1}
    assert "1.50 x" in str(report)


def test_tune_leaves_out_what_gains_no_more_than_noise():
    report, _ = tuned([1.01, 1.0], [widen, rectify])
    assert not any(each.kept for each in report.timed)
    assert not report.applied


def test_tune_returns_the_default_if_all_together_is_slower():
    report, _ = tuned([1.5, 1.5, 0.8], [widen, rectify])
    assert not report.applied
    assert "slower than the default set" in report.notes[0]


def test_tune_does_not_time_what_rewrites_nothing():
    report, _ = tuned([], [rule(chain(dense=Dense), default=False)(lambda dense: dense.evolve())])
    assert not report.timed


def test_tune_ends_in_time():
    report, built = tuned([], [widen, rectify], seconds=-1)
    assert built == [()]
    assert len(report.notes) == 2


def test_tune_tries_without_what_is_default_on_some_targets_only():
    model, report = network(), kito.Report()
    fast = kito.optimize(
        model, ["grouped_blocks"], tune=np.ones((2, *SHAPE), "float32"), report=report
    )
    assert ("grouped_blocks", False) in {(each.rule, each.added) for each in report.timed}
    check_equivalent(model, fast)


def test_tune_checks_the_batch():
    with pytest.raises(kito.InputError, match=r"has the shape \(2, 3\); the model takes"):
        kito.optimize(network(), [], tune=np.ones((2, 3), "float32"))


def test_tune_times_in_keras_only():
    with pytest.raises(kito.InputError, match=r"tune runs the model in Keras, and not on .*onnx"):
        kito.optimize(network(), target="onnx", tune=np.ones((2, *SHAPE), "float32"))


# precision


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sixteen_bits_inside_and_the_same_outside(precision):
    model, report = network(), kito.Report()
    fast = kito.optimize(model, precision=precision, report=report)
    assert fast.output.dtype == model.output.dtype == "float32"
    dtypes = {layer.compute_dtype for layer in fast.layers if isinstance(layer, Conv2D)}
    assert dtypes == {precision}
    assert {variable.dtype for variable in fast.variables} == {"float32"}
    difference = kito.compare(model, fast).relative
    assert 1e-5 < difference < 5e-2
    assert f"in {precision} the answers differ by" in report.notes[-1]


def test_sixteen_bits_in_a_nested_model_and_not_in_float64():
    inner = keras.Sequential([keras.Input(SHAPE), Conv2D(4, 1), layers.ReLU()], name="inner")
    inputs = keras.Input(SHAPE)
    x = Conv2D(4, 1, dtype="float64", name="exact")(inner(inputs))
    model = randomize(keras.Model(inputs, Dense(2)(x)))
    fast = kito.optimize(model, [], precision="bfloat16")
    assert fast.get_layer("inner").layers[0].compute_dtype == "bfloat16"
    assert fast.get_layer("exact").compute_dtype == "float64"
    assert kito.compare(model, fast).relative < 5e-2


def test_a_precision_that_there_is_not():
    with pytest.raises(kito.InputError, match="no precision 'int8'; there are bfloat16, float16"):
        kito.optimize(network(), precision="int8")
