"""How much faster do networks run, on each target, as a whole and by rule?

    python benchmarks/speed.py                                   every network, on TensorFlow
    python benchmarks/speed.py --target onnx --only MobileNetV2
    python benchmarks/speed.py --rule silu --only EfficientNetB0

Two models run in turns on the same batch, in one process, and the medians are compared: Keras'
model and that of `kito.optimize(model, target=...)`; with `--rule`, the optimized model without
that rule and with it. The largest difference of the outputs goes with the times. A network with
random weights takes as long as a trained one.

The figures go to benchmarks/results/speed.csv, a row a network, target, rule and machine, and as
tables to speed.md. A run skips what has a row; `--again` measures it anew. The backend of Keras is
the target where that is one (KERAS_BACKEND=jax python benchmarks/speed.py --target jax).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
from keras import layers
from machine import machine, machines
from rich.console import Console
from rows import RESULTS, Row, read, table, write
from runtimes import RUNTIMES, check_backend
from subjects import repvgg_block, resnext
from turns import batch_for, in_turns, without_and_with

import kito
from kito.testing import randomize

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from networks import zf_unet_224

TABLE = RESULTS / "speed.csv"
PAGE = RESULTS / "speed.md"
COLUMNS = (
    "target",
    "network",
    "rule",
    "batch",
    "before_ms",
    "after_ms",
    "ratio",
    "difference",
    "repeats",
    "machine",
)
HEADINGS = ("network", "batch", "before", "after", "ratio", "difference")
BATCH = 8
BATCHES = {"ConvNeXtTiny": 4}


def repvgg(size: int = 224) -> keras.Model:
    """RepVGG-A0 as it is trained, arXiv:2101.03697: each block has three branches."""
    inputs = x = keras.Input((size, size, 3))
    for blocks, filters in ((1, 48), (2, 48), (4, 96), (14, 192), (1, 1280)):
        for block in range(blocks):
            x = repvgg_block(x, filters, strides=1 if block else 2)
    return keras.Model(inputs, layers.Dense(1000)(layers.GlobalAveragePooling2D()(x)))


def application(name: str) -> Callable[[], keras.Model]:
    """The builder of a network of `keras.applications`, at its own size, with logits."""
    constructor = getattr(keras.applications, name)
    return lambda: constructor(
        input_shape=SHAPES.get(name), weights=None, classifier_activation=None
    )


SHAPES = {"MobileNetV3Large": (224, 224, 3)}
NETWORKS: dict[str, Callable[[], keras.Model]] = {
    **{
        name: application(name)
        for name in (
            "MobileNet",
            "MobileNetV2",
            "MobileNetV3Large",
            "EfficientNetB0",
            "EfficientNetV2B0",
            "ConvNeXtTiny",
            "ResNet50",
            "ResNet50V2",
            "DenseNet121",
            "NASNetMobile",
            "InceptionV3",
            "Xception",
            "VGG16",
        )
    },
    "RepVGG-A0": repvgg,
    "ResNeXt, four blocks": lambda: resnext(size=56, blocks=4),
    "ZF_UNET_224": zf_unet_224,
}


def measure(name: str, target: str, rule: str, seconds: float) -> Row:
    """Build a network, optimize it, and time both in turns."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = randomize(NETWORKS[name]())
    if rule:
        before, after = (
            kito.optimize(model, rules, target=target) for rules in without_and_with(rule, target)
        )
    else:
        before, after = model, kito.optimize(model, target=target)
    batch = batch_for(model, BATCHES.get(name, BATCH))
    model.predict_on_batch(batch[:1])  # Keras exports to ONNX only what was called
    runs = (RUNTIMES[target](each, len(batch)) for each in (before, after))
    figures = in_turns(*runs, batch, seconds)
    return {"target": target, "network": name, "rule": rule, **figures, "machine": machine(target)}


def line(row: Row) -> list[str]:
    """A line of a table."""
    times = (row["network"], row["batch"], row["before_ms"], row["after_ms"])
    return [*times, f"{float(row['ratio']):.2f}", row["difference"]]


def page(rows: list[Row]) -> str:
    """The figures as Markdown."""
    lines = [
        "# Speed",
        "",
        "Made by `python benchmarks/speed.py`; what is measured is said there. Above 1 is a",
        "gain. Times are medians of runs in turns, in milliseconds a batch.",
    ]
    for target in dict.fromkeys(row["target"] for row in rows):
        for rule in dict.fromkeys(row["rule"] for row in rows if row["target"] == target):
            these = [row for row in rows if row["target"] == target and row["rule"] == rule]
            what = f"{target}: the rule {rule}" if rule else f"{target}: all default rules"
            lines += ["", f"## {what}"]
            for where in dict.fromkeys(row["machine"] for row in these):
                here = [row for row in these if row["machine"] == where]
                lines += ["", table(HEADINGS, map(line, here)), "", machines(here)]
    return "\n".join(lines) + "\n"


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--target", type=click.Choice(list(RUNTIMES)), default="tensorflow")
@click.option("--only", multiple=True, help="A network; may be given several times.")
@click.option("--rule", default="", help="Measure what this rule gains.")
@click.option("--seconds", default=20.0, show_default=True, help="How long to time a network.")
@click.option("--again", is_flag=True, help="Measure what has a row already.")
def main(target: str, only: tuple[str, ...], rule: str, seconds: float, again: bool) -> None:
    """Measure, and write a row after each network."""
    check_backend(target)
    console = Console()
    for name in only or NETWORKS:
        rows = read(TABLE)
        key = {"target": target, "network": name, "rule": rule, "machine": machine(target)}
        old = [row for row in rows if key.items() <= row.items()]
        if old and not again:
            continue
        try:
            row = measure(name, target, rule, seconds)
        except Exception as error:
            console.print(f"{name}: {type(error).__name__}: {error}", markup=False)
            continue
        rows = [*(each for each in rows if each not in old), row]
        rows.sort(key=lambda row: (row["target"], row["rule"], row["network"]))
        write(TABLE, COLUMNS, rows)
        PAGE.write_text(page(rows))
        console.print(
            f"{target} {name} {rule}: {row['before_ms']} -> {row['after_ms']} ms, "
            f"{row['ratio']} x, difference {row['difference']}",
            markup=False,
        )


if __name__ == "__main__":
    main()
