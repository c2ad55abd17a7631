"""What other tools fold of the fifteen networks, on the Keras that they are for and on today's.

    python benchmarks/peers.py                                  every tool, every network
    python benchmarks/peers.py --tool kecam --only ResNet50

`nox -s peers` runs it in environments that have the original KITO, and so can't have this package,
which has the same name: nothing here imports it. The tools are

KITO    `reduce_keras_model` of the original, https://github.com/ZFTurbo/Keras-inference-time-optimizer
kecam   `convert_to_fused_conv_bn_model` of https://github.com/leondgarse/keras_cv_attention_models

Each tool gets each network in a process of its own, with random weights, and has ten minutes. The
original and the result run in turns on the same batch of 8. The figures go to
benchmarks/results/peers.csv, a row a tool, version of Keras and network, and as tables to peers.md.
A run skips what has a row; `--again` measures it anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from machine import machine, machines, versions
from rows import RESULTS, Row, read, table, write

if not hasattr(keras, "KerasTensor"):  # which Keras 2 keeps to itself; it stands in annotations
    keras.KerasTensor = object
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from networks import NETWORKS, randomize

TABLE = RESULTS / "peers.csv"
PAGE = RESULTS / "peers.md"
COLUMNS = (
    "tool",
    "version",
    "keras",
    "network",
    "normalizations",
    "left",
    "parameters",
    "parameters_after",
    "seconds",
    "before_ms",
    "after_ms",
    "difference",
    "problem",
    "machine",
)
HEADINGS = (
    "network",
    "BatchNormalization",
    "left",
    "parameters",
    "after",
    "conversion, s",
    "ms a batch",
    "after",
    "faster",
    "relative difference",
)
# The distribution of each tool, the module and the function that folds.
TOOLS = {
    "KITO": ("kito", "kito", "reduce_keras_model"),
    "kecam": (
        "keras-cv-attention-models",
        "keras_cv_attention_models.model_surgery",
        "convert_to_fused_conv_bn_model",
    ),
}
BATCH = 8
TURNS = 11
MOST_SECONDS = 600


def normalizations(model: keras.Model) -> int:
    """How many BatchNormalization layers the model has."""
    return sum(isinstance(each, keras.layers.BatchNormalization) for each in model.layers)


def milliseconds(models: tuple[keras.Model, ...], batch: np.ndarray) -> list[str]:
    """The median time of each model on the batch, in turns."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(TURNS):
        for model, each in zip(models, times, strict=True):
            start = time.perf_counter()
            model.predict_on_batch(batch)
            each.append(time.perf_counter() - start)
    return [f"{1000 * median(each):.1f}" for each in times]


def measure_here(tool: str, name: str) -> Row:
    """The figures of a tool on a network. The process must be a fresh one."""
    _, module, function = TOOLS[tool]
    fold: Callable[..., Any] = getattr(import_module(module), function)
    keras.utils.set_random_seed(1)
    model = next(each for each in NETWORKS if each.name == name).build()
    randomize(model, seed=1)
    batch = np.random.default_rng(0).normal(size=(BATCH, *model.input_shape[1:])).astype("float32")
    right = np.asarray(model.predict_on_batch(batch))
    row = {"normalizations": str(normalizations(model)), "parameters": str(model.count_params())}
    # Some tools change the model that they are given.
    kept = keras.models.clone_model(model)
    kept.set_weights(model.get_weights())
    start = time.perf_counter()
    fast = fold(model)
    row["seconds"] = f"{time.perf_counter() - start:.2f}"
    answer = np.asarray(fast.predict_on_batch(batch))
    kept.predict_on_batch(batch)
    row["before_ms"], row["after_ms"] = milliseconds((kept, fast), batch)
    return row | {
        "left": str(normalizations(fast)),
        "parameters_after": str(fast.count_params()),
        "difference": f"{np.abs(answer - right).max() / np.abs(right).max():.1e}",
    }


def measure(tool: str, name: str) -> Row:
    """The row of a tool and a network, from a process of its own."""
    row = {
        "tool": tool,
        "version": versions(TOOLS[tool][0]),
        "keras": keras.__version__,
        "network": name,
        "machine": machine("tensorflow"),
    }
    command = [sys.executable, __file__, "--here", "--tool", tool, "--only", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=MOST_SECONDS
        )
    except subprocess.TimeoutExpired:
        return row | {"problem": f"not done in {MOST_SECONDS // 60} minutes"}
    if done.returncode:
        return row | {"problem": done.stderr.strip().splitlines()[-1].split(". ")[0]}
    return row | json.loads(done.stdout.splitlines()[-1])


def line(row: Row) -> list[str]:
    """A line of a table."""
    return [
        row["network"],
        row["normalizations"],
        row["left"],
        f"{int(row['parameters']):,}",
        f"{int(row['parameters_after']):,}",
        row["seconds"],
        row["before_ms"],
        row["after_ms"],
        f"{float(row['before_ms']) / float(row['after_ms']):.2f} x",
        row["difference"],
    ]


def page(rows: list[Row]) -> str:
    """The figures as Markdown: what a tool folded, and what it could not."""
    parts = [
        "# Other tools",
        "Made by `nox -s peers`; what is measured is said in [peers.py](../peers.py). *After* is "
        f"what the tool made; batches of {BATCH}.",
    ]
    for tool, version in dict.fromkeys((row["version"], row["keras"]) for row in rows):
        these = [row for row in rows if (row["version"], row["keras"]) == (tool, version)]
        parts.append(f"## {tool} on Keras {version}")
        if done := [row for row in these if not row["problem"]]:
            parts.append(table(HEADINGS, map(line, done)))
        problems: dict[str, list[str]] = {}
        for row in these:
            if row["problem"]:
                problems.setdefault(row["problem"], []).append(row["network"])
        if problems:
            lines = [(problem, ", ".join(names)) for problem, names in problems.items()]
            parts.append(table(("problem", "networks"), lines, left=2))
        parts.append(machines(these))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, and write a row after each network."""
    names = [each.name for each in NETWORKS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tool", choices=TOOLS, action="append")
    parser.add_argument("--only", choices=names, action="append")
    parser.add_argument("--again", action="store_true", help="measure what has a row already")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cases = [(tool, name) for tool in given.tool or TOOLS for name in given.only or names]
    if given.here:
        [case] = cases
        print(json.dumps(measure_here(*case)))
        return
    order = list(TOOLS), names
    for tool, name in cases:
        rows = read(TABLE)
        key = (tool, keras.__version__, name)
        old = [row for row in rows if (row["tool"], row["keras"], row["network"]) == key]
        if old and not given.again:
            continue
        print(f"{tool} on Keras {keras.__version__}: {name} ...", flush=True)
        rows = [*(row for row in rows if row not in old), measure(tool, name)]
        rows.sort(
            key=lambda row: (
                order[0].index(row["tool"]),
                row["keras"],
                order[1].index(row["network"]),
            )
        )
        write(TABLE, COLUMNS, rows)
        PAGE.write_text(page(read(TABLE)))


if __name__ == "__main__":
    main()
