"""Where does an optimized network spend its time on TensorFlow, and how much could still be saved?

    python benchmarks/operations.py                       every network of speed.py
    python benchmarks/operations.py --only MobileNetV2    and its operations on the terminal

A network is optimized and frozen, and TensorFlow times each operation of one batch. Those that
multiply (convolutions and matrix products, with what TensorFlow fuses into them) are the work that
the network is for. A rewrite that keeps them can at best take away the rest: the bound is the gain
that was measured over the share of the multiplications.

The figures go to benchmarks/results/operations.csv, a row a network and machine, and as tables to
operations.md. A run skips what has a row; `--again` measures it anew.
"""

from __future__ import annotations

import os
import re
from collections import Counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import numpy as np
import tensorflow as tf
from machine import machine, machines
from rich.console import Console
from rich.table import Table
from rows import RESULTS, Row, read, table, write
from runtimes import RUNTIMES
from speed import BATCH, BATCHES, NETWORKS
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from turns import batch_for, in_turns

import kito
from kito.testing import randomize

v1 = tf.compat.v1
TABLE = RESULTS / "operations.csv"
PAGE = RESULTS / "operations.md"
COLUMNS = ("network", "batch", "ratio", "share", "bound", "others", "machine")
HEADINGS = ("network", "other operations", "batch", "gain", "multiplications", "bound")
PRODUCT = re.compile("Conv|MatMul|Einsum")
TRACED = 5
SECONDS = 10.0

Operations = Counter[str]


def operations(model: keras.Model, batch: np.ndarray) -> Operations:
    """Milliseconds of one batch by the kind of operation, as TensorFlow traces them."""
    signature = tf.TensorSpec((None, *batch.shape[1:]))
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(signature)
    frozen = convert_variables_to_constants_v2(traced)
    definition = frozen.graph.as_graph_def()
    (given,) = [node.name for node in definition.node if node.op == "Placeholder"]
    times: Operations = Counter()
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
        with v1.Session(graph=graph) as session:
            run = (frozen.outputs[0].name, {f"{given}:0": batch})
            for _ in range(TRACED):
                session.run(*run)
            for _ in range(TRACED):
                found = v1.RunMetadata()
                options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
                session.run(*run, options=options, run_metadata=found)
                for device in found.step_stats.dev_stats:
                    for node in device.node_stats:
                        kind = re.search(r"= (\w+)\(", node.timeline_label)
                        took = node.op_end_rel_micros - node.op_start_rel_micros
                        times[kind[1] if kind else node.node_name] += took / 1000 / TRACED
    return times


def measure(name: str) -> tuple[Row, Operations]:
    """Optimize a network, time it, and take its time apart."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = randomize(NETWORKS[name]())
    fast = kito.optimize(model)
    batch = batch_for(model, BATCHES.get(name, BATCH))
    turns = in_turns(
        *(RUNTIMES["tensorflow"](each, len(batch)) for each in (model, fast)), batch, SECONDS
    )
    found = operations(fast, batch)
    products = sum(took for kind, took in found.items() if PRODUCT.search(kind))
    others = [
        f"{kind.removeprefix('_Mkl')} {took / found.total():.1%}"
        for kind, took in found.most_common()
        if not PRODUCT.search(kind) and took > found.total() / 100
    ]
    row = {
        "network": name,
        "batch": turns["batch"],
        "ratio": turns["ratio"],
        "share": f"{products / found.total():.3f}",
        "bound": f"{float(turns['ratio']) * found.total() / products:.3f}",
        "others": ", ".join(others),
        "machine": machine("tensorflow"),
    }
    return row, found


def line(row: Row) -> list[str]:
    """A line of a table."""
    gain, share, bound = (float(row[column]) for column in ("ratio", "share", "bound"))
    figures = (row["batch"], f"{gain:.2f}", f"{share:.1%}", f"{bound:.2f}")
    return [row["network"], row["others"] or "-", *figures]


def page(rows: list[Row]) -> str:
    """The figures as Markdown."""
    lines = [
        "# Where the time goes",
        "",
        "Made by `python benchmarks/operations.py`; what is measured is said there. On TensorFlow:",
        "how many times faster kito makes a network, how much of the time that is left goes into",
        "multiplications, what else takes a hundredth or more, and what the gain would be if",
        "nothing but the multiplications were left.",
    ]
    for where in dict.fromkeys(row["machine"] for row in rows):
        here = [row for row in rows if row["machine"] == where]
        lines += ["", table(HEADINGS, map(line, here), left=2), "", machines(here)]
    return "\n".join(lines) + "\n"


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--only", multiple=True, help="A network; may be given several times.")
@click.option("--again", is_flag=True, help="Measure what has a row already.")
def main(only: tuple[str, ...], again: bool) -> None:
    """Measure, and write a row after each network."""
    console = Console()
    for name in only or NETWORKS:
        rows = {(row["network"], row["machine"]): row for row in read(TABLE)}
        key = (name, machine("tensorflow"))
        if key in rows and not again:
            continue
        rows[key], found = measure(name)
        done = [row for _, row in sorted(rows.items())]
        write(TABLE, COLUMNS, done)
        PAGE.write_text(page(done))
        longest = Table(title=name)
        longest.add_column("operation")
        longest.add_column("ms", justify="right")
        for kind, took in found.most_common(12):
            longest.add_row(kind, f"{took:.2f}")
        console.print(longest)


if __name__ == "__main__":
    main()
