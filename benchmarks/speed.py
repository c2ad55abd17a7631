"""How much faster do networks run, on each target, as a whole and by rule?

    python benchmarks/speed.py                                   every network, on TensorFlow
    python benchmarks/speed.py --target onnx --only MobileNetV2
    python benchmarks/speed.py --rule silu --only EfficientNetB0

Two models run in turns on the same batch, in one process, and the medians are compared: Keras'
model and that of `kito.optimize(model, target=...)`; with `--rule`, the optimized model without
that rule and with it. The largest difference of the outputs goes with the times. A network with
random weights takes as long as a trained one.

The figures go to benchmarks/results/speed.csv, a row a network, target and rule, and as tables to
speed.md. A run skips what has a row; `--again` measures it anew. The backend of Keras is the target
where that is one (KERAS_BACKEND=jax python benchmarks/speed.py --target jax).
"""

from __future__ import annotations

import csv
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import numpy as np
from keras import layers
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from runtimes import RUNTIMES  # noqa: E402

import kito  # noqa: E402
from kito import plugins  # noqa: E402
from kito.testing import randomize  # noqa: E402
from tests import networks  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
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
BATCH = 8
BATCHES = {"ConvNeXtTiny": 4}
KERAS_TARGETS = ("tensorflow", "jax", "torch")

Row = dict[str, str]


def resnext(size: int = 56) -> keras.Model:
    """Four blocks of ResNeXt-50 (32 groups), of its second stage, arXiv:1611.05431."""
    inputs = x = keras.Input((size, size, 256))
    for _ in range(4):
        y = x
        for filters, window, groups in ((128, 1, 1), (128, 3, 32), (256, 1, 1)):
            conv = layers.Conv2D(filters, window, padding="same", groups=groups, use_bias=False)
            y = layers.BatchNormalization()(conv(y))
            y = layers.ReLU()(y) if filters == 128 else y
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, x)


def repvgg(size: int = 224) -> keras.Model:
    """RepVGG-A0 as it is trained, arXiv:2101.03697: each block has three branches."""
    inputs = x = keras.Input((size, size, 3))
    for blocks, filters in ((1, 48), (2, 48), (4, 96), (14, 192), (1, 1280)):
        for block in range(blocks):
            strides = 2 if block == 0 else 1
            branches = [
                layers.BatchNormalization()(
                    layers.Conv2D(filters, window, strides=strides, padding="same", use_bias=False)(
                        x
                    )
                )
                for window in (3, 1)
            ]
            if strides == 1:
                branches.append(layers.BatchNormalization()(x))
            x = layers.ReLU()(layers.Add()(branches))
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
    "ResNeXt, four blocks": resnext,
    "ZF_UNET_224": networks.zf_unet_224,
}


def measure(name: str, target: str, rule: str, seconds: float) -> Row:
    """Build a network, optimize it, and time both in turns."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = randomize(NETWORKS[name]())
    rules = [each.name for each in plugins.select(None, target)]
    if rule:
        before = kito.optimize(model, [each for each in rules if each != rule], target=target)
        after = kito.optimize(model, [*rules, rule] if rule not in rules else rules, target=target)
    else:
        before, after = model, kito.optimize(model, target=target)
    batch = BATCHES.get(name, BATCH)
    pictures = np.random.default_rng(0).normal(size=(batch, *model.input_shape[1:]))
    pictures = pictures.astype("float32")
    model.predict_on_batch(pictures[:1])  # Keras exports to ONNX only what was called
    runs = [RUNTIMES[target](each, batch) for each in (before, after)]
    expected, answer = (run(pictures) for run in runs)
    times: list[list[float]] = [[], []]
    end = time.monotonic() + seconds
    while len(times[0]) < 6 or (time.monotonic() < end and len(times[0]) < 50):
        turn = list(zip(runs, times, strict=True))
        for run, measured in (
            turn if len(times[0]) % 2 else turn[::-1]
        ):  # who is first has cold caches
            start = time.perf_counter()
            run(pictures)
            measured.append(time.perf_counter() - start)
    slow, fast = (1000 * median(measured) for measured in times)
    return {
        "target": target,
        "network": name,
        "rule": rule,
        "batch": str(batch),
        "before_ms": f"{slow:.2f}",
        "after_ms": f"{fast:.2f}",
        "ratio": f"{slow / fast:.3f}",
        "difference": f"{np.abs(expected - answer).max() / np.abs(expected).max():.1e}",
        "repeats": str(len(times[0])),
        "machine": machine(target),
    }


def machine(target: str) -> str:
    """What the figures depend on."""
    package = {"onnx": "onnxruntime", "litert": "ai-edge-litert"}.get(target, target)
    names = ("keras", package)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"{versions}, {platform.system()} {platform.machine()}, {os.cpu_count()} processors"


def read() -> list[Row]:
    """The rows that are there."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def write(rows: list[Row]) -> None:
    """Write the table anew, and the page that is made of it."""
    rows.sort(key=lambda row: (row["target"], row["rule"], row["network"]))
    RESULTS.mkdir(exist_ok=True)
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    PAGE.write_text(page(rows))


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
            lines += [
                "",
                f"## {what}",
                "",
                "| network | batch | before | after | ratio | difference |",
                "|:--|--:|--:|--:|--:|--:|",
                *(
                    f"| {row['network']} | {row['batch']} | {row['before_ms']} | {row['after_ms']} "
                    f"| {float(row['ratio']):.2f} | {row['difference']} |"
                    for row in these
                ),
                "",
                f"Machine: {'; '.join(dict.fromkeys(row['machine'] for row in these))}.",
            ]
    return "\n".join(lines) + "\n"


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--target", type=click.Choice(list(RUNTIMES)), default="tensorflow")
@click.option("--only", multiple=True, help="A network; may be given several times.")
@click.option("--rule", default="", help="Measure what this rule gains.")
@click.option("--seconds", default=20.0, show_default=True, help="How long to time a network.")
@click.option("--again", is_flag=True, help="Measure what has a row already.")
def main(target: str, only: tuple[str, ...], rule: str, seconds: float, again: bool) -> None:
    """Measure, and write a row after each network."""
    if target in KERAS_TARGETS and keras.backend.backend() != target:
        raise click.UsageError(f"set KERAS_BACKEND={target}")
    console = Console()
    for name in only or NETWORKS:
        rows = read()
        key = (target, name, rule)
        old = [row for row in rows if (row["target"], row["network"], row["rule"]) == key]
        if old and not again:
            continue
        try:
            row = measure(name, target, rule, seconds)
        except Exception as error:
            console.print(f"{name}: {type(error).__name__}: {error}", markup=False)
            continue
        write([*(each for each in rows if each not in old), row])
        console.print(
            f"{target} {name} {rule}: {row['before_ms']} -> {row['after_ms']} ms, "
            f"{row['ratio']} x, difference {row['difference']}",
            markup=False,
        )


if __name__ == "__main__":
    main()
