"""Measure what `kito.optimize` costs and what it saves, on real networks and on long chains.

    nox -s bench                                    all networks
    nox -s bench -- --only ResNet50 --repeats 3     some

Three questions, three sections:

networks  How long does the conversion take, next to Keras' own copy of the model (`clone_model`
          and `set_weights`)? Both run in turns in this process; figures are medians. How far apart
          are the answers? These with all default rules. How many parameters remain, and how many
          layers are folded, by the rules that fold normalizations, as the original KITO did?
memory    How much memory does the conversion need on top of what was there before, the result
          included, as a multiple of the model's weights? And the copy? Each has a process of its
          own, in which the figure is the rise of the resident set to its peak.
scaling   Does the time per layer stay the same when models grow? Chains of Conv2D,
          BatchNormalization and ReLU with few channels, so that structure is all that costs.

The figures go to benchmarks/results: a CSV file for each section, all of them as tables in
`conversion.md`; README.md quotes them between two marks. A run of some networks updates their rows
and leaves the others.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import gc
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import kito
from kito.api import NORMALIZATION_RULES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
START, END = "<!-- figures: start -->", "<!-- figures: end -->"

sys.path.insert(0, str(ROOT / "tests"))
from networks import NETWORKS, Network, randomize  # noqa: E402 (from the line above)

LENGTHS = (100, 1_000, 5_000)
MEGABYTE = 2**20

Row = dict[str, Any]

# Columns of the files: name, heading in the table, format in the table (empty: not in the table).
COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "networks": (
        ("network", "network", "s"),
        ("parameters_before", "parameters", ",d"),
        ("parameters_after", "after", ",d"),
        ("folded", "folded", "d"),
        ("relative_difference", "largest relative difference", ".1e"),
        ("optimize_seconds", "optimize, s", ".2f"),
        ("clone_seconds", "clone, s", ".2f"),
        ("ratio", "optimize : clone", ".2f"),
        ("repeats", "runs", "d"),
        ("machine", "", ""),
    ),
    "memory": (
        ("network", "network", "s"),
        ("weights_mb", "weights, MB", ".1f"),
        ("optimize_mb", "optimize, MB", ".1f"),
        ("clone_mb", "clone, MB", ".1f"),
        ("ratio", "optimize : weights", ".2f"),
        ("clone_ratio", "clone : weights", ".2f"),
        ("machine", "", ""),
    ),
    "scaling": (
        ("layers", "layers", ",d"),
        ("optimize_seconds", "optimize, s", ".2f"),
        ("optimize_ms_per_layer", "ms a layer", ".3f"),
        ("clone_seconds", "clone, s", ".2f"),
        ("clone_ms_per_layer", "clone, ms a layer", ".3f"),
        ("ratio", "optimize : clone", ".2f"),
        ("repeats", "runs", "d"),
        ("machine", "", ""),
    ),
}


# --- what is measured ---------------------------------------------------------------------------


def clone(model: keras.Model) -> keras.Model:
    """Keras' own way to a second model with the same weights: what conversion is compared with."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


WAYS: dict[str, Callable[[keras.Model], Any]] = {"optimize": kito.optimize, "clone": clone}


def timed(function: Callable[[keras.Model], Any], model: keras.Model) -> float:
    """Seconds of one call; what the last one left is collected before, not during it."""
    gc.collect()
    start = time.perf_counter()
    function(model)
    return time.perf_counter() - start


def in_turns(model: keras.Model, repeats: int) -> tuple[float, float]:
    """The median seconds of optimize and of clone, run alternately, after one run of each."""
    for function in WAYS.values():
        function(model)
    times = [[timed(function, model) for function in WAYS.values()] for _ in range(repeats)]
    optimizing, cloning = zip(*times, strict=True)
    return median(optimizing), median(cloning)


def measure_network(network: Network, repeats: int) -> Row:
    """One row of the section `networks`."""
    keras.utils.set_random_seed(1)
    model = network.build()
    randomize(model, seed=1)
    report = kito.explain(model, NORMALIZATION_RULES)
    parameters = model.count_params()
    fast = kito.optimize(model)
    comparison = kito.compare(model, fast, batch_size=2, repeats=1)
    del fast
    optimizing, cloning = in_turns(model, repeats)
    return {
        "network": network.name,
        "parameters_before": parameters,
        "parameters_after": parameters + sum(each.parameters for each in report.applied),
        "folded": sum(report.folded.values()),
        "relative_difference": comparison.relative,
        "optimize_seconds": optimizing,
        "clone_seconds": cloning,
        "ratio": optimizing / cloning,
        "repeats": repeats,
    }


