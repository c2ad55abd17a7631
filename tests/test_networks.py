"""The fifteen networks on which the original KITO was published, with its figures."""

import keras
import numpy as np
import pytest

import kito
from kito.api import NORMALIZATION_RULES
from kito.testing import TOLERANCES
from tests.networks import NETWORKS, randomize

SIZE = 96  # the smallest at which all of them build; parameters do not depend on it
# To count branches takes long here, and finds none that small models do not take in other tests.
pytestmark = pytest.mark.no_cover
BOUNDS = {"float32": 1e-5, "float64": max(1e-10, TOLERANCES["float64"])}
# To compile takes most of the time; `nox -s zoo` does it for all of keras.applications.
COMPILED = {"DeepLabV3+mobile", "MobileNet", "ResNet50", "ZF_UNET_224"}
# These hold what smaller ones do, more often: they are not built a second time.
LARGE = {
    "DeepLabV3+xception",
    "DenseNet169",
    "DenseNet201",
    "InceptionResNetV2",
    "NASNetLarge",
    "ResNet152-keras-resnet",
}
SMALLER = [network for network in NETWORKS if network.name not in LARGE]


def compiled(model, pictures):
    return model.predict_on_batch(pictures)


def called(model, pictures):
    return keras.ops.convert_to_numpy(model(pictures, training=False))


def difference(model, fast, dtype, run=compiled):
    """The largest difference, as a part of the largest output."""
    pictures = np.random.default_rng(1).normal(size=(2, SIZE, SIZE, 3)).astype(dtype)
    expected, answer = run(model, pictures), run(fast, pictures)
    return np.abs(expected - answer).max() / np.abs(expected).max()


def built(network, dtype):
    if keras.backend.backend() == "torch" and network.name.startswith("NASNet"):
        pytest.skip("keras.applications has no NASNet on PyTorch")
    keras.config.set_dtype_policy(dtype)
    model = network.build(size=SIZE)
    randomize(model)
    return model


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_network(network):
    model = built(network, "float32")
    report = kito.explain(model, NORMALIZATION_RULES)
    assert model.count_params() == network.before
    assert model.count_params() + sum(each.parameters for each in report.applied) == network.after
    assert sum(report.folded.values()) == network.folded
    fast = kito.optimize(model)
    run = compiled if network.name in COMPILED else called
    assert difference(model, fast, "float32", run) <= BOUNDS["float32"]
    assert not kito.explain(fast).applied


@pytest.mark.parametrize("network", SMALLER, ids=lambda network: network.name)
def test_network_in_float64(network):
    """A bound so tight that only rounding is under it."""
    model = built(network, "float64")
    fast = kito.optimize(model)
    assert difference(model, fast, "float64", called) <= BOUNDS["float64"]


def test_the_difference_shows_a_single_wrong_channel():
    network = NETWORKS[0]
    model = network.build(size=SIZE)
    randomize(model)
    fast = kito.optimize(model, NORMALIZATION_RULES)
    bias = fast.get_layer("conv_pw_6_bn").bias
    bias.assign(np.asarray(bias) * np.where(np.arange(bias.shape[0]) == 3, -1, 1))
    assert difference(model, fast, "float32") > BOUNDS["float32"]


def test_reduce_keras_model_and_compare_two_models_results(capsys):
    model = NETWORKS[0].build(size=32)
    randomize(model)
    reduced = kito.reduce_keras_model(model, verbose=True)
    assert reduced.count_params() == NETWORKS[0].after
    assert kito.compare_two_models_results(model, reduced, test_number=3, max_batch=2) < 1e-4
    assert "largest difference" in capsys.readouterr().out
