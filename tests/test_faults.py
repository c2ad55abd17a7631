"""Rules that fail: named and dropped, and the model is right."""

import logging
import time

import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import BatchNormalization, Conv2D, Dense

import kito
from kito import Report, chain, optimize, rule, verification
from kito.faults import SECONDS, build_right
from kito.graph.layer import to_numpy
from kito.rules.dense import dense_batchnorm
from kito.testing import check_equivalent, randomize


def dense_net(blocks=4):
    """Dense, BatchNormalization and ReLU, several times."""
    parts = [keras.Input((6,))]
    for n in range(blocks):
        parts += [Dense(6, name=f"dense_{n}"), BatchNormalization(name=f"bn_{n}"), layers.ReLU()]
    return randomize(keras.Sequential([*parts, Dense(3)]))


def rule_of(function):
    """A rule for Dense -> BatchNormalization that shadows none of the built-in names."""

    @rule(chain(dense=Dense, bn=BatchNormalization), name="a_faulty")
    def faulty(dense, bn):
        return function(dense, bn)

    return faulty


def right(dense, bn):
    return dense_batchnorm.function(dense, bn)


def raising(dense, bn):
    raise ZeroDivisionError("oh")


def looping(dense, bn):
    return [dense.evolve(units=dense.units), bn.evolve(epsilon=bn.epsilon)]


def of_another_shape(dense, bn):
    return dense.evolve(units=dense.units + 1)


def of_another_size(dense, bn):
    return dense.evolve(units=dense.units + 1, kernel=np.ones((6, 7)), bias=np.ones(7))


def returning_nothing(dense, bn):
    return None


def changing_its_input(dense, bn):
    kernel = dense.kernel
    kernel *= 2
    return dense.evolve(kernel=kernel)


FAILING = [
    raising,
    looping,
    of_another_shape,
    of_another_size,
    returning_nothing,
    changing_its_input,
]


@pytest.mark.parametrize("function", FAILING)
def test_a_rule_that_fails_is_dropped(function, caplog):
    model, report = dense_net(), Report()
    before = [to_numpy(weight) for weight in model.weights]
    with caplog.at_level(logging.WARNING, "kito"):
        fast = optimize(model, [rule_of(function), "linear_activation"], report=report)
    check_equivalent(model, fast)
    assert {fault.rule for fault in report.faults} == {"a_faulty"}
    assert set(report.folded) == {"linear_activation"} or not report.folded
    assert "a_faulty" in caplog.text
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, to_numpy(weight))


@pytest.mark.parametrize("function", FAILING)
def test_strict_raises(function):
    with pytest.raises(kito.KitoError):
        optimize(dense_net(), [rule_of(function)], strict=True)


def test_other_rules_go_on():
    model, report = dense_net(), Report()
    fast = optimize(model, [rule_of(raising), dense_batchnorm], report=report)
    assert report.folded == {"dense_batchnorm": 4}
    [fault] = report.faults
    assert "ZeroDivisionError: oh" in fault.problem
    assert "a_faulty" in str(report)
    check_equivalent(model, fast)


def wrong(dense, bn):
    """The mean has the wrong sign."""
    scale = bn.gamma / np.sqrt(bn.moving_variance + bn.epsilon)
    bias = (dense.bias + bn.moving_mean) * scale + bn.beta
    return dense.evolve(kernel=dense.kernel * scale, bias=bias)


def forgetful(dense, bn):
    """Epsilon is forgotten, which is hardly seen."""
    scale = bn.gamma / np.sqrt(bn.moving_variance)
    bias = (dense.bias - bn.moving_mean) * scale + bn.beta
    return dense.evolve(kernel=dense.kernel * scale, bias=bias)


def not_a_number(dense, bn):
    return dense.evolve(kernel=dense.kernel * np.nan)


WRONG = [wrong, forgetful, not_a_number]


@pytest.mark.parametrize("function", WRONG)
def test_the_rewrite_that_is_wrong_is_found(function):
    def sometimes(dense, bn):
        return (function if bn.layer.name == "bn_2" else right)(dense, bn)

    model, report = dense_net(), Report()
    fast = optimize(model, [rule_of(sometimes)], verify=True, report=report)
    [fault] = report.faults
    assert fault.layers == ("dense_2", "bn_2")
    assert report.folded == {"a_faulty": 3}
    assert report.verification.passed
    assert [layer.name for layer in fast.layers if "bn" in layer.name] == [
        f"bn_{n}" for n in range(4)
    ]
    assert isinstance(fast.get_layer("bn_2"), BatchNormalization)
    assert any("did not compute the same" in each.reason for each in report.declined)
    check_equivalent(model, fast)


@pytest.mark.parametrize("function", WRONG)
def test_a_rule_that_is_wrong_everywhere_is_dropped(function):
    model, report = dense_net(6), Report()
    fast = optimize(model, [rule_of(function), dense_batchnorm], verify=True, report=report)
    assert len(report.faults) == 3
    assert report.folded == {"dense_batchnorm": 6}
    check_equivalent(model, fast)


def test_the_source_runs_once_however_many_results_are_checked(monkeypatch):
    run, ran = verification._run, []

    def counted(model, kind, batch):
        ran.append(kind)
        return run(model, kind, batch)

    monkeypatch.setattr(verification, "_run", counted)
    optimize(dense_net(), [rule_of(wrong)], verify=True)
    assert ran == ["random", "other sizes", "zeros", "large", "random"]  # is it repeatable?


