"""`validate`: it passes right rules, finds planted bugs, and says what is wrong in a few lines."""

import random
import re
import runpy
import sys
from pathlib import Path

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import BatchNormalization, Conv2D, Dense, Rescaling

import kito.rules
import kito.testing
from kito import Decline, chain, plugins, rule
from kito.definition import Provided
from kito.outline import outline
from kito.rules.dense import dense_batchnorm
from kito.testing import CounterexampleError, randomize, validate

MUTANTS = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "mutants.py"))


@rule(chain(dense=Dense, bn=BatchNormalization))
def forgets_the_shift(dense, bn):
    scale = bn.gamma / np.sqrt(bn.moving_variance + bn.epsilon) if bn.layer.config["scale"] else 1.0
    if dense.activation != "linear" or dense.output.dtype != bn.output.dtype:
        raise Decline(f"{dense.name} is not linear")
    return dense.evolve(kernel=dense.kernel * scale)


def failure(given, **options):
    with pytest.raises(CounterexampleError) as caught:
        validate(given, **options)
    return caught.value


def test_passes_a_right_rule_and_counts():
    result = validate(dense_batchnorm, examples=30)
    assert result.rule == "dense_batchnorm"
    assert result.examples == 30
    assert 0 < result.rewritten < 30
    assert any("applies its activation" in reason for reason in result.declined)
    assert "models drawn" in str(result)


@pytest.mark.parametrize(
    "name",
    ["affine_linear", "concatenate_batchnorm", "duplicates", "parallel_branches", "same_shape"],
)
def test_draws_matches_of_every_kind_of_pattern(name):
    assert validate(name, examples=60 if name == "same_shape" else 15).rewritten


def test_takes_the_name_of_a_rule():
    assert validate("layer_scale", examples=10).rule == "layer_scale"


def test_finds_a_mistake_and_reports_the_smallest_model():
    error = failure(forgets_the_shift)
    assert error.rule == "forgets_the_shift"
    *_, last, dense, bn, outputs = error.model
    assert last.startswith("x = Input(")
    assert dense.startswith("dense = Dense(units=1")
    assert bn == "bn = BatchNormalization()(dense)"
    assert outputs == "outputs: bn"
    assert error.reason.startswith("the outputs differ by")
    assert isinstance(error, AssertionError)
    assert str(error).startswith("forgets_the_shift is wrong, as example ")
    assert f"    {bn}\n" in str(error)


def test_finds_a_rule_that_raises():
    @rule(chain(conv=Conv2D, bn=BatchNormalization))
    def fails(conv, bn):
        return 1 / 0

    assert "ZeroDivisionError" in failure(fails, examples=20).reason


def test_finds_what_can_not_be_loaded():
    class Unsaved(layers.Layer):
        def call(self, x):
            return x

    @rule(chain(layer=layers.Identity))
    def unsaved(layer):
        return kito.Layer.new(Unsaved, name=layer.name, dtype=layer.config["dtype"])

    assert "the result can't" in failure(unsaved, examples=10).reason


def test_finds_what_depends_on_the_image_data_format():
    @rule(chain(conv=Conv2D))
    def takes_all_for_channels_last(conv):
        if conv.data_format == "channels_last" or conv.name == "done":
            raise Decline("it is channels_last")
        return kito.Layer.new(Rescaling, name="done", scale=1.0)

    assert failure(takes_all_for_channels_last).examples > 1


def test_fails_if_the_rule_never_fires():
    @rule(chain(dense=Dense))
    def shy(dense):
        raise Decline("it would rather not")

    with pytest.raises(AssertionError, match="shy never fired, so nothing was checked") as caught:
        validate(shy, examples=10)
    assert "it would rather not" in str(caught.value)
    assert not isinstance(caught.value, CounterexampleError)


