"""Real networks in all that can run them, as they are and optimized.

    python benchmarks/bench.py                                   all networks
    python benchmarks/bench.py --only MobileNetV2-1.4 --again    one of them, anew
    KERAS_BACKEND=jax python benchmarks/bench.py                 on another backend of Keras

Each network has a process of its own, in which all ways to run it are timed in turns, see
`kito/bench.py`: Keras, XLA, a frozen TensorFlow graph, and what Keras exports for ONNX Runtime,
OpenVINO and LiteRT; and kito's model in the same engines. `kito.predictor` is the engine that
`kito.predictor(model)` takes for the batch size; as there, an engine knows the shape of the batch,
which what Keras exports leaves open. The differences are from what Keras answers on random
pictures, for weights that `randomize` makes.

by hand       the function of the engine that was chosen, without what `kito.predictor` checks.
peak memory   how far the resident memory rises while a way is prepared, and while it is first
              called, on the smallest batch; what the ways before it left for reuse is not counted.
share         of the multiply-adds that a product of two large matrices does in a second, the best
              that was measured before any of the networks.

The figures go to benchmarks/results: bench.csv, a row a network, batch size and way, and as tables
and plots to bench.md, original.md and *.svg; README.md quotes the first of them. On the backends
JAX and PyTorch, which run on a GPU if there is one, they go to bench_jax.csv, bench_jax.md and so
on. A run skips the networks that have rows, and goes on after one that fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import numpy as np
from bench_pages import CONVERSIONS, page, write_pages
from bench_rows import COLUMNS, cases
from machine import machine
from memory import MEGABYTE, PeakMemory
from plots import draw_all
from readme import quote
from rows import RESULTS, Row, read, write
from speed import NETWORKS as MORE
from subjects import inception_time, video

import kito
from kito import bench
from kito.testing import randomize as randomize_layers
from kito.ways import Way

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from networks import NETWORKS as ORIGINAL
from networks import randomize

BACKEND = keras.backend.backend()
# What is measured on another backend than TensorFlow has a table and a page of its own.
TABLE = RESULTS / ("bench.csv" if BACKEND == "tensorflow" else f"bench_{BACKEND}.csv")
BATCH_SIZES = (1, 8, 32)
# How large a batch is for how many multiply-adds of a picture: 32 of the second kind take minutes
# and tell nothing new, and 8 of the third take 24 GB where all ways stand side by side.
LARGEST_BATCH = {2e9: 32, 3e10: 8, float("inf"): 1}
BUILDERS: dict[str, Callable[[], keras.Model]] = {
    **{each.name: each.build for each in ORIGINAL},
    **{
        name: MORE[name]
        for name in (
            "EfficientNetB0",
            "EfficientNetV2B0",
            "ConvNeXtTiny",
            "MobileNetV3Large",
            "ResNeXt, four blocks",
            "RepVGG-A0",
        )
    },
    "InceptionTime (1D)": inception_time,
    "3D ResNet (3D)": video,
}
TURNS = 5
SIZE = 2048
# Seconds that a network may take: more than all of them usually do.
LONGEST = 3600


def multiply_adds_a_second() -> float:
    """What the machine reaches on a product of two large matrices; the best of some runs."""
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype("float32")
    times = []
    for _ in range(TURNS):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return SIZE**3 / min(times)


def accelerator() -> str:
    """The GPU that Keras computes on, for the line of the machine; empty if that is none."""
    if BACKEND == "jax":
        import jax  # noqa: PLC0415 (another backend does without)

        [kind] = {device.device_kind for device in jax.devices()}
        return "" if kind == "cpu" else f", {kind}"
    if BACKEND == "torch":
        import torch  # noqa: PLC0415

        return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return ""


def build(name: str) -> keras.Model:
    """The network with random weights."""
    keras.utils.set_random_seed(1)
    model = BUILDERS[name]()
    if any(each.name == name for each in ORIGINAL):
        randomize(model, seed=1)
        return model
    return randomize_layers(model)


def measure_here(name: str, seconds: float) -> list[Row]:
    """The rows of a network. The process must be a fresh one."""
    peak_rate = multiply_adds_a_second()
    model = build(name)
    work, _ = kito.explain(model).size["multiply-adds"]
    memory: dict[tuple[str, bool], Row] = {}

    @contextlib.contextmanager
    def around(way: Way, step: str) -> Iterator[None]:
        with PeakMemory() as peak:
            yield
        figures = memory.setdefault((way.name, way.optimized), {})
        figures[f"{step}_mb"] = f"{peak.extra / MEGABYTE:.1f}"

    largest = next(size for most, size in LARGEST_BATCH.items() if work <= most)
    sizes = [size for size in BATCH_SIZES if size <= largest]
    measured = bench.measure(model, sizes, seconds=seconds, around=around)
    rows = []
    for each in measured.timings:
        row = {
            "network": name,
            "batch": str(each.batch_size),
            "way": each.way,
            "model": "kito" if each.optimized else "source",
            "exact": "yes" if each.exact else "no",
            "chosen": each.chosen or "",
            "multiply_adds": str(work),
            "peak_rate": f"{peak_rate:.3e}",
            # Without the folder, which is another one each time.
            "reason": re.sub(r"\S*/kito-\w+/", "", each.reason or ""),
            "machine": machine(BACKEND) + accelerator(),
        }
        row |= memory.get((each.way, each.optimized), {})
        if each.median is not None and each.quartiles is not None:
            low, high = each.quartiles
            row |= {
                "repeats": str(len(each.seconds)),
                "ms": f"{1000 * each.median:.3f}",
                "low_ms": f"{1000 * low:.3f}",
                "high_ms": f"{1000 * high:.3f}",
                "difference": f"{each.difference:.1e}",
                "mean_difference": f"{each.mean_difference:.1e}",
            }
        rows.append(row)
    return rows


def measure(name: str, seconds: float) -> list[Row]:
    """The rows of a network, from a process of its own."""
    command = [sys.executable, __file__, "--here", name, "--seconds", str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST)
    except subprocess.TimeoutExpired as error:
        raise click.ClickException(f"it took more than {LONGEST} s") from error
    if done.returncode:
        ended = f"it ended with {done.returncode}; -9 may be a lack of memory"
        raise click.ClickException(done.stderr or ended)
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return rows


def put(rows: list[Row], name: str) -> None:
    """Write the rows of a network in place of its old ones, and the pages."""
    others = [row for row in read(TABLE) if row["network"] != name]
    order = list(BUILDERS)
    write(TABLE, COLUMNS, sorted([*others, *rows], key=lambda row: order.index(row["network"])))
    publish()


def publish() -> None:
    """Write the pages and the plots, and quote the first table in the README."""
    if BACKEND != "tensorflow":
        TABLE.with_suffix(".md").write_text(page(read(TABLE), plots=False))
        return
    write_pages()
    draw_all(cases(read(TABLE)), read(CONVERSIONS))
    quote()


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--only", multiple=True, type=click.Choice(list(BUILDERS), case_sensitive=False))
@click.option("--again", is_flag=True, help="Measure what has rows already.")
@click.option("--seconds", default=bench.SECONDS, show_default=True, help="For each batch size.")
@click.option("--page", "page_only", is_flag=True, help="Measure nothing.")
@click.option("--here", type=click.Choice(list(BUILDERS)), hidden=True)
def main(
    only: tuple[str, ...], again: bool, seconds: float, page_only: bool, here: str | None
) -> None:
    """Measure, and write the rows and the pages after each network."""
    if here:
        click.echo(json.dumps(measure_here(here, seconds)))
        return
    failed = []
    for index, name in enumerate(names := only or tuple(BUILDERS)):
        if page_only or (not again and any(row["network"] == name for row in read(TABLE))):
            continue
        click.echo(f"{index + 1} of {len(names)}: {name} ...")
        try:
            put(measure(name, seconds), name)
        except click.ClickException as error:
            click.echo(f"{name}:\n{error}", err=True)
            failed.append(name)
    publish()
    if failed:
        raise click.ClickException(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