def test_a_model_that_overflows_blames_no_rewrite():
    """Large inputs leave the range before the normalization, which would bring them back."""
    model, report = dense_net(), Report()
    dense = model.get_layer("dense_1")
    dense.set_weights([weight * np.float32(1e37) for weight in dense.get_weights()])
    model.get_layer("bn_1").moving_variance.assign(np.full(6, 1e38, "float32"))
    optimize(model, [dense_batchnorm], verify=True, report=report)
    assert not report.faults
    assert report.folded == {"dense_batchnorm": 4}
    assert "on large inputs nothing was compared" in str(report.verification)


@pytest.mark.parametrize("function", [wrong, not_a_number])
def test_the_rewrite_that_is_wrong_is_found_in_a_model_that_overflows(function):
    def sometimes(dense, bn):
        return (function if bn.layer.name == "bn_2" else right)(dense, bn)

    model, report = dense_net(), Report()
    model.layers[-1].set_weights(
        [weight * np.float32(1e38) for weight in model.layers[-1].get_weights()]
    )
    optimize(model, [rule_of(sometimes)], verify=True, report=report)
    [fault] = report.faults
    assert fault.layers == ("dense_2", "bn_2")
    assert any(each.compared < 1 for each in report.verification.trials)


class Checks:
    """A run of 64 rewrites, some of which are wrong: how many results are checked, and when."""

    def __init__(self, wrong, seconds=1.0):
        self.wrong, self.seconds, self.time, self.number = wrong, seconds, 0.0, 0

    def build(self, rules, report, course):
        made = [("a", (), (str(n),)) for n in range(64)] if rules else []
        made = [each for each in made if each not in course.dropped][: course.most]
        course.made.extend(made)
        return made

    def check(self, made, report):
        self.time += self.seconds
        self.number += 1
        return "wrong" if any(int(name) in self.wrong for _, _, (name,) in made) else None

    def run(self):
        report = Report()
        a = rule(chain(dense=Dense), name="a")(right_alone)
        build_right(self.build, [a], report, self.check, strict=False, clock=lambda: self.time)
        return [fault.layers for fault in report.faults]


def right_alone(dense):
    return dense


@pytest.mark.parametrize("place", [0, 1, 31, 62, 63])
def test_a_search_is_a_bisection(place):
    checks = Checks({place})
    assert checks.run() == [(str(place),)]
    assert checks.number <= 3 + 6  # the result before and after, that without rewrites, 64 = 2 ** 6


def test_a_search_goes_on_where_the_last_one_ended():
    checks = Checks({56, 60})
    assert checks.run() == [("56",), ("60",)]
    assert checks.number <= 3 + 6 + 1 + 3


def test_a_search_ends_when_its_time_is_over():
    checks = Checks({40}, seconds=SECONDS / 3)
    assert checks.run() == [()]
    assert checks.number <= 6


@pytest.mark.parametrize("function", WRONG)
def test_strict_raises_what_is_wrong(function):
    with pytest.raises(kito.VerificationError, match="FAILS"):
        optimize(dense_net(), [rule_of(function)], verify=True, strict=True)


def test_a_wrong_rewrite_in_a_nested_model_is_found():
    inner = dense_net(2)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, Dense(2)(inner(inputs)))

    def sometimes(dense, bn):
        return (wrong if bn.layer.name == "bn_1" else right)(dense, bn)

    report = Report()
    fast = optimize(model, [rule_of(sometimes)], verify=True, report=report)
    [fault] = report.faults
    assert fault.layers == (f"{inner.name}/dense_1", f"{inner.name}/bn_1")
    check_equivalent(model, fast)


def test_nothing_is_blamed_if_the_copy_is_wrong():
    class Odd(layers.Layer):
        """Computes something else in each instance, which no configuration says."""

        count = 0

        def __init__(self, **options):
            super().__init__(**options)
            Odd.count += 1
            self.factor = float(Odd.count)

        def call(self, x):
            return x * self.factor

    model = keras.Sequential([keras.Input((3,)), Odd(), Dense(2)])
    fast = optimize(model, [], verify=True)  # such a layer is shared, not copied
    check_equivalent(model, fast)


def test_the_report_says_how_long_rules_took():
    def slow(dense, bn):
        time.sleep(0.02)
        return right(dense, bn)

    report = Report()
    optimize(dense_net(3), [rule_of(slow), "conv_batchnorm"], report=report)
    assert report.seconds["a_faulty"] >= 0.06
    assert report.to_dict()["seconds"] == report.seconds


def test_tuning_survives_a_rule_that_fails(monkeypatch):
    model, report = dense_net(), Report()
    inputs = np.ones((2, 6), "float32")
    fast = optimize(model, [rule_of(raising), dense_batchnorm], tune=inputs, report=report)
    check_equivalent(model, fast)
    assert {fault.rule for fault in report.faults} == {"a_faulty"}


def test_a_convolution_is_verified_too():
    model = randomize(
        keras.Sequential([keras.Input((None, None, 3)), Conv2D(4, 3), BatchNormalization()])
    )
    report = Report()
    optimize(model, verify=True, report=report)
    assert report.folded == {"conv_batchnorm": 1}
    assert report.verification.passed
    assert "verification" in str(report)
