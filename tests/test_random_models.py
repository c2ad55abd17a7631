import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from keras import layers

from kito import optimize, random_layers, random_models
from kito.random_models import POLICIES, check, models
from kito.samples import random_inputs
from kito.testing import check_equivalent, randomize

# What Keras says of models that it runs all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*destroy the mask information:UserWarning")

# Building and running a model takes a tenth of a second, some of them a second. The examples are
# the same in every run; benchmarks/random_models.py looks for new ones.
some_models = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("policy", POLICIES)
def test_any_model_is_optimized_as_it_should(policy):
    @settings(some_models, max_examples=50)
    @given(models(policies=[policy]))
    def property_of_all(model):
        check(model)

    property_of_all()


@settings(some_models, max_examples=50)
@given(models(max_steps=2))
def test_small_models_are_optimized_as_they_should(model):
    check(model)


@settings(some_models, max_examples=20)
@given(models())
def test_a_drawn_model_is_built_and_has_finite_weights(model):
    assert model.built
    assert all(np.isfinite(np.asarray(weight)).all() for weight in model.get_weights())


def test_the_policy_in_force_stays():
    @settings(some_models, max_examples=5)
    @given(models(policies=["float64"]))
    def draw(model):
        assert keras.config.dtype_policy().name == "float32"

    draw()


# check() itself: each fault that it is there for is found.


def folded():
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(3, name="dense"), layers.BatchNormalization()]
    )


def with_fault(monkeypatch, fault):
    """Let `check` see an `optimize` that spoils what it returns, or the model."""

    def spoiled(model, rules=None, **options):
        fast = optimize(model, rules, **options)
        return fault(model, fast) or fast

    monkeypatch.setattr(random_models, "optimize", spoiled)


def cancelling():
    """A model in half precision of which the answers to `random_inputs` are all rounding."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = randomize(folded())
    outputs = model.layers[0](random_inputs(model)[:1])
    model.layers[1].moving_mean.assign(keras.ops.cast(outputs[0], "float32"))
    model.layers[1].beta.assign([1e-3, 1e-3, 1e-3])  # not 0, of which nothing is a large part
    return model


def one_row(model, batch_size=2):
    return random_inputs(model)[:1]


def test_check_tells_rounding_from_a_mistake(monkeypatch):
    monkeypatch.setattr("kito.testing.random_inputs", one_row)
    model = cancelling()
    with pytest.raises(AssertionError, match="the outputs differ"):
        check_equivalent(model, optimize(model))
    check(model)
    with_fault(monkeypatch, wrong_weight)
    with pytest.raises(AssertionError, match="the outputs differ"):
        check(model)


def test_check_accepts_what_optimize_does():
    report = check(folded())
    assert report.folded == {"dense_batchnorm": 1}


def wrong_weight(model, fast):
    fast.layers[0].bias.assign_add([0, 0, 0.1])


def changed_source(model, fast):
    model.layers[0].bias.assign_add([0, 0, 0.1])


def called_source(model, fast):
    model.layers[0](keras.Input((5,)))


def renamed_layer_of_source(model, fast):
    model.layers[0].name = "other"


def unoptimized(model, fast):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def more_weights(model, fast):
    tensor = fast.inputs[0]
    return keras.Model(tensor, layers.PReLU(alpha_initializer="ones")(fast(tensor)))


class Unsaved(layers.Layer):
    def call(self, x):
        return x


def lost_in_a_file(model, fast):
    tensor = fast.inputs[0]
    return keras.Model(tensor, Unsaved()(fast(tensor)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (wrong_weight, "the outputs differ"),
        (changed_source, "the model's own weights changed"),
        (called_source, "the model's own calls changed"),
        (renamed_layer_of_source, "the model's own configuration changed"),
        (unoptimized, "rewrote it again"),
        (more_weights, "parameters became"),
        (lost_in_a_file, "the model can be saved and loaded, the result can't"),
    ],
)
def test_check_finds(monkeypatch, fault, message):
    with_fault(monkeypatch, fault)
    with pytest.raises(AssertionError, match=message):
        check(folded())


@pytest.mark.filterwarnings("ignore:.*unbuilt state")
def test_a_model_that_keras_loads_with_other_policies_is_lost_in_a_file():
    """Its outputs may be equal by luck, and those of what is made of it are not."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential([keras.Input((1,)), random_layers.Bottleneck(1)])
    keras.config.set_dtype_policy("float32")
    for weight in model.weights:
        weight.assign(keras.ops.zeros_like(weight))
    error = random_models._lost_in_a_file(model, random_inputs(model))
    assert "other dtype policies" in str(error)