def test_says_the_same_in_every_run():
    first, second = (failure(forgets_the_shift, seed=3) for _ in range(2))
    assert str(first) == str(second)
    results = [validate(dense_batchnorm, examples=10, seed=seed) for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_leaves_keras_as_it_was():
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.set_image_data_format("channels_first")
    Dense(1)
    random.seed(7)
    expected = random.random()
    random.seed(7)
    failure(forgets_the_shift)
    validate(dense_batchnorm, examples=5)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert keras.config.image_data_format() == "channels_first"
    assert random.random() == expected
    assert Dense(1).name == "dense_1"
    keras.config.set_image_data_format("channels_last")


# Layers and models of the author's own.


@keras.saving.register_keras_serializable("kito.tests")
class Times(layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@rule(chain(first=Times, second=Times))
def times_times(first, second):
    if first.output.dtype != second.output.dtype:
        raise Decline(f"{second.name} turns {first.output.dtype} into {second.output.dtype}")
    return first.evolve(factor=first.factor * second.factor)


@rule(chain(first=Times, second=Times))
def times_plus_times(first, second):
    if first.output.dtype != second.output.dtype:
        raise Decline(f"{second.name} turns {first.output.dtype} into {second.output.dtype}")
    return first.evolve(factor=first.factor + second.factor)


TIMES = st.builds(Times, st.sampled_from([1.0, 2.0, -0.5]))


def test_draws_layers_with_the_strategies_of_the_author():
    assert validate(times_times, layers={Times: TIMES}, examples=30).rewritten
    error = failure(times_plus_times, layers={Times: TIMES})
    assert error.model[-3:] == (
        "first = Times(factor=1.0)(x)",
        "second = Times(factor=1.0)(first)",
        "outputs: second",
    )


def test_asks_for_a_strategy():
    with pytest.raises(LookupError, match=r"no strategy for layers of Times.*`layers={Times"):
        validate(times_times, examples=5)


def test_draws_models_with_a_strategy_of_the_author():
    def model(factor):
        return keras.Sequential([keras.Input((3,)), Times(factor), Times(2.0)])

    models = st.builds(model, st.sampled_from([1.0, 2.0, 3.0]))
    assert validate(times_times, models=models, examples=10).rewritten == 3  # each model once
    assert "Times(factor=1.0)" in str(failure(times_plus_times, models=models, examples=10))


def test_says_what_keras_could_not_build():
    class Unbuilt(layers.Layer):
        def build(self, shape):
            raise ValueError("it takes no such shape")

    @rule(chain(layer=Unbuilt))
    def any_rule(layer):
        raise Decline("it is not asked")

    with pytest.raises(AssertionError, match="could build no model: it takes no such shape"):
        validate(any_rule, layers={Unbuilt: st.builds(Unbuilt)}, examples=5)


def of_one_unit(graph, match):
    return match.tail.units == 1


def test_draws_until_the_pattern_matches():
    @rule(Provided(chain(first=Dense, second=Dense), of_one_unit))
    def seen(first, second):
        raise Decline(f"units: {second.units}")

    with pytest.raises(AssertionError, match="never fired") as caught:
        validate(seen, examples=20)
    assert re.search(r"models drawn +20", str(caught.value))
    assert re.search(r"units: N +20", str(caught.value))


def test_says_that_the_pattern_never_matched(monkeypatch):
    monkeypatch.setattr("kito.random_matches.ATTEMPTS", 1)  # to find none takes long

    @rule(Provided(chain(dense=Dense), lambda graph, match: False))
    def never(dense):
        raise Decline("it is not asked")

    with pytest.raises(AssertionError, match="The pattern matched in no model"):
        validate(never, examples=5)


def test_says_what_is_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, "kito.validation")
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"validate needs hypothesis: pip install .kito"):
        kito.testing.validate  # noqa: B018


def test_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kito.testing.nothing  # noqa: B018


# The outline of a model.


def test_an_outline_has_what_is_usual_for_another_size_only():
    pools = [layers.MaxPooling2D(1, strides=2), layers.MaxPooling2D()]
    lines = "\n".join(outline(keras.Sequential([keras.Input((4, 4, 1)), *pools])))
    assert "MaxPooling2D(pool_size=(1, 1), strides=(2, 2))" in lines
    assert "MaxPooling2D()" in lines


def test_an_outline_leaves_out_what_is_usual():
    x = keras.Input((4, 4, 2), name="x")
    y = Conv2D(3, 3, use_bias=False, name="conv")(x)
    y = layers.TimeDistributed(Dense(2, activation="relu"), name="steps")(y)
    y = layers.Add(name="add")([y, y * 2.0])
    model = randomize(keras.Model([x], [y, x]))
    lines = outline(model)
    assert lines[0] == "x = Input(None, 4, 4, 2) float32"
    assert lines[1] == "conv = Conv2D(filters=3, kernel_size=(3, 3), use_bias=False)(x)"
    assert lines[2] == "steps = TimeDistributed(layer=Dense(units=2, activation='relu'))(conv)"
    assert lines[3] == "multiply = ops.Multiply(steps, 2.0)"
    assert lines[4] == "add = Add()([steps, multiply])"
    assert lines[5] == "outputs: add, x"


# The mutants of the built-in rules; `nox -s mutants` runs them all.


def test_every_built_in_rule_has_three_mutants():
    counts = dict.fromkeys(plugins.registry(), 0)
    for mutant in MUTANTS["MUTANTS"]:
        counts[mutant.rule] += 1
    few = [name for name, count in counts.items() if count < 3]
    assert [name for name in few if plugins.registry()[name].origin.startswith("kito ")] == []


def the_mutant(name, bug):
    [mutant] = [each for each in MUTANTS["MUTANTS"] if (each.rule, each.bug) == (name, bug)]
    return mutant


def test_the_text_of_every_mutant_is_there_and_python():
    for mutant in MUTANTS["MUTANTS"]:
        path = Path(kito.rules.__file__).with_name(f"{mutant.module}.py")
        compile(MUTANTS["changed"](mutant, path), path, "exec")


def test_a_mutant_leaves_the_rules_alone():
    before = {name: module for name, module in sys.modules.items() if name.startswith("kito.")}
    planted = MUTANTS["planted"](the_mutant("dense_batchnorm", "forgets epsilon"))
    assert planted.name == dense_batchnorm.name
    assert planted.function is not dense_batchnorm.function
    after = {name: module for name, module in sys.modules.items() if name.startswith("kito.")}
    assert before == after
    assert kito.rules is sys.modules["kito.rules"]


def test_a_mutant_whose_text_is_gone_is_an_error():
    mutant = MUTANTS["Mutant"]("conv_batchnorm", "does not exist", "conv", "no such text", "")
    with pytest.raises(LookupError, match=r"'does not exist' of conv_batchnorm .* 0 times"):
        MUTANTS["planted"](mutant)


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("dense_batchnorm", "forgets epsilon"),
        ("depthwise_conv_batchnorm", "mean with the wrong sign"),
        ("padding_padding", "swaps before and after"),
    ],
)
def test_a_mutant_dies(name, bug):
    failure(MUTANTS["planted"](the_mutant(name, bug)))


def test_the_page_is_made_of_the_table():
    written = MUTANTS["PAGE"].read_text()
    assert MUTANTS["page"](MUTANTS["read_rows"]()).splitlines()[:-1] == written.splitlines()[:-1]
    assert all(row.is_as_it_should for row in MUTANTS["read_rows"]())