def chain(layers: int) -> keras.Model:
    """A chain of convolution, normalization and ReLU, of that many layers."""
    # Keras walks up a model by recursion, one step a layer.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 2 * layers + 1_000))
    kinds = (
        lambda: keras.layers.Conv2D(2, 1),
        keras.layers.BatchNormalization,
        keras.layers.ReLU,
    )
    inputs = tensor = keras.Input((4, 4, 2))
    for index in range(layers):
        tensor = kinds[index % 3]()(tensor)
    return keras.Model(inputs, tensor)


def measure_chain(layers: int, repeats: int) -> Row:
    """One row of the section `scaling`."""
    optimizing, cloning = in_turns(chain(layers), repeats)
    return {
        "layers": layers,
        "optimize_seconds": optimizing,
        "optimize_ms_per_layer": 1000 * optimizing / layers,
        "clone_seconds": cloning,
        "clone_ms_per_layer": 1000 * cloning / layers,
        "ratio": optimizing / cloning,
        "repeats": repeats,
    }


class PeakMemory:
    """The peak of this process' resident memory inside a `with` block, above what it was before.

    Linux keeps the peak itself and can reset it. Where that is not allowed, a thread looks.
    """

    def __enter__(self) -> PeakMemory:
        gc.collect()
        _return_free_memory()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = self._highest = _resident("VmRSS")
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._exact = True
        except OSError:
            self._exact = False
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._exact:
            self._highest = _resident("VmHWM")
        else:
            self._stop.set()
            self._thread.join()
        self.extra = self._highest - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self._highest = max(self._highest, _resident("VmRSS"))


def _resident(entry: str) -> int:
    """Bytes, from an entry of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(entry)


def _return_free_memory() -> None:
    """Give what the allocator keeps for later back, lest its reuse pass for no use at all."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def extra_memory(network: Network, function: Callable[[keras.Model], Any]) -> dict[str, int]:
    """Bytes of the model's weights, and of the peak above them. The process must be a fresh one."""
    function(chain(30))  # what TensorFlow allocates once does not count
    model = network.build()
    weights = sum(
        math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in model.weights
    )
    with PeakMemory() as peak:
        result = function(model)
    del result
    return {"weights": weights, "extra": peak.extra}


def measure_memory(network: Network) -> Row:
    """One row of the section `memory`, from a process for each way of conversion."""
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--memory-of", network.name, way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"no memory of {network.name}, {way}:\n{done.stderr}")
        found[way] = json.loads(done.stdout.splitlines()[-1])
    return {
        "network": network.name,
        "weights_mb": found["optimize"]["weights"] / MEGABYTE,
        "optimize_mb": found["optimize"]["extra"] / MEGABYTE,
        "clone_mb": found["clone"]["extra"] / MEGABYTE,
        "ratio": found["optimize"]["extra"] / found["optimize"]["weights"],
        "clone_ratio": found["clone"]["extra"] / found["clone"]["weights"],
    }


# --- where it is written ------------------------------------------------------------------------


def read(section: str) -> list[Row]:
    """The rows that earlier runs wrote, if any; all values are text."""
    path = RESULTS / f"{section}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(section: str, row: Row) -> None:
    """Put a row into the file of its section, in place of an older one of the same name."""
    columns = [name for name, _, _ in COLUMNS[section]]
    order = [str(length) for length in LENGTHS] + [network.name for network in NETWORKS]
    rows = {old[columns[0]]: old for old in read(section)}
    rows[str(row[columns[0]])] = row | {"machine": machine()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{section}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in order if name in rows)


