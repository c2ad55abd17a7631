"""Every engine that is installed gives the model's answers, here and in a process of its own."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import layers

import kito
from kito.discovery import engines
from kito.engines.openvino import package
from kito.testing import randomize

pytestmark = pytest.mark.filterwarnings("ignore:.*np.object:FutureWarning")

READY = {name: each.engine for name, each in engines().items() if not each.engine.lacks_to_save()}
BACKEND = keras.backend.backend()
# TensorFlow's own package imports Keras.
WITHOUT_KERAS = [name for name, each in READY.items() if not each.holds_model and name != BACKEND]
# They have no such operations on processors.
WITHOUT_BFLOAT16 = ("litert", "onnxruntime")
BOUND = 1e-5  # of the largest output


def network():
    """Nested inputs and outputs, several dtypes, open sizes, and what rules rewrite."""
    pictures = keras.Input((None, 8, 3), name="pictures")
    tokens = keras.Input((4,), dtype="int32", name="tokens")
    flags = keras.Input((2,), dtype="bool", name="flags")
    x = layers.Conv2D(8, 3, groups=2 if BACKEND == "tensorflow" else 1)(
        layers.Conv2D(4, 1)(pictures)
    )
    x = layers.GlobalMaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    words = layers.Flatten()(layers.Embedding(11, 3)(tokens))
    both = layers.Concatenate()([x, words, keras.ops.cast(flags, "float32")])
    inputs = {"text": [tokens, flags], "pictures": pictures}
    outputs = {"scores": layers.Dense(5, activation="gelu")(both), "rest": (x, [tokens])}
    return randomize(keras.Model(inputs, outputs))


def inputs_of(samples, size=8, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "text": [rng.integers(0, 11, (samples, 4)), rng.random((samples, 2)) < 0.5],
        "pictures": rng.normal(size=(samples, size, 8, 3)),
    }


def assert_same(answer, expected):
    """The same structure, dtypes and shapes, and values that are as near as rounding."""
    keras.tree.assert_same_structure(answer, expected)
    for one, other in zip(keras.tree.flatten(answer), keras.tree.flatten(expected), strict=True):
        assert isinstance(one, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        largest = np.abs(other).max(initial=0)
        np.testing.assert_allclose(one, other, rtol=0, atol=BOUND * largest)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return network()


@pytest.fixture(scope="module", params=READY)
def predictor(request, model):
    return kito.predictor(model, request.param)


@pytest.mark.parametrize("samples", [1, 3, 0])
def test_answers_are_those_of_the_model(predictor, model, samples):
    inputs = inputs_of(samples)
    if samples:
        assert_same(predictor(inputs), model.predict_on_batch(inputs))
    else:
        some = model.predict_on_batch(inputs_of(1))
        assert_same(predictor(inputs), keras.tree.map_structure(lambda each: each[:0], some))


def test_open_sizes_stay_open(predictor, model):
    for size in (5, 9):
        inputs = inputs_of(2, size)
        assert_same(predictor(inputs), model.predict_on_batch(inputs))


def test_several_threads_get_their_own_answers(predictor):
    batches = [inputs_of(1 + seed % 3, seed=seed) for seed in range(24)]
    alone = [predictor(each) for each in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(predictor, batches))
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


def test_what_is_saved_gives_the_same_answers(predictor, tmp_path):
    predictor.save(tmp_path / "saved")
    loaded = kito.load_predictor(tmp_path / "saved")
    assert (loaded.engine, loaded.precision) == (predictor.engine, predictor.precision)
    assert str(loaded) == str(predictor)
    assert_same(loaded(inputs_of(3)), predictor(inputs_of(3)))
    loaded.save(tmp_path / "again")
    assert_same(kito.load_predictor(tmp_path / "again")(inputs_of(1)), predictor(inputs_of(1)))


def test_what_is_hard_to_export(predictor):
    """An unused input, one that is an output, an output given twice, constants of a layer."""
    first, unused = keras.Input((4,), name="first"), keras.Input((2,), name="unused")
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 4, 9, 16])]
    )
    scaled = inner(first)
    model = keras.Model([first, unused], [scaled, first, scaled])
    data = [np.random.default_rng(0).normal(size=(2, size)).astype("float32") for size in (4, 2)]
    assert_same(kito.predictor(model, predictor.engine)(data), model.predict_on_batch(data))


@pytest.fixture(scope="module", params=READY)
def fixed(request):
    model = keras.Sequential([keras.Input(batch_shape=(4, 6)), layers.Dense(3)])
    return kito.predictor(model, request.param), model


def test_a_fixed_batch_size(fixed):
    predictor, model = fixed
    data = np.random.default_rng(0).normal(size=(10, 6)).astype("float32")
    assert_same(predictor(data[:4]), model.predict_on_batch(data[:4]))
    with pytest.raises(kito.InputError, match=r"shape \(3, 6\); the model takes \(4, 6\)"):
        predictor(data[:3])
    padded = np.concatenate([data, data[:2]])
    assert_same(predictor.predict(data), model.predict(padded, batch_size=4, verbose=0)[:10])
    assert predictor.predict(data[:0]).shape == (0, 3)
    with pytest.raises(kito.InputError, match="a batch of 10 samples; the model takes 4"):
        predictor.predict(iter([data]))


LOAD = """
import sys
sys.modules["keras"] = sys.modules["tensorflow"] = None  # an import of them would fail
import numpy, kito
folder = sys.argv[1]
given = numpy.load(folder + "/given.npz")
predictor = kito.load_predictor(folder + "/saved")
answer = predictor({"text": [given["tokens"], given["flags"]], "pictures": given["pictures"]})
numpy.savez(folder + "/answer.npz", scores=answer["scores"], x=answer["rest"][0])
"""


def test_loading_needs_the_engine_only(predictor, model, tmp_path):
    if predictor.engine not in WITHOUT_KERAS:
        pytest.skip("its own package is, or imports, Keras")
    inputs = inputs_of(3)
    (tokens, flags), pictures = inputs["text"], inputs["pictures"]
    np.savez(tmp_path / "given.npz", tokens=tokens, flags=flags, pictures=pictures)
    predictor.save(tmp_path / "saved")
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True)
    answer, expected = np.load(tmp_path / "answer.npz"), model.predict_on_batch(inputs)
    assert_same([answer["scores"], answer["x"]], [expected["scores"], expected["rest"][0]])


@pytest.mark.parametrize("name", READY)
def test_sixteen_bits_where_they_are_asked_for(name):
    hidden = layers.Dense(64, activation="relu")
    model = randomize(keras.Sequential([keras.Input((64,)), hidden, layers.Dense(8)]))
    data = np.random.default_rng(0).normal(size=(4, 64)).astype("float32")
    if name in WITHOUT_BFLOAT16:
        with pytest.raises(kito.InputError, match=name):
            kito.predictor(model, name, precision="bfloat16")
        return
    predictor = kito.predictor(model, name, precision="bfloat16")
    answer, expected = predictor(data), model.predict_on_batch(data)
    assert predictor.precision == "bfloat16"
    assert answer.dtype == np.float32
    # Not every processor has bfloat16; an engine that decides by itself then uses float32.
    least = 0 if READY[name].precisions else 1e-4
    assert least <= np.abs(answer - expected).max() / np.abs(expected).max() < 0.05


@pytest.mark.parametrize("name", READY)
def test_a_number_of_threads(name):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    data = np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    if READY[name].holds_model:
        with pytest.raises(kito.InputError, match=r"is that of Keras' backend; set it there"):
            kito.predictor(model, name, threads=1)
    else:
        answer = kito.predictor(model, name, threads=1)(data)
        assert_same(answer, model.predict_on_batch(data))


WITHOUT_TELEMETRY = """
import sys, threading
from kito.engines.openvino import package

