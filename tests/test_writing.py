"""Files are whole or not there, whatever ends the writing: signals, full disks, permissions."""

import contextlib
import glob
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import keras
import pytest
from click.testing import CliRunner
from keras import layers

from kito import InputError
from kito.cli import main
from kito.files import save_model
from kito.writing import DAY, whole_file

# Keras warns of itself when it saves with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NOBODY = 65534
UNITS = 500
WEIGHTS = 4 * UNITS * UNITS  # bytes

# Keras puts what a layer saves as files into the archive last, after the weights; opening a pipe
# that nobody writes to waits for ever.
BLOCKING = """
import os
import keras

@keras.saving.register_keras_serializable("test_writing")
class Blocking(keras.layers.Layer):
    def call(self, x):
        return 2 * x

    def save_assets(self, folder):
        if "BLOCK" in os.environ:
            os.mkfifo(os.path.join(folder, "pipe"))
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Every test in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def large():
    inputs = keras.Input((UNITS,))
    return keras.Model(inputs, layers.Dense(UNITS, name="dense")(inputs), name="large")


def kito(*arguments):
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def save_blocking_model(folder, monkeypatch):
    """A model whose saving stops in the middle if the environment says so."""
    (folder / "blocking_of_test_writing.py").write_text(BLOCKING)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = __import__("blocking_of_test_writing")
    model = large()
    keras.Model(model.inputs, module.Blocking()(model.output)).save("m.keras")
    del sys.modules["blocking_of_test_writing"]
    keras.saving.get_custom_objects().pop("test_writing>Blocking")


@contextlib.contextmanager
def stopped_in_the_middle():
    """The command in a process that has written the weights, and will not go on."""
    # A shell lets what it starts in the background ignore Ctrl-C, and so what that starts.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program = listen + "from kito.cli import main; main()"
    arguments = ["optimize", "m.keras", "-o", "out.keras", "--force"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--import", "blocking_of_test_writing"],
        env=os.environ | {"BLOCK": "", "PYTHONDONTWRITEBYTECODE": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not any(os.path.getsize(each) > WEIGHTS for each in glob.glob(".kito-*/.keras")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_killed_in_the_middle(in_folder, monkeypatch):
    save_blocking_model(in_folder, monkeypatch)
    pathlib.Path("out.keras").write_text("old")
    before = set(os.listdir())
    with stopped_in_the_middle() as process:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert pathlib.Path("out.keras").read_text() == "old"
    [left] = set(os.listdir()) - before
    assert left.startswith(".kito-")
    assert os.listdir(left) == [".keras"]
    assert not zipfile.is_zipfile(f"{left}/.keras")
    assert set(glob.glob("**/*.keras", recursive=True)) == {"m.keras", "out.keras"}

    save_model(large(), "out.keras", force=True)
    assert set(os.listdir()) == before | {left}  # somebody may be writing it
    os.utime(left, (0, time.time() - DAY - 1))
    save_model(large(), "out.keras", force=True)
    assert set(os.listdir()) == before


def test_interrupted_in_the_middle(in_folder, monkeypatch):
    save_blocking_model(in_folder, monkeypatch)
    pathlib.Path("out.keras").write_text("old")
    before = sorted(os.listdir())
    with stopped_in_the_middle() as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "Error: interrupted; nothing was written"
    assert "Traceback" not in stderr
    assert sorted(os.listdir()) == before
    assert pathlib.Path("out.keras").read_text() == "old"


@contextlib.contextmanager
def disk_with_room_for(size):
    """No file becomes larger: what the system says is what it says of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", [0, 0.0001, 0.5, 1])
@pytest.mark.parametrize("in_memory", [True, False])
def test_full_disk(monkeypatch, part, in_memory):
    """Keras collects the weights in memory, or in a second file if they are large."""
    monkeypatch.setattr("keras.src.saving.saving_lib.is_memory_sufficient", lambda _: in_memory)
    model = large()
    save_model(model, "m.keras")
    needed = os.path.getsize("m.keras")
    pathlib.Path("m.keras").write_text("old")
    with (
        disk_with_room_for(int(part * (needed - 1))),
        pytest.raises(InputError, match=r"'m.keras' can't be written: File too large. Choose"),
    ):
        save_model(model, "m.keras", force=True)
    assert os.listdir() == ["m.keras"]
    assert pathlib.Path("m.keras").read_text() == "old"


@pytest.mark.parametrize(
    ("command", "output", "size"),
    [
        ("optimize", "out.keras", WEIGHTS // 2),
        ("draw", "out.svg", 500),
        ("draw", "out.png", 500),
        ("draw", "out.json", 500),
    ],
)
def test_full_disk_of_a_command(command, output, size):
    large().save("m.keras")
    pathlib.Path(output).write_text("old")
    before = sorted(os.listdir())
    with disk_with_room_for(size):
        result = kito(command, "m.keras", "-o", output, "--force")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"Error: '{output}' can't be written: File too large. Choose another place with -o, or "
        "make room there.\n"
    )
    assert sorted(os.listdir()) == before
    assert pathlib.Path(output).read_text() == "old"


@pytest.fixture
def read_only_folder(monkeypatch):
    """A folder that can't be written to, and a process that is not allowed to do it anyway."""
    folder = tempfile.mkdtemp()  # not `tmp_path`, which only its owner may enter
    os.chmod(folder, 0o755)
    pathlib.Path(folder, "out.keras").write_text("old")
    os.chmod(folder, 0o555)
    monkeypatch.chdir(folder)
    is_root = os.getuid() == 0
    if is_root:
        os.setresuid(NOBODY, NOBODY, 0)
    yield folder
    if is_root:
        os.setresuid(0, 0, 0)
    os.chmod(folder, 0o755)
    shutil.rmtree(folder)


def test_read_only_folder(read_only_folder):
    with pytest.raises(InputError, match=r"the folder '.*' of 'out.keras' is not writable. Choose"):
        save_model(None, "out.keras", force=True)
    with (  # it may have become so since
        pytest.raises(InputError, match=r"'out.keras' can't be written: Permission denied"),
        whole_file("out.keras"),
    ):
        raise AssertionError("there is nowhere to write to")
    assert os.listdir() == ["out.keras"]
    assert pathlib.Path("out.keras").read_text() == "old"


def test_folder_that_is_gone():
    with (
        pytest.raises(InputError, match=r"'no/m.keras' can't be written: No such file or dir"),
        whole_file("no/m.keras"),
    ):
        raise AssertionError("there is nowhere to write to")


def test_only_what_kito_left_is_removed():
    for name in (".kito-old", ".kito-new", ".other"):
        os.mkdir(name)
        pathlib.Path(name, ".keras").write_text("half")
    pathlib.Path(".kito-notes").write_text("a file")
    os.symlink(".other", ".kito-link")
    for name in (".kito-old", ".other", ".kito-notes"):
        os.utime(name, (0, time.time() - DAY - 1))
    with whole_file("m.txt") as path:
        pathlib.Path(path).write_text("whole")
    assert pathlib.Path("m.txt").read_text() == "whole"
    assert sorted(os.listdir()) == [".kito-link", ".kito-new", ".kito-notes", ".other", "m.txt"]
    assert os.listdir(".other") == [".keras"]
