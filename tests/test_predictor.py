"""`kito.predictor`: which engine is taken and why, batches of all kinds, folders and caches."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from keras import layers

import kito
from kito import discovery, selection
from kito.cli import main
from kito.engines.keras import KerasEngine
from kito.hookspecs import ENGINES_GROUP
from kito.reference import Reference
from kito.testing import randomize


class InKeras(KerasEngine):
    """An engine for tests: it runs the model in Keras, and may change what goes in or comes out."""

    def __init__(self, name, before=lambda x: x, after=lambda y: y):
        self.name, self.before, self.after = name, before, after

    def run(self, model):
        run = super().run(model)
        return lambda arrays: [self.after(each) for each in run(list(map(self.before, arrays)))]


class Unable(InKeras):
    def open(self, model, folder, settings):
        raise NotImplementedError("no such operation: Gelu\nsee the manual")


class Absent(InKeras):
    loads_with = ("nowhere_at_all",)
    install = "pip install nowhere"


@pytest.fixture
def install(monkeypatch):
    """Register engines as a plugin does; the built-in ones are switched off."""

    def install(*engines):
        class Plugin:
            @kito.hookimpl
            def register_engines(self):
                return engines

        monkeypatch.setenv("KITO_NO_PLUGINS", "builtin-engines")
        discovery.manager.cache_clear()
        discovery.manager(ENGINES_GROUP).register(Plugin(), name="other-engines 1.0")

    yield install
    discovery.manager.cache_clear()


@pytest.fixture
def times(monkeypatch):
    """Make up the times of engines, and count how often they are asked for."""
    made_up, asked = {}, []

    def medians(runs, seconds):
        asked.append(tuple(runs))
        return {name: made_up.get(name, 1.0) for name in runs}

    monkeypatch.setattr(selection, "medians", medians)
    made_up["asked"] = asked
    return made_up


def network(activation="relu"):
    inputs = keras.Input((8,), name="features")
    x = layers.BatchNormalization()(layers.Dense(16)(inputs))
    return randomize(keras.Model(inputs, layers.Dense(4)(layers.Activation(activation)(x))))


def data_of(samples, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, 8)).astype("float32")


def reasons(predictor):
    return {each.engine: each.reason for each in predictor.choice.candidates}


# auto


def test_the_fastest_engine_is_taken(install, times):
    install(InKeras("slow"), InKeras("fast"), InKeras("usual"))
    times.update(slow=3.0, fast=0.5)
    model = network()
    predictor = kito.predictor(model, batch_size=5)
    assert predictor.engine == "fast"
    assert [each.engine for each in predictor.choice.candidates] == ["fast", "usual", "slow"]
    assert predictor.choice.shapes == ((5, 8),)
    np.testing.assert_allclose(predictor(data_of(3)), model.predict_on_batch(data_of(3)), atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        InKeras("wrong", after=lambda y: y * np.float32(1.001)),
        InKeras("wrong", after=lambda y: y[:, ::-1]),
        InKeras("wrong", after=lambda y: np.where(y > 1, np.nan, y)),
        InKeras("wrong", after=lambda y: y[..., :2]),
        # What an engine does that computes in bfloat16 by itself.
        InKeras("wrong", before=lambda x: (x.view("int32") & ~0xFFFF).view("float32")),
    ],
    ids=["scaled", "reversed", "not a number", "other shape", "sixteen bits"],
)
def test_an_engine_with_wrong_answers_is_left_out_and_named(install, times, wrong):
    install(InKeras("right"), wrong)
    times.update(wrong=0.1)
    predictor = kito.predictor(network())
    assert predictor.engine == "right"
    assert times["asked"] == [("right",)]
    assert "FAILS: it differs by" in reasons(predictor)["wrong"]
    with pytest.raises(kito.InputError, match="no engine gives the model's answers: wrong: on "):
        kito.predictor(network(), "wrong")


def test_answers_are_compared_on_the_given_inputs(install, times):
    odd = 12345.0
    install(InKeras("right"), InKeras("wrong", before=lambda x: np.where(x == odd, 0, x)))
    inputs = np.full((2, 8), odd, "float32")
    assert reasons(kito.predictor(network()))["wrong"] is None
    assert "on given inputs" in reasons(kito.predictor(network(), inputs=inputs))["wrong"]


def test_an_engine_that_can_not_take_the_model_is_left_out_with_its_reason(install, times):
    install(InKeras("right"), Unable("unable"), Absent("absent"))
    predictor = kito.predictor(network())
    assert reasons(predictor) == {
        "right": None,
        "unable": "NotImplementedError: no such operation: Gelu",
        "absent": "nowhere_at_all is not installed: pip install nowhere",
    }
    assert "no such operation: Gelu" in str(predictor)
    for name, reason in (("unable", "Gelu"), ("absent", "pip install nowhere")):
        with pytest.raises(kito.InputError, match=reason):
            kito.predictor(network(), name)


def test_an_engine_is_timed_on_the_given_inputs(install, monkeypatch):
    seen = []
    install(InKeras("one", before=lambda x: seen.append(len(x)) or x), InKeras("two"))
    kito.predictor(network(), inputs=data_of(7).tolist(), seconds=0)
    assert seen[-2:] == [7, 7]
    with pytest.raises(kito.InputError, match=r"the input 'features' has the shape \(7, 3\)"):
        kito.predictor(network(), inputs=data_of(7)[:, :3])


def test_timing_goes_in_turns_and_ends_in_time():
    clock, order = [0.0], []

    def run(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds

        return run

    runs = {"a": run("a", 10), "b": run("b", 11), "c": run("c", 20)}
    assert selection.medians(runs, 500, lambda: clock[0]) == {"a": 10, "b": 11, "c": 20}
    # Once to warm up; five turns of 41 seconds; and 15 of 21 without the slow one, warmed up too.
    assert order[:3] == ["a", "b", "c"]
    turns = [order[start : start + 3] for start in range(3, 18, 3)]
    assert [sorted(turn) for turn in turns] == [["a", "b", "c"]] * 5
    turns = [order[start : start + 2] for start in range(18, 50, 2)]
    assert [sorted(turn) for turn in turns] == [["a", "b"]] * 16
    assert len(order) == 50
    order.clear()
    assert selection.medians({"a": run("a", 100), "b": run("b", 1)}, 10, lambda: clock[0])
    assert sorted(order) == ["a", "a", "a", "b", "b", "b"]
    order.clear()
    assert selection.medians({"a": run("a", 1)}, 10, lambda: clock[0]) == {"a": 1}
    assert order == ["a"] * 2


class Noise(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


def test_a_model_that_answers_otherwise_each_time_is_refused():
    model = keras.Sequential([keras.Input((8,)), Noise()])
    with pytest.raises(kito.InputError, match=r"no engine can be checked: .*another answer each"):
        kito.predictor(model, "keras")


def test_an_engine_may_be_given_itself():
    assert kito.predictor(network(), InKeras("mine")).engine == "mine"


def test_a_check_that_proves_little_says_so():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(2, kernel_initializer="zeros")])
    predictor = kito.predictor(model, "keras")
    assert "The check proves little" in str(predictor)
    assert "The check proves little" not in str(kito.predictor(network(), "keras"))


def test_what_there_is_not():
    with pytest.raises(kito.InputError, match=r"no engine 'kears'. Did you mean 'keras'?"):
        kito.predictor(network(), "kears")
    with pytest.raises(kito.InputError, match="There are: jax, keras, litert, onnxruntime, "):
        kito.predictor(network(), "zzz")
    with pytest.raises(kito.InputError, match="no precision 'float8'; there are bfloat16, float16"):
        kito.predictor(network(), precision="float8")


def test_the_model_stays_as_it_is():
    model = network()
    before = [each.copy() for each in model.get_weights()], model.get_config()
    kito.predictor(model, "keras")
    after = model.get_weights(), model.get_config()
    assert before[1] == after[1]
    assert all(np.array_equal(*pair) for pair in zip(before[0], after[0], strict=True))


# precision


class Precise(InKeras):
    precisions = ("bfloat16",)


@pytest.mark.parametrize(("engine", "lowered"), [(InKeras, True), (Precise, False)])
def test_an_engine_gets_a_lowered_model_unless_it_lowers_itself(install, engine, lowered):
    seen = []

    class Engine(engine):
        def open(self, model, folder, settings):
            policies = {each.dtype_policy.name for each in model.layers[-1].layers}
            seen.append((settings.precision, "mixed_bfloat16" in policies))
            return super().open(model, folder, settings)

    install(Engine("some"))
    assert kito.predictor(network(), "some").precision is None
    assert kito.predictor(network(), "some", precision="bfloat16").precision == "bfloat16"
    assert seen == [(None, False), ("bfloat16", lowered)]


def test_float16_is_not_tried_on_numbers_that_it_does_not_have():
    model = network()
    kinds = {
        precision: set(Reference.of(model, model, None, precision).expected.batches)
        for precision in (None, "float16")
    }
    assert kinds[None] - kinds["float16"] == {"large"}


# cache


def test_a_cached_choice_is_not_timed(install, times, tmp_path):
    install(InKeras("slow"), InKeras("fast"))
    times.update(fast=0.5)
    cache = tmp_path / "cache.json"
    first = kito.predictor(network(), cache=cache)
    second = kito.predictor(network(), cache=cache)  # whose layers have other names and weights
    assert len(times["asked"]) == 1
    assert (first.engine, second.engine) == ("fast", "fast")
    assert (first.choice.cached, second.choice.cached) == (False, True)
    assert second.choice.candidates == first.choice.candidates
    assert "chosen before" in str(second)
    np.testing.assert_array_equal(first(data_of(2)), second(data_of(2)))


def test_what_times_depend_on_is_part_of_the_key(install, times, tmp_path):
    install(InKeras("some"))
    cache = tmp_path / "cache.json"
    made = [
        kito.predictor(network(), cache=cache),
        kito.predictor(network(), cache=cache, batch_size=2),
        kito.predictor(network(), cache=cache, precision="bfloat16"),
        kito.predictor(network("softplus"), cache=cache),
    ]
    assert not any(each.choice.cached for each in made)
    assert len(json.loads(cache.read_text())) == len(made)


def test_a_cached_engine_that_answers_wrong_now_is_not_taken(install, times, tmp_path):
    cache = tmp_path / "cache.json"
    broken = []
    fast = InKeras("fast", after=lambda y: y + 1 if broken else y)
    install(InKeras("slow"), fast)
    times.update(fast=0.5)
    assert kito.predictor(network(), cache=cache).engine == "fast"
    broken.append(True)
    predictor = kito.predictor(network(), cache=cache)
    assert predictor.engine == "slow"
    assert not predictor.choice.cached


@pytest.mark.parametrize("content", ["no json", "[]"])
def test_a_file_that_is_no_cache_is_refused(tmp_path, content):
    cache = tmp_path / "cache.json"
    cache.write_text(content)
    with pytest.raises(kito.InputError, match=r"is no cache of engines. Remove it"):
        kito.predictor(network(), cache=cache)


# many samples


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return network()


@pytest.fixture(scope="module")
def predictor(model):
    return kito.predictor(model, "keras")


class Pictures(keras.utils.PyDataset):
    def __init__(self, data, batches):
        super().__init__()
        self.data, self.batches = data, batches

    def __len__(self):
        if math.isinf(self.batches):
            raise NotImplementedError
        return self.batches

    @property
    def num_batches(self):
        return None if math.isinf(self.batches) else self.batches

    def __getitem__(self, index):
        return self.data[4 * index : 4 * index + 4], "targets"


KINDS = {
    "array": lambda data: data,
    "list": lambda data: data.tolist(),
    "by name": lambda data: {"features": data},
    "tensor": tf.constant,
    "generator": lambda data: (data[start : start + 4] for start in range(0, len(data), 4)),
    "list with targets": lambda data: iter([[data[:4], 0], [data[4:], 0]]),
    "with targets": lambda data: ((data[start : start + 4], 0) for start in range(0, len(data), 4)),
    "tf.data": lambda data: tf.data.Dataset.from_tensor_slices(data).batch(4),
    "tf.data with targets": lambda data: tf.data.Dataset.from_tensor_slices((data, data)).batch(4),
    "tf.data of unknown length": lambda data: (
        tf.data.Dataset.from_tensor_slices(data).filter(lambda _: True).batch(4)
    ),
    "PyDataset": lambda data: Pictures(data, 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_many_samples_of_every_kind(predictor, model, kind):
    answer = predictor.predict(KINDS[kind](data_of(10)), batch_size=4)
    np.testing.assert_allclose(answer, model.predict_on_batch(data_of(10)), atol=1e-5)


def test_structures_of_many_samples():
    one, other = keras.Input((3,), name="one"), keras.Input((2,), name="other")
    model = keras.Model({"one": one, "other": other}, [layers.Dense(2)(one), (other,)])
    data = {"one": np.ones((70, 3), "float32"), "other": np.arange(140.0).reshape(70, 2)}
    predictor = kito.predictor(model, "keras")
    first, (second,) = predictor.predict(data)
    assert first.shape == (70, 2)
    np.testing.assert_array_equal(second, data["other"])
    sliced = tf.data.Dataset.from_tensor_slices(data).batch(32)
    np.testing.assert_array_equal(predictor.predict(sliced)[0], first)


def test_a_generator_is_read_batch_by_batch(install):
    ran, read = [], []
    install(InKeras("counting", before=lambda x: ran.append(len(x)) or x))
    predictor = kito.predictor(network(), "counting")
    ran.clear()

    def batches():
        for index in range(4):
            assert len(ran) == index
            read.append(index)
            yield data_of(3)

    assert predictor.predict(batches()).shape == (12, 4)
    assert len(read) == 4


def test_no_samples(predictor):
    assert predictor.predict(data_of(0)).shape == (0, 4)
    with pytest.raises(kito.InputError, match="the data has no batch"):
        predictor.predict(iter(()))


def test_data_of_no_known_kind(predictor):
    with pytest.raises(kito.InputError, match="a int is neither an array, nor"):
        predictor.predict(7)
    with pytest.raises(kito.InputError, match="the PyDataset has no end"):
        predictor.predict(Pictures(data_of(4), math.inf))


def test_outputs_that_are_no_rows_come_as_they_are():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.ops.mean(inputs, axis=0))
    answer = kito.predictor(model, "keras")(np.ones((5, 3), "float32"))
    np.testing.assert_array_equal(answer, np.ones(3))


# folders


def test_a_folder_that_is_there_is_not_touched(predictor, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(kito.InputError, match=r"mine' exists. Choose another name"):
        predictor.save(tmp_path / "mine")
    with pytest.raises(kito.InputError, match=r"does not exist. Create it first"):
        predictor.save(tmp_path / "nowhere" / "saved")
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_left_of_a_folder_that_was_not_finished(install, tmp_path):
    class Unsavable(InKeras):
        def save(self, model, folder, precision):
            raise OSError(28, "No space left on device")

    install(Unsavable("some"))
    with pytest.raises(kito.InputError, match="can't be written: No space left on device"):
        kito.predictor(network(), "some").save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_not_be_loaded_says_why(predictor, tmp_path, install):
    with pytest.raises(kito.InputError, match="has no predictor that was saved by kito"):
        kito.load_predictor(tmp_path)
    predictor.save(tmp_path / "saved")
    description = tmp_path / "saved" / "predictor.json"
    install(Absent("keras"))
    with pytest.raises(kito.InputError, match="needs the engine keras, but nowhere_at_all is not"):
        kito.load_predictor(tmp_path / "saved")
    install(InKeras("other"))
    with pytest.raises(kito.InputError, match="there is no engine 'keras'"):
        kito.load_predictor(tmp_path / "saved")
    description.write_text(description.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(kito.InputError, match="another version of kito"):
        kito.load_predictor(tmp_path / "saved")


# plugins


def test_two_engines_of_one_name_are_an_error_that_names_the_plugin(install):
    install(InKeras("same"), InKeras("same"))
    with pytest.raises(kito.PluginError, match=r"other-engines 1.0 brings the engine 'same' twice"):
        discovery.engines()


def test_what_is_no_engine_is_refused(install):
    install(KerasEngine)
    with pytest.raises(kito.PluginError, match="which is not a kito engine"):
        discovery.engines()


# the command


def test_engines_are_listed(install):
    install(InKeras("ready"), Absent("absent"))
    result = CliRunner().invoke(main, ["engines", "--json"])
    assert json.loads(result.stdout)["engines"] == [
        {
            "name": "absent",
            "target": keras.backend.backend(),
            "lacks": "nowhere_at_all is not installed: pip install nowhere",
            "origin": "other-engines 1.0",
        },
        {
            "name": "ready",
            "target": keras.backend.backend(),
            "lacks": "",
            "origin": "other-engines 1.0",
        },
    ]
    assert "pip install nowhere" in CliRunner().invoke(main, ["engines"]).stdout


def test_a_model_is_compiled_to_a_folder(install, tmp_path):
    install(InKeras("some"), Unable("unable"))
    model = network()
    model.save(tmp_path / "model.keras")
    arguments = ["compile", str(tmp_path / "model.keras"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert "no such operation: Gelu" in result.stdout
    assert f"{tmp_path / 'out'} is written" in result.stdout
    loaded = kito.load_predictor(tmp_path / "out")
    np.testing.assert_allclose(loaded(data_of(2)), model.predict_on_batch(data_of(2)), atol=1e-5)
    again = CliRunner().invoke(main, [*arguments, "--json"])
    assert again.exit_code == 2
    assert "exists" in json.loads(again.stdout)["error"]


def test_an_engine_that_adds_equal_numbers_in_another_order_is_right():
    """A long sum of equal numbers rounds each time the same way: some are 2e-5 apart."""
    pictures = x = keras.Input((64, 64, 3))
    for _ in range(3):
        x = layers.BatchNormalization()(layers.Conv2D(16, 3, use_bias=False)(x))
        x = layers.ReLU()(x)
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    model = randomize(keras.Model(pictures, x))
    candidates = kito.predictor(model, seconds=0).choice.candidates
    installed = [each for each in candidates if "install" not in (each.reason or "")]
    wrong = [each for each in installed if each.reason and "takes models from" not in each.reason]
    assert not wrong
