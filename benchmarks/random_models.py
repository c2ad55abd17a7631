"""Optimize thousands of random models, and count what happened.

    python benchmarks/random_models.py                          10,000 models
    python benchmarks/random_models.py --seed 7 --minutes 30    as many as half an hour allows

Every model is drawn by `kito.random_models.models` and goes through `kito.random_models.check`: the
result must compute the same, leave the model untouched, find nothing to do in a second run, and be
saved and loaded again. A model counts as wrong if one of these does not hold, and as broken if
`optimize` raises.

Models are drawn in batches of their own seed, so a run can be stopped and go on: what is done
stands in benchmarks/results/random_models.csv, a line a batch. `random_models.md` is made of that.
Failures go to random_models_failures.txt, each with its smallest model and the batch it is from.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
import warnings
from collections import Counter
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import UnsatisfiedAssumption
from machine import versions
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rows import RESULTS, read, write

from kito import plugins
from kito.graph.keras_internals import calls_in_order, is_graph_model
from kito.random_models import check, models

TABLE = RESULTS / "random_models.csv"
PAGE = RESULTS / "random_models.md"
FAILURES = RESULTS / "random_models_failures.txt"
# Small batches differ more: hypothesis draws variations of what it drew before.
BATCH = 50
RULES = tuple(rule.name for rule in plugins.select(None))
COLUMNS = ("seed", "batch", "models", "same", "wrong", "broken", "declined", "seconds", *RULES)

Row = dict[str, int]


def describe(model: keras.Model, indent: str = "") -> str:
    """The calls of a model, one a line."""
    lines = []
    for call in calls_in_order(model):
        operation = call.operation
        given_names = [tensor.name for tensor in call.arguments.keras_tensors]
        made = [f"{tensor.name} {tensor.shape} {tensor.dtype}" for tensor in call.outputs]
        lines.append(f"{indent}{operation.name}({', '.join(given_names)}) -> {', '.join(made)}")
        if hasattr(operation, "get_config") and not isinstance(operation, keras.Model):
            lines.append(f"{indent}    {operation.get_config()}")
        if isinstance(operation, keras.Model) and is_graph_model(operation):
            lines.append(describe(operation, indent + "    "))
    return "\n".join(lines)


def run_batch(number: int, seed_of_run: int, advance: Any) -> tuple[Row, dict[str, str]]:
    """Draw and check one batch of models.

    Returns:
        The counts, and the smallest failing model of each kind of failure.
    """
    counts: Counter[str] = Counter()
    failures: dict[str, str] = {}
    start = time.perf_counter()

    @seed(f"{seed_of_run}/{number}")
    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(models())
    def each(model: keras.Model) -> None:
        try:
            report = check(model)
        except UnsatisfiedAssumption:  # Keras can't run the model: it is no example
            raise
        except Exception as error:
            counts["wrong" if isinstance(error, AssertionError) else "broken"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {place.name}: {str(error).strip()[:60]}"
            text = f"{describe(model)}\n{traceback.format_exc()}"
            failures[kind] = min(failures.get(kind, text), text, key=len)
        else:
            counts["same"] += 1
            counts["declined"] += len(report.declined)
            counts.update(report.folded)
        advance()
        counts["models"] += 1

    each()
    counts["seconds"] = round(time.perf_counter() - start)
    keras.utils.clear_session()
    return {
        **{name: counts[name] for name in COLUMNS},
        "seed": seed_of_run,
        "batch": number,
    }, failures


def read_rows() -> list[Row]:
    """The batches that are done."""
    return [{name: int(row.get(name) or 0) for name in COLUMNS} for row in read(TABLE)]


def write_rows(rows: list[Row]) -> None:
    """Write the table anew, and the page that is made of it."""
    write(TABLE, COLUMNS, rows)
    PAGE.write_text(page(rows))


def page(rows: list[Row]) -> str:
    """The sums of all batches as Markdown."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row)
    counts = [
        ("models", total["models"]),
        ("same answers", total["same"]),
        ("wrong", total["wrong"]),
        ("broken", total["broken"]),
        ("calls rewritten", sum(total[name] for name in RULES)),
        *((f"by {name}", total[name]) for name in RULES),
        ("matches declined", total["declined"]),
        ("seconds", total["seconds"]),
    ]
    seeds = sorted({row["seed"] for row in rows})
    packages = versions("tensorflow", "keras", "hypothesis")
    lines = [
        "# Random models",
        "",
        "Made by `python benchmarks/random_models.py`; what is counted is said there.",
        "",
        "| | |",
        "|:--|--:|",
        *(f"| {name} | {count:,} |" for name, count in counts),
        "",
        f"Seeds {', '.join(map(str, seeds))}. {packages}, Python {platform.python_version()}.",
        "",
    ]
    return "\n".join(lines)


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--models", "count", default=10_000, show_default=True, help="How many to check.")
@click.option("--seed", "seed_of_run", default=0, show_default=True)
@click.option("--minutes", type=float, help="Stop after this time; a later run goes on.")
@click.option("--fresh", is_flag=True, help="Forget what is done.")
def main(count: int, seed_of_run: int, minutes: float | None, fresh: bool) -> None:
    """Check batches until the number, or the time, is reached."""
    tf.get_logger().setLevel("ERROR")
    warnings.simplefilter("ignore")
    if fresh:
        for path in (TABLE, FAILURES):
            path.unlink(missing_ok=True)
    rows = read_rows()
    done = {row["batch"] for row in rows if row["seed"] == seed_of_run}
    end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("models", total=count, completed=len(done) * BATCH)
        for number in range(-(-count // BATCH)):
            if number in done:
                continue
            if time.monotonic() > end:
                break
            row, failures = run_batch(number, seed_of_run, lambda: progress.advance(task))
            rows.append(row)
            write_rows(rows)
            with FAILURES.open("a") as file:
                for kind, text in failures.items():
                    console.print(f"batch {number}: {kind}", markup=False)
                    file.write(f"=== seed {seed_of_run}, batch {number}: {kind}\n{text}\n")
    console.print(page(rows), markup=False)
    raise SystemExit(any(row["wrong"] + row["broken"] for row in rows))


if __name__ == "__main__":
    main()
