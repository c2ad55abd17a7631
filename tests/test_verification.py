"""Two models on the same inputs: what is rounding, and what is a mistake?"""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import BatchNormalization, Conv2D, Dense

import kito
from kito import optimize, verification, verify
from kito.graph.layer import to_numpy
from kito.testing import randomize


def small():
    parts = [Conv2D(8, 3), BatchNormalization(), layers.ReLU(), Conv2D(4, 1), BatchNormalization()]
    return randomize(keras.Sequential([keras.Input((9, 9, 3)), *parts]))


def test_a_right_result_passes():
    model = small()
    fast = optimize(model)
    verification = verify(model, fast)
    assert verification.passed
    assert {each.inputs for each in verification.trials} == {
        "random",
        "other sizes",
        "zeros",
        "large",
    }
    assert all(0 < each.bound < 1e-3 * each.magnitude for each in verification.trials)
    assert "FAILS" not in str(verification)
    assert verification.weakness is None


def test_an_output_that_is_always_the_same_proves_little():
    dense = Dense(2, kernel_initializer="zeros", bias_initializer="ones", name="dense")
    model = keras.Sequential([keras.Input((4,)), dense])
    verification = verify(model, optimize(model))
    assert verification.passed
    assert verification.weakness.endswith("is the same for all random inputs")


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16", "mixed_float16"])
def test_the_bound_goes_by_the_dtype(policy):
    if policy == "float64" and keras.backend.backend() != "tensorflow":
        pytest.skip("Keras computes in float32 there too")
    keras.config.set_dtype_policy(policy)
    model = small()
    verification = verify(model, optimize(model))
    assert verification.passed
    largest = {"float64": 1e-12, "mixed_bfloat16": 0.3, "mixed_float16": 0.04}[policy]
    assert verification.worst.bound <= largest * verification.worst.magnitude


@pytest.mark.parametrize("factor", [1 + 1e-4, 0.0, -1.0, np.nan, np.inf])
def test_one_weight_that_is_wrong_fails(factor):
    model = small()
    fast = optimize(model)
    kernel = to_numpy(fast.layers[0].kernel).copy()
    kernel[..., 3] *= factor
    fast.layers[0].kernel.assign(kernel)
    verification = verify(model, fast)
    assert not verification.passed
    assert "FAILS" in str(verification)


def test_what_zeros_only_show():
    """A mistake in what zeros give is a part of all answers, but a small one of large answers."""
    model = small()
    fast = optimize(model)
    fast.layers[-1].bias.assign_add([0, 0, 3e-3, 0])
    failed = {each.inputs for each in verify(model, fast).trials if not each.passed}
    assert "zeros" in failed


def test_what_the_given_inputs_only_show():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.ops.relu(inputs - 1e6))
    other = keras.Model(inputs, keras.ops.relu(inputs * 0))
    assert verify(model, other).passed
    assert not verify(model, other, np.array([[2e6]], "float32")).passed


def test_a_model_that_amplifies_its_last_bit_is_told_apart():
    """One minus the same: all that is left is rounding, of which the model makes large numbers."""
    inputs = keras.Input((4,))
    one = Dense(3, name="one", use_bias=False)
    two = Dense(3, name="two", use_bias=False)
    model = randomize(keras.Model(inputs, 1e4 * (one(inputs) - two(inputs))))
    two.set_weights(one.get_weights())
    rounded = keras.models.clone_model(model)
    rounded.set_weights(
        [w * np.float32(1 + 2e-7) for w in model.get_weights()[:1]] + model.get_weights()[1:]
    )
    verification = verify(model, rounded)
    assert verification.passed
    assert verification.weakness == "the model amplifies the last bit of its weights"
    assert "proves little" in str(verification)


def overflowing(scale):
    """A model whose last factors are so large that answers are out of range."""
    model = small()
    model.layers[-1].gamma.assign(model.layers[-1].gamma * scale)
    return model


def answers(model, kind):
    batch = verification.drawn_inputs(model, 0)[kind]
    return keras.ops.convert_to_numpy(model.predict_on_batch(batch))


