"""Measure what `kito.optimize` costs and what it saves, on real networks.

    python benchmarks/conversion.py                                 all networks
    python benchmarks/conversion.py --only ResNet50 --repeats 3     some

Two questions, two tables:

networks  How long does the conversion take, next to Keras' own copy of the model (`clone_model`
          and `set_weights`)? Both run in turns in this process; figures are medians. How far apart
          are the answers? These with all default rules. How many parameters remain, and how many
          layers are folded, by the rules that fold normalizations, as the original KITO did?
memory    How much memory does the conversion need on top of what was there before, the result
          included, as a multiple of the model's weights? And the copy? Each has a process of its
          own, in which the figure is the rise of the resident set to its peak.

The figures go to benchmarks/results: networks.csv, memory.csv, and both as tables to
conversion.md; README.md quotes them between two marks. A run of some networks updates their rows
and leaves the others. How time and memory grow with the model is measured by `scale.py`.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
from large_models import chain
from machine import machine, machines
from memory import MEGABYTE, PeakMemory
from readme import quote
from rows import RESULTS, Row, read, table, write
from ways import WAYS, weight_bytes

import kito
from kito import testing
from kito.api import NORMALIZATION_RULES

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from networks import NETWORKS, Network, randomize

TIMES = RESULTS / "networks.csv"
MEMORY = RESULTS / "memory.csv"
PAGE = RESULTS / "conversion.md"
COLUMNS = {
    TIMES: (
        "network",
        "parameters_before",
        "parameters_after",
        "folded",
        "relative_difference",
        "input",
        "layers_before",
        "layers_after",
        "default_parameters",
        "maximum_difference",
        "mean_difference",
        "optimize_seconds",
        "clone_seconds",
        "ratio",
        "repeats",
        "machine",
    ),
    MEMORY: (
        "network",
        "weights_mb",
        "optimize_mb",
        "clone_mb",
        "ratio",
        "clone_ratio",
        "machine",
    ),
}
BY_NAME = {network.name: network for network in NETWORKS}


def timed(function: Callable[[keras.Model], Any], model: keras.Model) -> float:
    """Seconds of one call; what the last one left is collected before, not during it."""
    gc.collect()
    start = time.perf_counter()
    function(model)
    return time.perf_counter() - start


def in_turns(model: keras.Model, repeats: int) -> tuple[float, float]:
    """The median seconds of optimize and of clone, run alternately, after one run of each."""
    ways = [WAYS[way] for way in ("optimize", "clone")]
    for function in ways:
        function(model)
    times = [[timed(function, model) for function in ways] for _ in range(repeats)]
    optimizing, cloning = zip(*times, strict=True)
    return median(optimizing), median(cloning)


def measure_times(network: Network, repeats: int) -> Row:
    """One row of networks.csv."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = network.build()
    randomize(model, seed=1)
    report = kito.explain(model, NORMALIZATION_RULES)
    parameters = model.count_params()
    comparison = kito.compare(model, kito.optimize(model), batch_size=2, repeats=1)
    optimizing, cloning = in_turns(model, repeats)
    return {
        "network": network.name,
        "parameters_before": str(parameters),
        "parameters_after": str(parameters + sum(each.parameters for each in report.applied)),
        "folded": str(sum(report.folded.values())),
        "relative_difference": f"{comparison.relative:.2e}",
        "input": str(model.input_shape[1:]),
        "layers_before": str(comparison.layers[0]),
        "layers_after": str(comparison.layers[1]),
        "default_parameters": str(comparison.parameters[1]),
        "maximum_difference": f"{max(each.maximum for each in comparison.outputs):.1e}",
        "mean_difference": f"{max(each.mean for each in comparison.outputs):.1e}",
        "optimize_seconds": f"{optimizing:.3f}",
        "clone_seconds": f"{cloning:.3f}",
        "ratio": f"{optimizing / cloning:.3f}",
        "repeats": str(repeats),
        "machine": machine("tensorflow"),
    }


def extra_memory(network: Network, function: Callable[[keras.Model], Any]) -> dict[str, int]:
    """Bytes of the model's weights, and of the peak above them. The process must be a fresh one."""
    function(chain(30))  # what TensorFlow allocates once does not count
    model = network.build()
    # Fresh normalizations are nearly the identity, which other rules take. A model that runs leaves
    # memory behind that would be used again, so this must not run it.
    testing.randomize(model)
    with PeakMemory() as peak:
        result = function(model)
    del result
    return {"weights": weight_bytes(model), "extra": peak.extra}


