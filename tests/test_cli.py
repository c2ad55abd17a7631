"""The command: what it prints and writes, its exit codes, and what it says of bad input."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

from kito import Decline, chain, compare, plugins, rule
from kito.cli import main
from kito.definition import TARGETS
from kito.plugins import Registered

# Keras warns of itself when it saves with NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("default::UserWarning"),  # the command shows them
]

DONE, RESULT_FAILED, INPUT_UNUSABLE, DEFECT = 0, 1, 2, 3


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Every test in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kito(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)


def conv_bn(*more):
    """Two convolutions with normalizations; the second pair can't be folded."""
    inputs = keras.Input((8, 8, 3), name="picture")
    x = layers.Conv2D(4, 3, name="conv1")(inputs)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.Conv2D(4, 3, activation="relu", name="conv2")(x)
    x = layers.BatchNormalization(name="bn2")(x)
    x = layers.Flatten(name="flat")(x)
    for layer in more:
        x = layer(x)
    model = keras.Model(inputs, x, name="small")
    rng = np.random.default_rng(0)
    for name in ("bn1", "bn2"):
        bn = model.get_layer(name)
        bn.moving_mean.assign(rng.normal(0, 1, 4))
        bn.moving_variance.assign(rng.uniform(0.5, 2, 4))
    return model


@pytest.fixture
def saved(in_folder):
    model = conv_bn()
    model.save(in_folder / "m.keras")
    return model


def assert_refused(result, *expected, exit_code=INPUT_UNUSABLE):
    """One line on stderr that says all of `expected`, and nothing on stdout."""
    assert result.exit_code == exit_code
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if not line.startswith("Warning: ")]
    assert len(errors) == 1
    assert errors[0].startswith("Error: ")
    for part in expected:
        assert part in errors[0]


def test_optimize_writes_what_computes_the_same(saved):
    result = kito("optimize", "m.keras", "-o", "out.keras", "--rule", "conv_batchnorm")
    assert result.exit_code == DONE
    assert result.stderr == ""
    assert "conv_batchnorm" in result.stdout
    assert "conv2 applies its activation (relu) before bn2" in result.stdout
    assert "out.keras is written" in result.stdout
    fast = keras.saving.load_model("out.keras")
    assert [each.name for each in fast.layers] == ["picture", "bn1", "conv2", "bn2", "flat"]
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        fast.predict_on_batch(x), saved.predict_on_batch(x), rtol=1e-4, atol=1e-5
    )


def test_optimize_json_is_one_document(saved):
    result = kito("optimize", "m.keras", "-o", "out.keras", "--json", "--rule", "conv_batchnorm")
    assert result.exit_code == DONE
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["source"] == "m.keras"
    assert document["output"] == "out.keras"
    assert [each["rule"] for each in document["report"]["applied"]] == ["conv_batchnorm"]
    assert document["comparison"]["relative"] <= 1e-5
    trials = document["report"]["verification"]["trials"]
    assert all(each["difference"] <= each["bound"] for each in trials)


def test_optimize_a_sequential_model():
    keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()], name="chain"
    ).save("m.keras")
    assert kito("optimize", "m.keras", "-o", "out.keras").exit_code == DONE
    assert isinstance(keras.saving.load_model("out.keras"), keras.Sequential)


def test_optimize_a_legacy_file(saved):
    saved.save("m.h5")
    assert kito("optimize", "m.h5", "-o", "out.keras").exit_code == DONE


@pytest.mark.parametrize(
    ("options", "applied"),
    [
        (["--rules", "dense_batchnorm"], []),
        (["--rules", "dense_batchnorm, conv_batchnorm"], ["conv_batchnorm"]),
        (["--rule", "dense_batchnorm", "--rule", "conv_batchnorm"], ["conv_batchnorm"]),
    ],
)
def test_only_some_rules(saved, options, applied):
    document = json.loads(kito("inspect", "m.keras", "--json", *options).stdout)
    assert [each["rule"] for each in document["report"]["applied"]] == applied