def test_large_inputs_that_overflow_in_part_are_compared_in_part():
    model = overflowing(1e36)
    finite = np.isfinite(answers(model, "large"))
    assert 0.01 < np.mean(finite) < 0.99
    assert np.isfinite(answers(model, "random")).all()
    result = verify(model, optimize(model))
    assert result.passed
    assert result.weakness is None
    [large] = [each for each in result.trials if each.inputs == "large"]
    assert 0 < large.compared < np.mean(finite)
    assert f"on large inputs {large.compared:.1%} was compared of" in str(result)
    assert {each.compared for each in result.trials if each is not large} == {1.0}


def test_not_a_number_where_a_model_does_not_overflow_fails():
    model = overflowing(1e36)
    fast = optimize(model)
    kernel = to_numpy(fast.layers[-1].kernel).copy()
    kernel[..., 3] = np.nan
    fast.layers[-1].kernel.assign(kernel)
    failed = {each.inputs for each in verify(model, fast).trials if not each.passed}
    assert failed == {"random", "other sizes", "zeros", "large"}


def test_a_model_that_overflows_everywhere_proves_nothing():
    inputs = keras.Input((4,))
    dense, other = Dense(3, name="one"), Dense(3, name="two")
    model = randomize(keras.Model(inputs, [dense(inputs), other(inputs)]))
    dense.kernel.assign(dense.kernel * np.nan)
    result = verify(model, optimize(model))
    assert result.passed
    assert result.weakness == "the model answers infinity or not a number in one"
    assert "on random inputs nothing was compared of one, as the model overflows" in str(result)
    assert {each.compared for each in result.trials if each.output == "two"} == {1.0}


def test_what_is_about_to_overflow_is_not_compared():
    """What the order of additions decides is no mistake; not to have a number elsewhere is one."""
    inputs = keras.Input((3,))
    rows = np.array([[3e38, 3e38, -3e38], [1.0, 2.0, 3.0]], "float32")
    one, other, empty = (
        keras.Model(inputs, keras.ops.stack(total, axis=-1))
        for total in (
            [inputs[:, 0] + (inputs[:, 1] + inputs[:, 2])],
            [(inputs[:, 0] + inputs[:, 1]) + inputs[:, 2]],
            [inputs[:, 0] * np.float32(np.nan)],
        )
    )
    assert np.isfinite(one.predict_on_batch(rows)).all()
    assert not np.isfinite(other.predict_on_batch(rows)).all()
    [given] = [each for each in verify(one, other, rows).trials if each.inputs == "given"]
    assert given.passed
    assert given.compared == 0.5
    [given] = [each for each in verify(one, empty, rows).trials if each.inputs == "given"]
    assert not given.passed
    assert verify(one, other, rows[:1]).passed


@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_result_of_another_precision_is_rounded_as_that_is(precision, scale):
    """Of which large inputs may be out of range. A mistake is still larger than the roundings."""
    model = small()
    model.layers[-1].gamma.assign(scale * model.layers[-1].gamma)
    fast = optimize(model, precision=precision)
    result = verify(model, fast)
    assert result.passed
    tried = {each.inputs for each in result.trials}
    assert tried >= {"random", "other sizes", "zeros"}
    assert ("large" in tried) == (precision == "bfloat16")
    layer = next(layer for layer in fast.layers if layer.weights)
    layer.kernel.assign(-layer.kernel)
    assert not verify(model, fast).passed


def test_a_model_that_is_random_says_nothing():
    class Noise(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)

    model = keras.Sequential([keras.Input((4,)), Noise()])
    verification = verify(model, optimize(model))
    assert not verification.repeatable
    assert verification.passed
    assert "another answer each time" in str(verification)


def test_a_result_that_does_not_run_fails():
    model = keras.Sequential([keras.Input((None, 3)), layers.GlobalAveragePooling1D()])
    other = keras.Sequential([keras.Input((None, 3)), layers.Cropping1D(2000), layers.Flatten()])
    verification = verify(model, other)
    assert not verification.passed
    assert "does not run" in str(verification)


def test_a_model_that_does_not_run_is_the_callers_error():
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layers.Reshape((5, 3))(inputs), name="fives")
    with pytest.raises(kito.InputError, match="'fives' does not run on random inputs"):
        verify(model, model)


