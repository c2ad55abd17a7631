"""Does a process that optimizes model after model grow?

    python benchmarks/soak.py                       a thousand models
    python benchmarks/soak.py --turns 100

Ten small models, some nested, some with layers written in Python, some with shared layers, are
built anew and optimized, turn after turn, three of them with `verify=True`; nothing of them is
kept. In another process the same models are copied by Keras, and both run where they would be
verified. Written down are the resident memory, and how many of the models, before and after, are
still there once Python has collected what nobody needs.

TensorFlow keeps something of each variable that was ever made, until `keras.utils.clear_session`
is called. So both run twice, the second time with such a call each fifty turns.

The figures go to benchmarks/results/soak.csv, a row each fifty turns, and as a table to soak.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
from keras import layers
from large_models import Shell, chain, composite, nested, outputs, residual, shared, wide
from machine import machine, machines
from memory import MEGABYTE, give_back, resident
from rows import RESULTS, Row, read, table, write
from ways import clone

import kito
from kito.samples import random_inputs

TABLE = RESULTS / "soak.csv"
PAGE = RESULTS / "soak.md"
STEP = 50
# The way, and whether `clear_session` is called.
RUNS = (("optimize", False), ("clone", False), ("optimize", True), ("clone", True))
MEMORY = [f"{way}_{'cleared' if clear else 'kept'}_mb" for way, clear in RUNS]
COLUMNS = ("turns", *MEMORY, *(name.replace("_mb", "_alive") for name in MEMORY), "machine")
HEADINGS = (
    "models",
    "kito.optimize",
    "clone_model",
    "kito.optimize, with clear_session",
    "clone_model, with clear_session",
    "alive",
)


class Subclassed(keras.Model):
    """A model that is written as a class."""

    def __init__(self):
        super().__init__()
        self.shell = Shell(2)
        self.dense = layers.Dense(3)

    def build(self, shape):
        """Build the layers inside."""
        self.shell.build(shape)
        self.dense.build(shape)

    def call(self, x):
        """The layers inside, one after the other."""
        return self.dense(self.shell(x))


def subclassed() -> keras.Model:
    """A model that is written as a class, built."""
    model = Subclassed()
    model.build((None, 4, 4, 2))
    return model


def sequential() -> keras.Model:
    """A Sequential model."""
    return keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(3, 3), layers.BatchNormalization(), layers.Dense(2)]
    )


MODELS: tuple[Callable[[], keras.Model], ...] = (
    lambda: chain(9),
    lambda: residual(14),
    lambda: wide(15),
    lambda: outputs(3),
    lambda: shared(3),
    lambda: nested(3),
    lambda: composite(2),
    lambda: chain(30),
    sequential,
    subclassed,
)
VERIFIED = (0, 3, 6)


def optimized(model: keras.Model, run: bool) -> keras.Model:
    """The model that kito makes of it."""
    return kito.optimize(model, verify=run)


def copied(model: keras.Model, run: bool) -> keras.Model:
    """The model that Keras makes of it, and runs, as a verification does."""
    copy = type(model)() if isinstance(model, Subclassed) else clone(model)
    for each in (model, copy) if run else ():
        each.predict_on_batch(random_inputs(model))
    return copy


WAYS = {"optimize": optimized, "clone": copied}


def turns(way: str, clear: bool, number: int) -> Iterator[Row]:
    """The figures of a process that does nothing else."""
    alive: weakref.WeakSet[keras.Model] = weakref.WeakSet()
    for turn in range(1, number + 1):
        model = MODELS[turn % len(MODELS)]()
        run = turn % len(MODELS) in VERIFIED
        alive.update((model, WAYS[way](model, run)))
        del model
        if turn % STEP == 0:
            if clear:
                keras.utils.clear_session()
            give_back()
            yield {
                "turns": str(turn),
                "mb": f"{resident() / MEGABYTE:.1f}",
                "alive": str(len(alive)),
            }


def line(row: Row) -> list[str]:
    """A line of the table."""
    alive = sum(int(row[name]) for name in COLUMNS if name.endswith("_alive"))
    return [f"{int(row['turns']):,}", *(row[name] for name in MEMORY), str(alive)]


def page(rows: list[Row]) -> str:
    """The figures as Markdown."""
    parts = [
        "# Many models in one process",
        "Made by `nox -s soak`; what is measured is said in [soak.py](../soak.py). Memory is what "
        "the process holds, in MB; alive is how many of all models are still there, in the four "
        "runs together.",
        table(HEADINGS, map(line, rows), left=0),
        machines(rows),
    ]
    return "\n\n".join(parts) + "\n"


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--turns", "number", default=1_000, show_default=True, help="How many models.")
@click.option("--here", type=(click.Choice(list(WAYS)), bool), hidden=True)
def main(number: int, here: tuple[str, bool] | None) -> None:
    """Measure each run in a process of its own, and write the table."""
    if here:
        for row in turns(*here, number):
            click.echo(json.dumps(row))
        return
    found: dict[str, Row] = {}
    for (way, clear), name in zip(RUNS, MEMORY, strict=True):
        command = [sys.executable, __file__, "--here", way, str(clear), "--turns", str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for text in process.stdout:
                figures = json.loads(text)
                row = found.setdefault(
                    figures["turns"],
                    {"turns": figures["turns"], "machine": machine("tensorflow")},
                )
                row |= {name: figures["mb"], name.replace("_mb", "_alive"): figures["alive"]}
                click.echo(f"{way}, {clear=}, {figures['turns']}: {figures['mb']} MB")
        if process.returncode:
            raise click.ClickException(f"{way} failed")
    write(TABLE, COLUMNS, found.values())
    PAGE.write_text(page(read(TABLE)))


if __name__ == "__main__":
    main()