package().convert_model
assert threading.active_count() == 1
assert "openvino_telemetry" not in sys.modules
"""


@pytest.mark.skipif("openvino" not in READY, reason="OpenVINO is not installed")
def test_openvino_sends_nothing():
    subprocess.run([sys.executable, "-c", WITHOUT_TELEMETRY], check=True)


@pytest.mark.skipif("openvino" not in READY, reason="OpenVINO is not installed")
def test_openvino_has_a_model_of_its_own_for_the_shapes_that_matter(tmp_path, monkeypatch):
    model = network()
    core = package().Core
    compiled, compile_model = [], core.compile_model

    def watched(self, network, *options):
        compiled.append("any" if network.is_dynamic() else "these")
        return compile_model(self, network, *options)

    kito.predictor(model, "openvino", inputs=inputs_of(3), seconds=0.1).save(tmp_path / "saved")
    monkeypatch.setattr(core, "compile_model", watched)
    for inputs in None, inputs_of(2, size=12):
        predictor = kito.load_predictor(tmp_path / "saved", inputs=inputs)
        for batch in inputs or inputs_of(3), inputs_of(5):
            assert_same(predictor(batch), model.predict_on_batch(batch))
            compiled.append("ran")
        assert compiled == ["these", "ran", "any", "ran"]
        compiled.clear()
    with pytest.raises(kito.InputError, match="is not a dict of"):
        kito.load_predictor(tmp_path / "saved", inputs=np.ones((2, 9)))