def test_verbose_shows_every_rewrite(saved):
    assert "conv1 -> bn1" not in kito("inspect", "m.keras").stdout
    shown = kito("inspect", "m.keras", "--verbose").stdout
    assert "conv1 -> bn1" in shown
    assert "flat " in shown


def test_without_verbose_long_tables_are_cut():
    inputs = x = keras.Input((2,))
    for _ in range(23):
        x = layers.BatchNormalization()(layers.Dense(2, activation="relu")(x))
    keras.Model(inputs, x).save("m.keras")
    shown = kito("inspect", "m.keras", "--rule", "dense_batchnorm").stdout
    assert "nothing: no rule applies" in shown
    assert "and 3 more: --verbose" in shown
    full = kito("inspect", "m.keras", "--rule", "dense_batchnorm", "--verbose").stdout
    assert "and 3 more" not in full


def test_inspect(saved):
    shown = kito("inspect", "m.keras").stdout
    assert f"small: Functional, 6 layers, {saved.count_params():,} parameters" in shown
    assert "(None, 8, 8, 3)" in shown
    document = json.loads(kito("inspect", "m.keras", "--json", "--rule", "conv_batchnorm").stdout)
    assert document["parameters"] == saved.count_params()
    assert document["inputs"] == [{"name": "picture", "shape": [None, 8, 8, 3], "dtype": "float32"}]
    assert document["outputs"] == [{"name": "flat", "shape": [None, 64], "dtype": "float32"}]
    assert document["layers"][1] == {
        "name": "conv1",
        "class": "Conv2D",
        "parameters": 112,
        "dtype": "float32",
    }
    [declined] = document["report"]["declined"]
    assert declined["reason"] == "conv2 applies its activation (relu) before bn2"


def test_inspect_goes_into_nested_models():
    inner = conv_bn()
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, inner(inputs)).save("m.keras")
    document = json.loads(kito("inspect", "m.keras", "--json").stdout)
    assert "small/conv1" in [each["name"] for each in document["layers"]]


def test_targets_and_precision(saved):
    result = kito(
        "optimize", "m.keras", "-o", "out.keras", "--target", "onnx", "--precision", "bfloat16"
    )
    assert result.exit_code == DONE
    assert "in bfloat16 the answers differ by" in result.stdout
    fast = keras.saving.load_model("out.keras")
    assert {layer.compute_dtype for layer in fast.layers} == {"bfloat16", "float32"}
    assert_refused(kito("inspect", "m.keras", "--target", "tpu"), "no target 'tpu'; there are")
    refused = kito("optimize", "m.keras", "-o", "new.keras", "--precision", "int8")
    assert_refused(refused, "no precision 'int8'")


def test_tune(saved):
    result = kito("optimize", "m.keras", "-o", "out.keras", "--tune", "--json")
    assert result.exit_code == DONE
    assert json.loads(result.stdout)["report"]["timed"]


def test_rules():
    shown = kito("rules")
    assert shown.exit_code == DONE
    assert "Write gelu with the error function." in shown.stdout
    assert "not torch" in shown.stdout
    listed = {each["name"]: each for each in json.loads(kito("rules", "--json").stdout)["rules"]}
    assert list(listed) == list(plugins.registry())
    assert listed["conv_batchnorm"]["default"] == list(TARGETS)
    assert listed["gelu"]["default"] == ["onnx"]
    assert listed["squeeze_dense"]["default"] == []
    assert listed["conv_batchnorm"]["origin"].startswith("kito ")


def test_a_network_by_name_has_random_weights():
    result = kito("inspect", "MobileNetV2")
    assert result.exit_code == DONE
    assert "Warning: MobileNetV2 has random weights. Use --weights imagenet" in result.stderr
    assert "3,538,984 parameters" in result.stdout


def test_a_check_that_says_little():
    """The answer does not depend on the input: no mistake could show."""
    constant = layers.Dense(2, kernel_initializer="zeros", bias_initializer="ones")
    conv_bn(constant).save("m.keras")
    result = kito("optimize", "m.keras", "-o", "out.keras")
    assert result.exit_code == DONE
    assert "Warning: the verification proves little" in result.stderr


