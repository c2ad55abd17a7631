"""`score_images.py` on a Ray of this machine: every file has one row, whoever dies on the way.

Run by `nox -s ray`; the other tests need no Ray.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ray
from keras import layers
from PIL import Image

import kito

SCRIPT = Path(__file__).resolve().parent.parent / "score_images.py"
PICTURES, BROKEN = 320, ("_broken.jpg", "notes.txt")
PART_SIZE = 8
PARTS = math.ceil((PICTURES + len(BROKEN)) / PART_SIZE)
HEIGHT, WIDTH = 40, 32
DEADLINE = 240  # seconds


@pytest.fixture(scope="module")
def model():
    """It is so slow that there is a middle to kill something in."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((HEIGHT, WIDTH, 3))
    x = layers.Conv2D(64, 5, strides=2)(layers.Rescaling(1 / 255)(inputs))
    for _ in range(4):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(64, 7, padding="same")(x)))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalMaxPooling2D()(x)))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Pictures of several sizes, kinds and formats, two files that are none, and a predictor."""
    folder = tmp_path_factory.mktemp("scoring")
    kito.predictor(model, "onnxruntime").save(folder / "predictor")
    (folder / "images" / "some" / "more").mkdir(parents=True)
    places = ("images", "images/some", "images/some/more")
    names = ("{}.png", ".{}.jpg", "_{}.bmp", "é {}.webp")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        name = names[number % len(names)].format(number)
        noise = rng.integers(0, 256, (*rng.integers(8, 90, 2), 3), dtype="uint8")
        picture = Image.fromarray(noise).convert(("RGB", "L")[number % 5 == 0])
        picture.save(folder / places[number % len(places)] / name)
    for name in BROKEN:
        (folder / "images" / name).write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def expected(folder, model):
    """What the model itself says, by file; None where there is no picture."""
    files = [each for each in (folder / "images").rglob("*") if each.is_file()]
    pictures = [each for each in files if each.name not in BROKEN]
    arrays = [
        np.asarray(Image.open(each).convert("RGB").resize((WIDTH, HEIGHT))) for each in pictures
    ]
    scores = model.predict(np.stack(arrays).astype("float32"), verbose=0)
    assert len(files) == PICTURES + len(BROKEN)
    return dict.fromkeys(map(str, files)) | dict(zip(map(str, pictures), scores, strict=True))


@pytest.fixture(scope="module", autouse=True)
def address():
    """A Ray that outlives the programs that use it, as that of a cluster does."""
    context = ray.init(num_cpus=2, include_dashboard=False)
    yield context.address_info["address"]
    ray.shutdown()


@dataclass
class Run:
    """The script as a process, and the file to which it writes what it says."""

    process: subprocess.Popen
    log: Path

    def code(self):
        """How it ended."""
        return self.process.wait(timeout=DEADLINE)


@pytest.fixture
def begin(folder, address, tmp_path_factory):
    """Start the script."""
    runs = []

    def begin(out, images=folder / "images"):
        arguments = [folder / "predictor", images, out]
        sizes = ["--batch-size", "4", "--part-size", str(PART_SIZE)]
        log = tmp_path_factory.mktemp("log") / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, SCRIPT, *arguments, *sizes],
                env=os.environ | {"RAY_ADDRESS": address},
                stderr=file,
            )
        runs.append(Run(process, log))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()


def written(folder):
    """The files of rows, and when they were written."""
    return {each.name: each.stat().st_mtime_ns for each in folder.glob("*.parquet")}


def wait_for_the_middle(run, out):
    """Some rows are written, and most are not."""
    rows = out.with_name(f"{out.name}.unfinished") / "rows"
    deadline = time.monotonic() + DEADLINE
    while len(written(rows)) < 2:
        assert run.process.poll() is None, run.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return rows


def workers():
    """The name and process of each worker of this Ray; an agent is the machine, so to say."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # some end while they are looked at
            name = process.cmdline()[0]
            if name.startswith("ray::") and "Agent" not in name:
                found.append((name, process))
    return found


def assert_whole(out, expected):
    assert len(written(out)) == PARTS
    table = pq.read_table(out)
    assert table["path"].to_pylist() == sorted(expected)
    for row in table.to_pylist():
        if expected[row["path"]] is None:
            assert row["scores"] is None
            assert row["error"].startswith("UnidentifiedImageError: ")
        else:
            np.testing.assert_allclose(row["scores"], expected[row["path"]], rtol=1e-4, atol=1e-5)
            assert row["error"] is None
    assert not out.with_name(f"{out.name}.unfinished").exists()


def test_every_file_has_the_scores_of_the_model(begin, expected, tmp_path):
    out = tmp_path / "out.parquet"
    run = begin(out)
    assert run.code() == 0, run.log.read_text()
    assert_whole(out, expected)
    run = begin(out)
    assert run.code() == 2
    assert run.log.read_text().splitlines()[-1] == f"score_images.py: error: {out} exists"
    assert os.listdir(tmp_path) == [out.name]


def test_a_folder_without_files_is_refused(begin, tmp_path):
    run = begin(tmp_path / "out.parquet", images=tmp_path)
    assert run.code() == 1
    assert run.log.read_text().splitlines()[-1] == f"{tmp_path} has no files"
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("kind", ["Scorer", ""], ids=["scorers", "all"])
def test_killed_workers_cost_no_row(begin, expected, tmp_path, kind):
    out = tmp_path / "out.parquet"
    run = begin(out)
    rows = wait_for_the_middle(run, out)
    killed = [(name, each) for name, each in workers() if kind in name]
    assert any("Scorer" in name for name, _ in killed)
    for _, each in killed:
        each.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert len(written(rows)) < PARTS
    assert run.code() == 0, run.log.read_text()
    assert_whole(out, expected)


def test_a_run_that_was_cut_off_goes_on(begin, expected, tmp_path):
    out = tmp_path / "out.parquet"
    run = begin(out)
    rows = wait_for_the_middle(run, out)
    run.process.kill()
    run.process.wait()
    assert os.listdir(tmp_path) == [f"{out.name}.unfinished"]
    before = written(rows)
    assert len(before) < PARTS
    run = begin(out)
    assert run.code() == 0, run.log.read_text()
    assert_whole(out, expected)
    assert before.items() <= written(out).items()  # they are not scored again