def measure_memory(network: Network) -> Row:
    """One row of memory.csv, from a process for each way of conversion."""
    found = {}
    for way in ("optimize", "clone"):
        command = [sys.executable, __file__, "--memory-of", network.name, way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"no memory of {network.name}, {way}:\n{done.stderr}")
        found[way] = json.loads(done.stdout.splitlines()[-1])
    weights = found["optimize"]["weights"]
    optimizing, cloning = (found[way]["extra"] for way in ("optimize", "clone"))
    return {
        "network": network.name,
        "weights_mb": f"{weights / MEGABYTE:.1f}",
        "optimize_mb": f"{optimizing / MEGABYTE:.1f}",
        "clone_mb": f"{cloning / MEGABYTE:.1f}",
        "ratio": f"{optimizing / weights:.3f}",
        "clone_ratio": f"{cloning / weights:.3f}",
        "machine": machine("tensorflow"),
    }


def put(path: Path, row: Row) -> None:
    """Put a row into a file, in place of an older one of the same network."""
    rows = {old["network"]: old for old in read(path)} | {row["network"]: row}
    write(path, COLUMNS[path], [rows[name] for name in BY_NAME if name in rows])


def page(times: list[Row], memory: list[Row]) -> str:
    """The figures as Markdown."""
    networks = table(
        (
            "network",
            "parameters",
            "after",
            "folded",
            "largest relative difference",
            "optimize, s",
            "clone, s",
            "optimize : clone",
            "runs",
        ),
        [
            [
                row["network"],
                f"{int(row['parameters_before']):,}",
                f"{int(row['parameters_after']):,}",
                row["folded"],
                f"{float(row['relative_difference']):.1e}",
                *(
                    f"{float(row[name]):.2f}"
                    for name in ("optimize_seconds", "clone_seconds", "ratio")
                ),
                row["repeats"],
            ]
            for row in times
        ],
    )
    megabytes = table(
        (
            "network",
            "weights, MB",
            "optimize, MB",
            "clone, MB",
            "optimize : weights",
            "clone : weights",
        ),
        [
            [
                row["network"],
                *(f"{float(row[name]):.1f}" for name in COLUMNS[MEMORY][1:4]),
                *(f"{float(row[name]):.2f}" for name in COLUMNS[MEMORY][4:6]),
            ]
            for row in memory
        ],
    )
    parts = [
        "# Conversion, measured",
        "Made by `nox -s conversion`; what is measured is said in "
        "[conversion.py](../conversion.py).",
        "## Networks",
        networks,
        machines(times),
        "## Memory",
        megabytes,
        machines(memory),
    ]
    return "\n\n".join(parts) + "\n"


@click.command(help=__doc__.split("\n", 1)[0])
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    type=click.Choice(list(BY_NAME), case_sensitive=False),
    help="Measure this network; may be given again.",
)
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Timed runs.")
@click.option("--skip-times", is_flag=True, help="Don't measure times.")
@click.option("--skip-memory", is_flag=True, help="Don't measure memory.")
@click.option("--page", "page_only", is_flag=True, help="Measure nothing.")
@click.option("--memory-of", type=(str, str), hidden=True)
def main(
    only: tuple[str, ...],
    repeats: int,
    skip_times: bool,
    skip_memory: bool,
    page_only: bool,
    memory_of: tuple[str, str] | None,
) -> None:
    """Measure, and write a row and the pages after each network."""
    if memory_of:
        name, way = memory_of
        click.echo(json.dumps(extra_memory(BY_NAME[name], WAYS[way])))
        return
    for name in () if page_only else only or BY_NAME:
        if not skip_times:
            put(TIMES, row := measure_times(BY_NAME[name], repeats))
            click.echo(f"{name}: time, optimize : clone {row['ratio']}")
        if not skip_memory:
            put(MEMORY, row := measure_memory(BY_NAME[name]))
            click.echo(f"{name}: memory, optimize : weights {row['ratio']}")
        PAGE.write_text(page(read(TIMES), read(MEMORY)))
        quote()
    PAGE.write_text(page(read(TIMES), read(MEMORY)))
    quote()


if __name__ == "__main__":
    main()