BAD_ARGUMENTS = {
    "no file": (["missing.keras", "-o", "out.keras"], "'missing.keras' does not exist"),
    "no network": (["mobilenetv2", "-o", "out.keras"], "Did you mean 'MobileNetV2'?"),
    "weights": (
        ["m.keras", "-o", "out.keras", "--weights", "imagenet"],
        "'m.keras' is a file and has its own weights",
    ),
    "exists": (["m.keras", "-o", "m.keras"], "'m.keras' exists", "--force"),
    "no folder": (["m.keras", "-o", "no/out.keras"], "does not exist. Create it"),
    "a folder": (["m.keras", "-o", "."], "'.' is a folder"),
    "suffix": (["m.keras", "-o", "out.h5"], "Call it 'out.keras'"),
    "rule": (
        ["m.keras", "-o", "out.keras", "--rule", "conv_batchnrm"],
        "there is no rule 'conv_batchnrm'. Did you mean 'conv_batchnorm'?",
    ),
    "module": (
        ["m.keras", "-o", "out.keras", "--import", "no_such_module"],
        "the module 'no_such_module' can't be imported: ModuleNotFoundError",
    ),
    "broken module": (
        ["m.keras", "-o", "out.keras", "--import", "exits"],
        "the module 'exits' can't be imported: SystemExit",
    ),
}


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments(saved, monkeypatch, arguments):
    pathlib.Path("exits.py").write_text("raise SystemExit(7)")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = sorted(os.listdir())
    arguments, *expected = arguments
    assert_refused(kito("optimize", *arguments), *expected)

    as_json = kito("optimize", *arguments, "--json")
    assert as_json.exit_code == INPUT_UNUSABLE
    error = json.loads(as_json.stdout)
    assert list(error) == ["error"]
    assert as_json.stderr == f"Error: {error['error']}\n"
    assert sorted(os.listdir()) == before


