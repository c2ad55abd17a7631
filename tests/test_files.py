"""Loading and writing model files: every bad file gets one sentence with a remedy."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from kito import InputError
from kito.files import check_output_path, load_model, save_model

# Keras warns of itself when it saves with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LOADS_WITHOUT_KITO = """
import sys
sys.modules["kito"] = None
import keras
print(keras.saving.load_model(sys.argv[1]).count_params())
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Every test in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(*more):
    inputs = keras.Input((4,))
    outputs = layers.Dense(3, name="dense")(inputs)
    for layer in more:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name="small")


def same_weights(one, other):
    return all(
        np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True)
    )


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.hdf5"])
def test_loads_both_formats(name):
    model = small()
    model.save(name)
    for path in (name, pathlib.Path(name)):
        assert same_weights(load_model(path), model)


def test_keeps_what_was_compiled():
    model = small()
    model.compile("sgd", "mse")
    model.save("m.keras")
    assert load_model("m.keras").compiled


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_loads_without_a_loss_that_is_not_there(suffix):
    def my_loss(true, predicted):
        return keras.ops.mean(true - predicted)

    model = small()
    model.compile("sgd", my_loss)
    model.save("m" + suffix)
    with pytest.warns(UserWarning, match="loaded without its optimizer, loss and metrics"):
        loaded = load_model("m" + suffix)
    assert same_weights(loaded, model)


def test_network_by_name():
    model = load_model("MobileNetV2")
    assert model.count_params() == 3_538_984


def test_network_whose_name_is_also_a_folder():
    os.mkdir("MobileNet")
    assert load_model("MobileNet").count_params() == 4_253_864


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenetv2", "Did you mean 'MobileNetV2'?"),
        ("ResNet5", "Did you mean 'ResNet50'?"),
        ("qqqq", "Give a `.keras` or `.h5` file, or a name such as 'MobileNetV2'"),
        ("", "Give a `.keras` or `.h5` file"),
        ("missing.keras", "the file 'missing.keras' does not exist"),
        ("missing.h5", "the file 'missing.h5' does not exist"),
        ("folder/model", "the file 'folder/model' does not exist"),
        ("x" * 5000, "neither a file nor a network"),
        ("gs://bucket/model.keras", "does not exist"),
    ],
)
def test_no_such_model(name, expected):
    with pytest.raises(InputError) as error:
        load_model(name)
    assert expected in str(error.value)


def test_weights_that_can_not_be_downloaded(monkeypatch):
    def no_network(weights):
        raise OSError("URL fetch failure")

    monkeypatch.setattr(keras.applications, "MobileNet", no_network)
    with pytest.raises(
        InputError, match=r"MobileNet can't be built with weights=imagenet: .*fetch"
    ):
        load_model("MobileNet", weights="imagenet")


