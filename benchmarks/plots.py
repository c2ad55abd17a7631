"""The plots of `bench.py`, as SVG files beside its tables."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from bench_rows import Case
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rows import RESULTS, Row

COLORS = {"Keras": "#9aa5b1", "fastest without kito": "#5b8def", "kito.predictor": "#e4572e"}
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    # The same figures give the same file.
    "svg.hashsalt": "kito",
}


def _sides(case: Case) -> dict[str, Row]:
    return dict(zip(COLORS, (case.keras, case.peer, case.predictor), strict=True))


def _save(figure: plt.Figure, name: str) -> None:
    figure.savefig(RESULTS / name, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def bars(all_cases: list[Case], batch: str = "8") -> None:
    """Speed on one batch size, Keras being 1, with the quartiles of the runs."""
    these = [case for case in all_cases if case.batch == batch]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(these) + 1))
    height = 0.26
    for place, (label, color) in enumerate(COLORS.items()):
        rows = [_sides(case)[label] for case in these]
        base = [float(case.keras["ms"]) for case in these]
        speed = [one / float(row["ms"]) for one, row in zip(base, rows, strict=True)]
        low = [one / float(row["high_ms"]) for one, row in zip(base, rows, strict=True)]
        high = [one / float(row["low_ms"]) for one, row in zip(base, rows, strict=True)]
        spread = [np.subtract(speed, low), np.subtract(high, speed)]
        where = np.arange(len(these)) + (place - 1) * height
        axes.barh(where, speed, height, xerr=spread, color=color, label=label, ecolor="#52606d")
    axes.set_yticks(range(len(these)), [case.network for case in these])
    axes.invert_yaxis()
    axes.axvline(1, color="#52606d", linewidth=0.8)
    axes.set_xlabel(f"times as fast as Keras, batches of {batch}")
    axes.legend(loc="lower right", frameon=False)
    _save(figure, "bars.svg")


def batches(all_cases: list[Case]) -> None:
    """Milliseconds a picture against the batch size, a panel a network."""
    names = list(dict.fromkeys(case.network for case in all_cases))
    columns = 4
    lines = -(-len(names) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(10, 2.1 * lines), squeeze=False)
    for panel in panels.flat[len(names) :]:
        panel.axis("off")
    for name, panel in zip(names, panels.flat, strict=False):
        _against_batch(panel, [case for case in all_cases if case.network == name])
        panel.set_title(name, fontsize=9)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="upper center", frameon=False)
    figure.supxlabel("pictures in a batch")
    figure.supylabel("milliseconds a picture")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    _save(figure, "batches.svg")


def _against_batch(panel: Axes, these: list[Case]) -> None:
    sizes = [int(case.batch) for case in these]
    for label, color in COLORS.items():
        each = [float(_sides(case)[label]["ms"]) / int(case.batch) for case in these]
        panel.plot(sizes, each, marker="o", markersize=3, color=color, label=label)
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, map(str, sizes))
    panel.set_ylim(bottom=0)


def conversion(rows: list[Row]) -> None:
    """The seconds of the conversion, and of Keras' own copy, against the number of layers."""
    figure, axes = plt.subplots(figsize=(7, 4))
    layers = [int(row["layers_before"]) for row in rows]
    for column, label, color in (
        ("clone_seconds", "clone_model, set_weights", "#9aa5b1"),
        ("optimize_seconds", "kito.optimize", "#e4572e"),
    ):
        axes.scatter(layers, [float(row[column]) for row in rows], color=color, label=label)
    axes.set_xlabel("layers")
    axes.set_ylabel("seconds")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _save(figure, "conversion.svg")


def draw_all(all_cases: list[Case], conversions: list[Row]) -> None:
    """Write every plot."""
    with mpl.rc_context(STYLE):
        bars(all_cases)
        batches(all_cases)
        conversion([row for row in conversions if row.get("layers_before")])