def bad_files():
    conv_bn().save("whole.keras")
    content = pathlib.Path("whole.keras").read_bytes()
    pathlib.Path("truncated.keras").write_bytes(content[: len(content) // 2])
    conv_bn().save("whole.h5")
    content = pathlib.Path("whole.h5").read_bytes()
    pathlib.Path("truncated.h5").write_bytes(content[: len(content) // 2])
    pathlib.Path("text.keras").write_text("hello")
    conv_bn().save_weights("only.weights.h5")
    conv_bn(layers.Lambda(lambda x: 2 * x, name="double")).save("lambda.keras")
    conv_bn(layers.Lambda(lambda x: 2 * x, name="double")).save("lambda.h5")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("truncated.keras", "is damaged or incomplete"),
        ("truncated.h5", "is damaged or incomplete"),
        ("text.keras", "is not a Keras model"),
        ("only.weights.h5", "has weights only"),
        ("lambda.keras", "allow it with --unsafe"),
        ("lambda.h5", "allow it with --unsafe"),
    ],
)
@pytest.mark.parametrize("command", ["optimize", "inspect"])
def test_bad_files(command, name, expected):
    bad_files()
    before = sorted(os.listdir())
    options = ["-o", "out.keras"] if command == "optimize" else []
    assert_refused(kito(command, name, *options), f"'{name}'", expected)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_unsafe_allows_lambdas(suffix):
    conv_bn(layers.Lambda(lambda x: 2 * x)).save("m" + suffix)
    result = kito("optimize", "m" + suffix, "-o", "out.keras", "--unsafe")
    assert result.exit_code == DONE, result.stderr


CUSTOM = """
import keras
print("imported")

@keras.saving.register_keras_serializable("test_cli")
class Tripled(keras.layers.Layer):
    def call(self, x):
        return 3 * x
"""


def test_custom_objects_are_imported_from_the_current_folder(in_folder, monkeypatch):
    pathlib.Path("custom_of_test_cli.py").write_text(CUSTOM)
    monkeypatch.setattr(sys, "path", [*sys.path, str(in_folder)])
    module = __import__("custom_of_test_cli")
    conv_bn(module.Tripled()).save("m.keras")
    del sys.modules["custom_of_test_cli"]
    keras.saving.get_custom_objects().pop("test_cli>Tripled")
    monkeypatch.setattr(sys, "path", sys.path[:-1])

    refused = kito("optimize", "m.keras", "-o", "out.keras")
    assert_refused(refused, "the custom object 'Tripled'", "--import MODULE")
    result = kito(
        "optimize", "m.keras", "-o", "out.keras", "--import", "custom_of_test_cli", "--json"
    )
    assert json.loads(result.stdout)["output"] == "out.keras"
    assert result.stderr == "imported\n"


def registered(*rules):
    return lambda: {each.name: Registered(each, "test 1.0") for each in rules}


PATTERN = chain(conv=layers.Conv2D, bn=layers.BatchNormalization)


def test_a_rule_that_raises(saved, monkeypatch):
    @rule(PATTERN)
    def raising(conv, bn):
        """Raise."""
        raise ZeroDivisionError("of\ntwo lines")

    monkeypatch.setattr(plugins, "registry", registered(raising))
    arguments = ("optimize", "m.keras", "-o", "out.keras")
    refused = kito(*arguments, "--strict")
    assert_refused(
        refused,
        "the rule 'raising' failed on conv1, bn1",
        "ZeroDivisionError",
        exit_code=RESULT_FAILED,
    )
    assert os.listdir() == ["m.keras"]
    result = kito(*arguments)
    assert result.exit_code == DONE
    assert "ZeroDivisionError" in result.stdout  # in the table of faults


@pytest.mark.parametrize("factor", [2.0, np.nan])
def test_a_rule_that_is_wrong(saved, monkeypatch, factor):
    @rule(PATTERN)
    def wrong(conv, bn):
        """Compute something else."""
        if conv.layer.name != "conv1":
            raise Decline("once is enough")
        return conv.evolve(kernel=conv.kernel * np.float32(factor))

    pathlib.Path("out.keras").write_text("old")
    monkeypatch.setattr(plugins, "registry", registered(wrong))
    arguments = ("optimize", "m.keras", "-o", "out.keras", "--force")
    expected = ("the result failed its check:", "flat FAILS: it differs", "Nothing was written")
    assert_refused(kito(*arguments, "--strict"), *expected, exit_code=RESULT_FAILED)
    refused = kito(*arguments, "--strict", "--json")
    assert refused.exit_code == RESULT_FAILED
    assert "failed its check" in json.loads(refused.stdout)["error"]
    assert sorted(os.listdir()) == ["m.keras", "out.keras"]
    assert pathlib.Path("out.keras").read_text() == "old"

    result = kito(*arguments, "--json")
    assert result.exit_code == DONE
    document = json.loads(result.stdout, parse_constant=pytest.fail)  # NaN is not JSON
    [fault] = document["report"]["faults"]
    assert fault["rule"] == "wrong"
    assert not document["report"]["applied"]
    one, two = (keras.saving.load_model(name) for name in ("m.keras", "out.keras"))
    assert compare(one, two).relative < 1e-5


def test_a_result_that_does_not_run(saved, monkeypatch):
    @rule(PATTERN)
    def unrunnable(conv, bn):
        """Make what Keras builds and TensorFlow does not run."""
        return conv.evolve(kernel_size=(1, 1))

    monkeypatch.setattr(plugins, "registry", registered(unrunnable))
    result = kito("optimize", "m.keras", "-o", "out.keras", "--strict")
    assert_refused(result, "the result failed its check", exit_code=RESULT_FAILED)
    assert os.listdir() == ["m.keras"]


def test_a_model_that_random_inputs_do_not_fit():
    inputs = keras.Input((None, 3))
    keras.Model(inputs, layers.Reshape((5, 3))(inputs), name="fives").save("m.keras")
    result = kito("optimize", "m.keras", "-o", "out.keras")
    assert_refused(result, "the model 'fives' does not run on random inputs", "verify=")
    assert os.listdir() == ["m.keras"]


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_defect_is_one_line_too(saved, monkeypatch, as_json):
    def fail(*_args, **_kwargs):
        raise ZeroDivisionError("of\ntwo lines")

    monkeypatch.setattr("kito.api.optimize", fail)
    arguments = ("optimize", "m.keras", "-o", "out.keras", *as_json)
    result = kito(*arguments)
    assert result.exit_code == DEFECT
    assert result.stderr.startswith("Error: kito failed, and nothing was written: ZeroDivision")
    assert len(result.stderr.splitlines()) == 1
    assert os.listdir() == ["m.keras"]
    monkeypatch.setenv("KITO_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        kito(*arguments)


def test_too_little_memory(saved, monkeypatch):
    def fail(*_args, **_kwargs):
        raise MemoryError

    monkeypatch.setattr("kito.api.optimize", fail)
    result = kito("optimize", "m.keras", "-o", "out.keras")
    assert_refused(result, "not enough memory for this model")


def test_interrupted(saved, monkeypatch):
    def interrupt(model, path):
        pathlib.Path(path).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.saving, "save_model", interrupt)
    result = kito("optimize", "m.keras", "-o", "out.keras")
    assert_refused(result, "interrupted", exit_code=130)
    assert os.listdir() == ["m.keras"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize", "m.keras"],
        ["optimize", "m.keras", "-o", "out.keras", "--rules", " , "],
        ["optimize", "m.keras", "-o", "out.keras", "--weights", "cifar"],
        ["inspect"],
        ["inspekt", "m.keras"],
    ],
)
def test_misuse_is_shown_by_click(saved, arguments):
    result = kito(*arguments)
    assert result.exit_code == INPUT_UNUSABLE
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert os.listdir() == ["m.keras"]


def process(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "kito", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_as_a_process(saved, in_folder):
    """With a plugin that can't be imported: one line of warning, and the rest works."""
    broken = in_folder / "site" / "broken-1.2.dist-info"
    broken.mkdir(parents=True)
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.2\n")
    (broken / "entry_points.txt").write_text("[kito]\nbroken = no_module_of_broken\n")
    (in_folder / "site" / "main.pth").touch()

    done = process(
        "optimize", "m.keras", "-o", "out.keras", "--json", PYTHONPATH=str(in_folder / "site")
    )
    assert done.returncode == DONE, done.stderr
    assert json.loads(done.stdout)["output"] == "out.keras"
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("Warning: ")]
    assert "the kito plugin 'broken' of broken 1.2 is left out: ModuleNotFoundError" in warning
    assert "Traceback" not in done.stderr

    without_kito = "import sys; sys.modules['kito'] = None; import keras; "
    read = subprocess.run(
        [sys.executable, "-c", without_kito + "keras.saving.load_model('out.keras').summary()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    assert "bn1" in read.stdout


def test_the_file_of_a_process_that_refuses(in_folder):
    refused = process("inspect", "missing.keras")
    assert refused.returncode == INPUT_UNUSABLE
    assert refused.stdout == ""
    assert [line for line in refused.stderr.splitlines() if "Error" in line] == [
        f"Error: the file 'missing.keras' does not exist. Check the path; the current folder is "
        f"'{in_folder}'."
    ]


def test_help_and_version_do_not_import_keras():
    """Of what `kito.cli` itself imports: the package around it stands for `kito/__init__.py`."""
    program = (
        "import sys, types, importlib.util as u; kito = types.ModuleType('kito'); "
        "kito.__path__ = u.find_spec('kito').submodule_search_locations; "
        "sys.modules['kito'] = kito; from kito.cli import main; "
        "main(sys.argv[1:], standalone_mode=False); sys.exit('keras' in sys.modules)"
    )
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", program, option], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert ("Usage" if option == "--help" else "version") in done.stdout
        assert done.stderr == ""


def test_a_plugin_is_switched_off():
    names = {}
    for options in ([], ["--no-plugin", "kito-example"]):
        done = process("rules", "--json", *options)
        assert done.returncode == DONE, done.stderr
        names[bool(options)] = {each["name"] for each in json.loads(done.stdout)["rules"]}
    assert names[False] - names[True] == {"example_subsampling_conv"}