def test_outputs_that_are_no_floats():
    words = keras.Input((), dtype="int32", name="words")
    numbers = keras.Input((4,), name="numbers")
    outputs = {
        "largest": keras.ops.argmax(Dense(5)(numbers), axis=-1),
        "same": words,
        "positive": numbers > 0,
    }
    model = randomize(keras.Model([words, numbers], outputs))
    assert verify(model, optimize(model)).passed
    other = keras.Model([words, numbers], outputs | {"same": words + 1})
    failed = [each.output for each in verify(model, other).trials if not each.passed]
    assert set(failed) == {"words"}


def test_weights_are_left_as_they_were():
    model = small()
    fast = optimize(model)
    before = [to_numpy(weight) for weight in (*model.weights, *fast.weights)]
    verify(model, fast)
    for old, weight in zip(before, (*model.weights, *fast.weights), strict=True):
        np.testing.assert_array_equal(old, to_numpy(weight))


def test_other_shapes_are_wrong():
    inputs = keras.Input((4,))
    model, other = (keras.Model(inputs, Dense(n)(inputs)) for n in (3, 4))
    assert not verify(model, other).passed


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tensors of text")
def test_text_is_not_enlarged():
    inputs = {
        "word": keras.Input((1,), dtype="string", name="word"),
        "number": keras.Input((1,), name="number"),
    }
    found = layers.StringLookup(vocabulary=["kernel", "bias"])(inputs["word"])
    x = layers.Concatenate()([layers.Embedding(3, 2)(found)[:, 0], inputs["number"]])
    model = randomize(keras.Model(inputs, BatchNormalization()(Dense(2)(x))))
    assert verify(model, optimize(model)).passed


def test_sizes_that_are_not_open_are_left_out():
    # 64 places, as the tile makes so many, though the input says any number
    inputs = keras.Input((None, 3))
    x = BatchNormalization()(layers.Conv1D(4, 1)(inputs))
    whole = keras.ops.tile(layers.MaxPooling1D(64)(x), [1, 64, 1])
    model = randomize(keras.Model(inputs, layers.Concatenate()([x, whole])))
    found = verify(model, optimize(model))
    assert found.passed
    assert found.unfit == ("other sizes",)
    assert "the model does not run on inputs of other sizes" in str(found)


def test_given_inputs_are_enough_and_others_have_their_shapes():
    inputs = keras.Input((None, 3))
    x = BatchNormalization()(Dense(4)(inputs))
    model = randomize(keras.Model(inputs, x + keras.ops.ones((7, 4))))
    fast = optimize(model)
    with pytest.raises(kito.InputError, match="does not run on random inputs"):
        verify(model, fast)
    given = np.ones((2, 7, 3), "float32")
    found = verify(model, fast, given)
    assert {each.inputs for each in found.trials} == {"random", "zeros", "large", "given"}
    assert found.passed
    with pytest.raises(kito.InputError, match="do not run on these inputs"):
        kito.compare(model, model, np.zeros((2, 3, 4, 5), "float32"))
    with pytest.raises(kito.InputError, match="does not run on given inputs"):
        verify(model, fast, given[:, :5])


@pytest.fixture
def draws(monkeypatch):
    """The draws of last bits that are made, of which the first changes nothing."""
    made = []
    original = verification.rounded_otherwise

    def rounded_otherwise(model, other, seed):
        made.append(seed)
        return original(model, other, seed) if len(made) > 1 else nullcontext()

    monkeypatch.setattr(verification, "rounded_otherwise", rounded_otherwise)
    return made


def test_a_result_is_not_wrong_because_one_draw_changes_nothing(draws):
    model = small()
    moved = keras.models.clone_model(model)
    # one unit in the last place and more, as other right answers have it too
    moved.set_weights([weight * np.float32(1 + 3e-7) for weight in model.get_weights()])
    assert verify(model, moved).passed
    assert len(draws) == 2


def test_a_wrong_result_stays_wrong_whatever_is_drawn(draws):
    model = small()
    wrong = keras.models.clone_model(model)
    wrong.set_weights([1.01 * weight for weight in model.get_weights()])
    assert not verify(model, wrong).passed
    assert len(draws) == verification.DRAWS


def test_given_inputs_that_do_not_fit():
    model = small()
    with pytest.raises(kito.InputError, match="does not run on given inputs"):
        verify(model, optimize(model), [np.ones((1, 9, 9, 3)), np.ones((1, 9, 9, 3))])