def machine() -> str:
    """What the figures are measured on."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("kito", "keras", "tensorflow")
    )
    return (
        f"{versions}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} processors"
    )


def table(columns: Sequence[tuple[str, str, str]], rows: Sequence[Row]) -> str:
    """Rows of a file as a Markdown table."""
    shown = [column for column in columns if column[2]]
    lines = [
        "| " + " | ".join(heading for _, heading, _ in shown) + " |",
        "|" + "|".join(":--" if kind == "s" else "--:" for _, _, kind in shown) + "|",
    ]
    for row in rows:
        cells = [_cell(row.get(name), kind) for name, _, kind in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str | None, kind: str) -> str:
    if text is None or kind == "s":
        return text or ""
    return format(int(text) if kind.endswith("d") else float(text), kind)


def measured_on(rows: Sequence[Row]) -> str:
    """The machines of the rows, as a sentence."""
    return "Measured on: " + "; ".join(sorted({row["machine"] for row in rows})) + ".\n"


def all_figures() -> str:
    """The contents of benchmarks/results/conversion.md."""
    parts = ["# Conversion, measured\n\n`nox -s bench` writes this file.\n"]
    for section, columns in COLUMNS.items():
        if rows := read(section):
            heading = section.capitalize()
            parts.append(f"## {heading}\n\n{table(columns, rows)}\n{measured_on(rows)}")
    return "\n".join(parts)


def readme_figures() -> str:
    """What README.md quotes: the networks with time and memory in one table, and the chains."""
    memory = {row["network"]: row for row in read("memory")}
    rows = read("networks")
    for row in rows:
        measured = memory.get(row["network"], {})
        row["memory"], row["clone_memory"] = measured.get("ratio"), measured.get("clone_ratio")
    chains = read("scaling")
    networks = table(
        (
            ("network", "network", "s"),
            ("parameters_before", "parameters", ",d"),
            ("parameters_after", "after", ",d"),
            ("folded", "layers folded", "d"),
            ("relative_difference", "relative difference", ".1e"),
            ("optimize_seconds", "conversion, s", ".2f"),
            ("ratio", "time : clone", ".2f"),
            ("memory", "memory : weights", ".2f"),
            ("clone_memory", "clone's", ".2f"),
        ),
        rows,
    )
    scaling = table(
        (
            ("layers", "layers in a chain", ",d"),
            ("optimize_ms_per_layer", "conversion, ms a layer", ".2f"),
            ("clone_ms_per_layer", "clone, ms a layer", ".2f"),
        ),
        chains,
    )
    tables = [networks] if rows else []
    tables += [scaling] if chains else []
    return "\n".join([*tables, measured_on([*rows, *chains])])


def quote(text: str) -> str:
    """The text of the README with the figures of the result files between its marks."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{readme_figures()}\n{END}{after}"


def publish() -> None:
    """Write the tables, and quote them."""
    (RESULTS / "conversion.md").write_text(all_figures())
    README.write_text(quote(README.read_text()))


# --- the command --------------------------------------------------------------------------------


@click.command(help=__doc__.split("\n", 1)[0])
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    type=click.Choice([network.name for network in NETWORKS], case_sensitive=False),
    help="Measure this network; may be given again. Leaves out the chains.",
)
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Timed runs.")
@click.option("--skip-networks", is_flag=True, help="Don't measure times of networks.")
@click.option("--skip-memory", is_flag=True, help="Don't measure memory.")
@click.option("--skip-scaling", is_flag=True, help="Don't measure chains.")
@click.option("--memory-of", type=(str, str), hidden=True)
def main(
    only: tuple[str, ...],
    repeats: int,
    skip_networks: bool,
    skip_memory: bool,
    skip_scaling: bool,
    memory_of: tuple[str, str] | None,
) -> None:
    """Measure, print and write."""
    by_name = {network.name: network for network in NETWORKS}
    if memory_of:
        name, way = memory_of
        click.echo(json.dumps(extra_memory(by_name[name], WAYS[way])))
        return
    chosen = [by_name[name] for name in only] or list(NETWORKS)
    tasks: list[tuple[str, str, Callable[[], Row]]] = []
    for network in chosen:
        if not skip_networks:
            tasks.append(("networks", network.name, partial(measure_network, network, repeats)))
        if not skip_memory:
            tasks.append(("memory", network.name, partial(measure_memory, network)))
    if not (only or skip_scaling):
        tasks.extend(
            ("scaling", f"{layers:,}", partial(measure_chain, layers, repeats))
            for layers in LENGTHS
        )

    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(tasks))
        for section, name, measure in tasks:
            progress.update(bar, description=f"{section}: {name}")
            row = measure()
            write(section, row)
            publish()
            keras.backend.clear_session()
            what = next(heading for key, heading, _ in COLUMNS[section] if key == "ratio")
            console.print(f"{section:9} {name:24} {what:>16} {row['ratio']:.2f}")
            progress.advance(bar)
    console.print(f"written to {RESULTS.relative_to(ROOT)} and {README.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
