"""Do time and memory grow with the model, and no faster?

    python benchmarks/scale.py                          every kind of model, every size
    python benchmarks/scale.py --only chain --only heavy

The models stand in `large_models.py`. Each is optimized, optimized with `verify=True`, and copied
by Keras (`clone_model` and `set_weights`), for comparison, each in a process of its own, once.
Measured are the seconds, and how far the resident memory rises to its peak, the result included.
`kito.explain` and the drawing of its report run in the process that optimizes. A verification runs
both models on batches of two sizes, and each first run takes as long as `predict` says, which is
the time that Keras takes to compile the given model for one size. Of some models the largest is
saved, and the command `kito optimize` runs on the file: its seconds include the start of
Python, loading, verifying, timing and saving.

The figures go to benchmarks/results/scale.csv, a row a model, and as tables to scale.md; README.md
quotes those of the chains. A run skips what has a row; `--again` measures it anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
from large_models import KINDS, chain
from machine import machine, machines
from memory import MEGABYTE, PeakMemory
from readme import quote
from rows import RESULTS, Row, read, table, write
from ways import WAYS, weight_bytes

import kito
from kito.samples import random_inputs

TABLE = RESULTS / "scale.csv"
PAGE = RESULTS / "scale.md"
SECONDS = ("explain", "optimize", "clone", "verify", "predict", "draw", "command")
MEMORY = ("weights", "optimize_mb", "verify_mb", "clone_mb")
COLUMNS = ("kind", "size", *SECONDS, *MEMORY, "machine")
HEADINGS = (
    "explain",
    "optimize",
    "ms each",
    "clone",
    "verify=True",
    "predict",
    "draw",
    "kito optimize FILE",
)
SAVED = ("chain", "nested")


def seconds(function: Callable[..., Any], *args: Any) -> str:
    """The time of one call."""
    start = time.perf_counter()
    function(*args)
    return f"{time.perf_counter() - start:.2f}"


def measure_here(kind: str, size: int, way: str) -> Row:
    """The figures of one way. The process must be a fresh one."""
    WAYS[way](chain(30))  # what TensorFlow sets up once does not count
    model = KINDS[kind].build(size)
    with PeakMemory() as peak:
        row = {way: seconds(WAYS[way], model)}
    row[f"{way}_mb"] = f"{peak.extra / MEGABYTE:.1f}"
    if way == "clone":
        row["predict"] = seconds(model.predict_on_batch, random_inputs(model))
    if way == "optimize":
        row["explain"] = seconds(kito.explain, model)
        row["weights"] = f"{weight_bytes(model) / MEGABYTE:.1f}"
        with tempfile.TemporaryDirectory() as folder:
            row["draw"] = seconds(kito.explain(model).draw, f"{folder}/model.svg")
            if kind in SAVED and size == KINDS[kind].sizes[-1]:
                row["command"] = of_the_command(model, folder)
    return row


def of_the_command(model: Any, folder: str) -> str:
    """The seconds that the command takes on the file of a model."""
    path = f"{folder}/model.keras"
    model.save(path)
    command = [Path(sys.executable).with_name("kito"), "optimize", path, "-o", f"{path}.keras"]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def measure(kind: str, size: int) -> Row:
    """One row, from a process for each way."""
    row = {"kind": kind, "size": str(size), "machine": machine("tensorflow")}
    for way in WAYS:
        command = [sys.executable, __file__, "--here", kind, str(size), way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"{kind} {size}, {way}:\n{done.stderr}")
        row |= json.loads(done.stdout.splitlines()[-1])
    return row


def page(rows: list[Row]) -> str:
    """The figures as Markdown."""
    parts = [
        "# Scale",
        "Made by `nox -s scale`; what is measured is said in [scale.py](../scale.py), and what the "
        "models are in [large_models.py](../large_models.py). Times are seconds, of one run; "
        "memory is the rise to the peak in MB, with what is new included.",
    ]
    for kind, description in KINDS.items():
        these = [row for row in rows if row["kind"] == kind]
        if not these:
            continue
        each = [(row, 1000 * float(row["optimize"]) / int(row["size"])) for row in these]
        times = [
            [f"{int(row['size']):,}", row["explain"], row["optimize"], f"{ms:.2f}"]
            + [row[name] or "-" for name in SECONDS[2:]]
            for row, ms in each
        ]
        memory = [[f"{int(row['size']):,}", *(row[name] for name in MEMORY)] for row in these]
        parts += [
            f"## {kind}",
            f"{description.build.__doc__}",
            table([description.unit, *HEADINGS], times, left=0),
            table(
                [description.unit, "weights, MB", "optimize", "verify=True", "clone"],
                memory,
                left=0,
            ),
        ]
    return "\n\n".join([*parts, machines(rows)]) + "\n"


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--only", multiple=True, type=click.Choice(list(KINDS)), help="A kind of model.")
@click.option("--again", is_flag=True, help="Measure what has a row already.")
@click.option("--here", type=(str, int, str), hidden=True)
def main(only: tuple[str, ...], again: bool, here: tuple[str, int, str] | None) -> None:
    """Measure, and write a row and the page after each model."""
    if here:
        click.echo(json.dumps(measure_here(*here)))
        return
    order = {(kind, str(size)): None for kind, each in KINDS.items() for size in each.sizes}
    for kind, size in order:
        found = {(row["kind"], row["size"]): row for row in read(TABLE)}
        if (only and kind not in only) or ((kind, size) in found and not again):
            continue
        found[kind, size] = row = measure(kind, int(size))
        rows = [found[key] for key in order if key in found]
        write(TABLE, COLUMNS, rows)
        PAGE.write_text(page(read(TABLE)))
        quote()
        click.echo(f"{kind} {size}: optimize {row['optimize']} s, clone {row['clone']} s")


if __name__ == "__main__":
    main()