def test_weights_for_a_file():
    small().save("m.keras")
    with pytest.raises(InputError, match=r"'m.keras' is a file and has its own weights"):
        load_model("m.keras", weights="imagenet")


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def corrupt(path):
    """Change one byte of the weights."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("model.weights.h5").header_offset
    content[offset + 2000] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("m.keras", truncated), ("m.h5", truncated), ("m.keras", corrupt)],
)
@pytest.mark.parametrize("unsafe", [False, True])
def test_damaged_file(in_folder, name, damage, unsafe):
    small().save(name)
    damage(in_folder / name)
    with pytest.raises(InputError, match=f"'{name}' is damaged or incomplete. Copy or download"):
        load_model(name, unsafe=unsafe)


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", "is empty"), (b"hello, world", "is not a Keras model")]
)
@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.onnx"])
def test_not_a_model_file(in_folder, name, content, expected):
    (in_folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"'{name}' {expected}. Give a `.keras` or `.h5` file"):
        load_model(name)


def test_zip_without_a_model():
    with zipfile.ZipFile("m.keras", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(InputError, match=r"a zip archive without a Keras model \(no config.json\)"):
        load_model("m.keras")


@pytest.mark.parametrize("config", ["{", '"text"', '{"class_name": "Functional"}'])
def test_config_that_is_no_config(config):
    with zipfile.ZipFile("m.keras", "w") as archive:
        archive.writestr("config.json", config)
    with pytest.raises(InputError, match=r"'m.keras'"):
        load_model("m.keras")


def test_file_of_the_other_format():
    small().save("m.h5")
    shutil.copy("m.h5", "n.keras")
    with pytest.raises(InputError, match=r"content of a `.h5` file.* Rename it to 'n.h5'"):
        load_model("n.keras")
    small().save("m.keras")
    shutil.copy("m.keras", "n.h5")
    with pytest.raises(InputError, match=r"content of a `.keras` file.* Rename it to 'n.keras'"):
        load_model("n.h5")


def test_weights_only():
    small().save_weights("m.weights.h5")
    with pytest.raises(InputError, match=r"'m.weights.h5' has weights only.*`model.load_weights`"):
        load_model("m.weights.h5")


def test_folders():
    os.mkdir("some")
    with pytest.raises(InputError, match=r"'some' is a folder. Give a `.keras` or `.h5` file"):
        load_model("some")
    pathlib.Path("some/saved_model.pb").touch()
    with pytest.raises(InputError, match="'some' is a TensorFlow SavedModel"):
        load_model("some")


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


def activation(x):
    return 2 * x


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("layer", "missing"),
    [
        (Doubled(), "Doubled"),
        (layers.Activation(activation), "activation"),
        (layers.Lambda(activation), "activation"),
    ],
)
def test_custom_object_that_is_not_registered(suffix, layer, missing):
    small(layer).save("m" + suffix)
    with pytest.raises(InputError) as error:
        load_model("m" + suffix)
    assert f"needs the custom object '{missing}'" in str(error.value)
    assert "register_keras_serializable" in str(error.value)
    assert "--import MODULE" in str(error.value)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_lambda_only_if_the_source_is_trusted(suffix):
    inner = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: 2 * x, name="double")])
    small(inner).save("m" + suffix)
    with pytest.raises(InputError, match=r"lambda of 'double'.*trust.*--unsafe"):
        load_model("m" + suffix)
    loaded = load_model("m" + suffix, unsafe=True)
    dense = loaded.get_layer("dense")
    x = np.ones((2, 4), "float32")
    expected = 2 * keras.ops.convert_to_numpy(dense(x))
    np.testing.assert_allclose(loaded.predict_on_batch(x), expected, rtol=1e-6)


def test_lambda_of_keras_2_is_found_too(monkeypatch):
    """Keras 2 wrote the code in a list; no release of Keras is trusted to refuse that."""
    small(layers.Lambda(lambda x: 2 * x, name="double")).save("m.h5")
    with h5py.File("m.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layer = next(each for each in config["config"]["layers"] if each["class_name"] == "Lambda")
        layer["config"]["function"] = list(layer["config"]["function"]["config"].values())
        file.attrs["model_config"] = json.dumps(config)

    def not_called(*_args, **_kwargs):
        raise AssertionError("Keras saw a file with code in it")

    monkeypatch.setattr(keras.saving, "load_model", not_called)
    with pytest.raises(InputError, match="lambda of 'double'"):
        load_model("m.h5")


def test_code_in_the_training_configuration():
    model = small()
    model.compile("sgd", "mse")
    model.save("m.h5")
    with h5py.File("m.h5", "r+") as file:
        config = json.loads(file.attrs["training_config"])
        config["loss"] = {"class_name": "__lambda__", "config": {"value": "..."}}
        file.attrs["training_config"] = json.dumps(config)
    with pytest.raises(InputError, match="the lambda of the model"):
        load_model("m.h5")


def test_what_only_keras_calls_unsafe(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise ValueError("TFSMLayer is disallowed, you can override this: `safe_mode=False`")

    small().save("m.keras")
    monkeypatch.setattr(keras.saving, "load_model", refuse)
    with pytest.raises(InputError, match=r"does not load in safe mode.*--unsafe"):
        load_model("m.keras")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("folder", "'folder' is a folder. Name the file in it: 'folder/model.keras'"),
        ("m.h5", "'m.h5' is not named `.keras`.* Call it 'm.keras'"),
        ("m", "'m' is not named `.keras`.* Call it 'm.keras'"),
        ("no/m.keras", "the folder '.*/no' of 'no/m.keras' does not exist. Create it"),
        ("old.keras", "'old.keras' exists. .* overwrite it with --force"),
        ("dangling.keras", "'dangling.keras' exists"),
    ],
)
def test_output_paths(in_folder, path, expected):
    os.mkdir("folder")
    pathlib.Path("old.keras").write_text("old")
    os.symlink("nowhere.keras", "dangling.keras")
    before = sorted(os.listdir())
    with pytest.raises(InputError, match=expected):
        check_output_path(path, force=False)
    with pytest.raises(InputError, match=expected):
        save_model(small(), path)
    assert sorted(os.listdir()) == before
    assert pathlib.Path("old.keras").read_text() == "old"


def test_output_folder_that_is_not_writable(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match=r"the folder '.*' of 'm.keras' is not writable. Choose"):
        check_output_path("m.keras", force=True)


def test_saved_file_is_read_without_kito(in_folder):
    model = small()
    save_model(model, "m.keras")
    assert os.listdir() == ["m.keras"]
    umask = os.umask(0)
    os.umask(umask)
    assert (in_folder / "m.keras").stat().st_mode & 0o777 == 0o666 & ~umask
    done = subprocess.run(
        [sys.executable, "-c", LOADS_WITHOUT_KITO, "m.keras"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == model.count_params()


def test_force_replaces_what_a_link_points_to():
    small().save("real.keras")
    os.symlink("real.keras", "link.keras")
    model = small()
    save_model(model, "link.keras", force=True)
    assert os.path.islink("link.keras")
    assert same_weights(load_model("real.keras"), model)
    assert sorted(os.listdir()) == ["link.keras", "real.keras"]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(28, "No space left on device"), InputError),
        (NotImplementedError("get_config"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("when", ["saving", "replacing"])
def test_a_failure_leaves_the_old_file_alone(monkeypatch, raised, expected, when):
    def fail(*args):
        if when == "saving":
            pathlib.Path(args[1]).write_text("half a model")
        raise raised

    pathlib.Path("m.keras").write_text("old")
    monkeypatch.setattr(
        *((keras.saving, "save_model") if when == "saving" else (os, "replace")), fail
    )
    with pytest.raises(expected, match=r"No space|get_config|^$"):
        save_model(small(), "m.keras", force=True)
    assert os.listdir() == ["m.keras"]
    assert pathlib.Path("m.keras").read_text() == "old"


def test_a_file_that_keras_could_not_load_is_not_written():
    @keras.saving.register_keras_serializable("test_files")
    class Forgetful(layers.Layer):
        def __init__(self, size, **options):
            super().__init__(**options)

        def get_config(self):
            return super().get_config()

    pathlib.Path("m.keras").write_text("old")
    model = keras.Sequential([keras.Input((3,)), Forgetful(2)])
    with pytest.raises(InputError, match=r"can save the result, but not load it again: .*'size'"):
        save_model(model, "m.keras", force=True)
    assert os.listdir() == ["m.keras"]
    assert pathlib.Path("m.keras").read_text() == "old"


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_infinite_weights_are_told(suffix):
    model = small()
    model.get_layer("dense").bias.assign([0, np.inf, 0])
    model.save("m" + suffix)
    with pytest.warns(UserWarning, match="the weight 'dense/bias' has infinite values"):
        loaded = load_model("m" + suffix)
    assert same_weights(loaded, model)


@keras.saving.register_keras_serializable("test_files")
class Named(keras.Model):
    """A Functional model whose configuration does not say so."""

    def __init__(self, **kwargs):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(4)(inputs), **kwargs)

    def get_config(self):
        return {"name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def called_twice(inside):
    """Keras counts the calls of models from one, those of layers from zero."""
    one, two = keras.Input((4,)), keras.Input((4,))
    return keras.Model([one, two], layers.Add()([inside(inside(one)), inside(two)]))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    "inside",
    [
        lambda: layers.Dense(4),
        lambda: keras.Sequential([keras.Input((4,)), layers.Dense(4)]),
        lambda: called_twice_itself(),
        Named,
    ],
)
def test_layers_and_models_that_are_called_twice(suffix, inside):
    model = called_twice(inside())
    model.save("m" + suffix)
    assert same_weights(load_model("m" + suffix), model)


def called_twice_itself():
    inputs = keras.Input((4,))
    dense = layers.Dense(4)
    return keras.Model(inputs, dense(dense(inputs)))


def test_calls_in_any_order():
    """Keras tries a call again when what it takes is there."""
    model = small(layers.ReLU(name="relu"), layers.Dense(2, name="last"))
    model.save("m.keras")
    with zipfile.ZipFile("m.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"].reverse()
    members["config.json"] = json.dumps(config)
    with zipfile.ZipFile("m.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert same_weights(load_model("m.keras"), model)


def in_place_of_python(monkeypatch, program):
    """Let another program read HDF5 files."""
    pathlib.Path("python").write_text(f"#!/bin/sh\n{program}\n")
    os.chmod("python", 0o755)
    monkeypatch.setattr(sys, "executable", os.path.abspath("python"))


@pytest.mark.parametrize(
    ("program", "seconds"),
    [("kill -SEGV $$", 30), ("kill -ABRT $$", 30), ("exec sleep 60", 0.1)],
)
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_file_on_which_hdf5_crashes_or_hangs(monkeypatch, name, program, seconds):
    small().save(name)
    in_place_of_python(monkeypatch, program)
    monkeypatch.setattr("kito.hdf5.SECONDS", seconds)
    with pytest.raises(InputError, match=f"'{name}' is damaged or incomplete"):
        load_model(name)


def test_hdf5_files_that_can_not_be_read_here(monkeypatch):
    small().save("m.keras")
    in_place_of_python(monkeypatch, "echo no module named h5py >&2; exit 1")
    with pytest.raises(RuntimeError, match="HDF5 files can't be read: no module named h5py"):
        load_model("m.keras")
