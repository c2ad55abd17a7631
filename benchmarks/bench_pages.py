"""The tables of `bench.py`: all ways, the headline, and the table of the original KITO again."""

from __future__ import annotations

import statistics

from bench_rows import TABLE, Case, cases, ratio, share
from machine import machines
from rows import RESULTS, Row, read, table

PAGE = RESULTS / "bench.md"
ORIGINAL_PAGE = RESULTS / "original.md"
CONVERSIONS = RESULTS / "networks.csv"
HEADLINE = (
    "network",
    "Keras, ms",
    "fastest without kito",
    "ms",
    "kito.predictor",
    "ms",
    "faster than Keras",
    "than the fastest",
)
# What counts as equally fast.
EQUAL = 0.98
IMAGES = 1000
IMAGES_BATCH = "8"


def headline(all_cases: list[Case], batch: str) -> str:
    """Keras, the best that can be had without kito, and `kito.predictor`."""
    lines = [
        [
            case.network,
            f"{float(case.keras['ms']):.1f}",
            case.peer["way"],
            f"{float(case.peer['ms']):.1f}",
            case.predictor["chosen"],
            f"{float(case.predictor['ms']):.1f}",
            f"{ratio(case.keras, case.predictor):.2f} x",
            f"{ratio(case.peer, case.predictor):.2f} x",
        ]
        for case in all_cases
        if case.batch == batch
    ]
    return table(HEADLINE, lines)


def by_way(rows: list[Row], column: str) -> str:
    """One figure of each way, source and kito's model, a line a network."""
    ways = list(dict.fromkeys((row["way"], row["model"]) for row in rows if row[column]))
    found = {(row["network"], row["way"], row["model"]): row[column] for row in rows}
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        cells = [found.get((network, *way)) for way in ways]
        lines.append([network, *(f"{float(cell):.1f}" if cell else "-" for cell in cells)])
    return table(["network", *(f"{way}, {model}" for way, model in ways)], lines)


def one_image(all_cases: list[Case]) -> str:
    """What a call costs besides the engine's own work."""
    lines = [
        [
            case.network,
            f"{float(case.predict['ms']):.2f}",
            f"{float(case.predictor['ms']):.2f}",
            f"{float(case.by_hand['ms']):.2f}",
            f"{ratio(case.predict, case.predictor):.1f} x",
            f"{ratio(case.predictor, case.by_hand):.3f}",
        ]
        for case in all_cases
        if case.batch == "1" and case.predict and case.by_hand
    ]
    headings = (
        "network",
        "model.predict, ms",
        "predictor(x), ms",
        "its engine by hand, ms",
        "faster than model.predict",
        "as a multiple of by hand",
    )
    return table(headings, lines)


def same_engine(rows: list[Row]) -> str:
    """What kito's model gains in each engine over the source in the same engine."""
    timed = [row for row in rows if row["ms"] and row["exact"] == "yes"]
    found = {(row["network"], row["batch"], row["way"], row["model"]): row for row in timed}
    ratios: dict[str, list[tuple[float, str]]] = {}
    for (network, batch, way, model), row in found.items():
        source = found.get((network, batch, way, "source"))
        if model == "kito" and source:
            ratios.setdefault(way, []).append((ratio(source, row), f"{network}, {batch}"))
    lines = []
    for way, gains in ratios.items():
        gains.sort()
        (least, at_least), (most, at_most) = gains[0], gains[-1]
        below = sum(gain < EQUAL for gain, _ in gains)
        median = statistics.median(gain for gain, _ in gains)
        figures = (f"{least:.2f} x", at_least, f"{median:.2f} x", f"{most:.2f} x", at_most)
        lines.append([way, str(len(gains)), str(below), *figures])
    headings = (
        "engine",
        "timed",
        f"below {EQUAL}",
        "least",
        "network, batch",
        "median",
        "most",
        "network, batch",
    )
    return table(headings, lines)


def left_out(rows: list[Row]) -> str:
    """What could not run, or was too slow, and why."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["reason"]:
            found = reasons.setdefault((row["way"], row["model"], row["reason"]), [])
            if row["network"] not in found:
                found.append(row["network"])
    lines = [
        [way, model, reason, ", ".join(names)] for (way, model, reason), names in reasons.items()
    ]
    return table(("way", "model", "reason", "networks"), lines, left=4)


def details(all_cases: list[Case], batch: str) -> str:
    """What the machine does of what it could, and how much memory it takes."""
    peak_rate = max(float(case.keras["peak_rate"]) for case in all_cases)
    lines = []
    for case in all_cases:
        if case.batch != batch:
            continue
        ways = (case.keras, case.kito, case.predictor)
        lines.append(
            [
                case.network,
                f"{int(case.keras['multiply_adds']) / 1e6:,.0f}",
                *(f"{100 * share(row, peak_rate):.0f} %" for row in ways),
                case.predictor["chosen"],
                case.predictor["difference"],
                case.predictor["mean_difference"],
            ]
        )
    headings = (
        "network",
        "multiply-adds, millions",
        "share of the peak: Keras",
        "kito in Keras",
        "kito.predictor",
        "its engine",
        "largest difference",
        "mean difference",
    )
    return table(headings, lines)


def page(rows: list[Row], *, plots: bool = True) -> str:
    """All figures as Markdown, and the plots if there are some."""
    all_cases = cases(rows)
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    parts = [
        "# Benchmark",
        "Made by `nox -s bench`; what is measured is said in [bench.py](../bench.py). Times are "
        "medians, in milliseconds a batch, of runs in turns in one process. Ratios above 1 are "
        "gains; what computes in bfloat16 counts for none.",
    ]
    if plots:
        parts += [
            "![Times of a batch, with their spread](bars.svg)",
            "![Time against batch](batches.svg)",
        ]
    for batch in batches:
        parts += [f"## Batches of {batch}", headline(all_cases, batch)]
    parts += ["## One image", one_image(all_cases)]
    parts += ["## kito's model and the source in the same engine", same_engine(rows)]
    for batch in batches:
        these = [row for row in rows if row["batch"] == batch]
        parts += [f"## All ways, batches of {batch}", by_way(these, "ms")]
    parts += [
        "## Work and differences, batches of 8",
        details(all_cases, "8"),
        "## Peak memory of preparing, MB",
        by_way(rows, "prepare_mb"),
        "## Peak memory of the first call, MB",
        by_way(rows, "run_mb"),
        "## Left out",
        left_out(rows),
        machines(rows),
    ]
    return "\n\n".join(parts) + "\n"


def original_page(rows: list[Row], conversions: list[Row]) -> str:
    """The table of the original KITO, of kito's default rules in Keras."""
    found = {case.network: case for case in cases(rows) if case.batch == IMAGES_BATCH}
    lines = []
    for row in conversions:
        case = found.get(row["network"])
        times = [
            f"{float(each['ms']) * IMAGES / int(IMAGES_BATCH) / 1000:.1f}" if each else "-"
            for each in ((case.keras, case.kito, case.predictor) if case else (None,) * 3)
        ]
        lines.append(
            [
                row["network"],
                row["input"],
                row["layers_before"],
                row["layers_after"],
                f"{int(row['parameters_before']):,}",
                f"{int(row['default_parameters']):,}",
                *times,
                f"{float(row['optimize_seconds']):.2f}",
                row["maximum_difference"],
                row["mean_difference"],
            ]
        )
    headings = (
        "network",
        "input",
        "layers",
        "after",
        "parameters",
        "after",
        f"{IMAGES:,} images, s",
        "after",
        "kito.predictor",
        "conversion, s",
        "largest difference",
        "mean difference",
    )
    parts = [
        "# The table of the original KITO, today",
        "Made by `nox -s bench`, with all default rules. The time for images is the median of a "
        f"batch of {IMAGES_BATCH} in `predict_on_batch`, scaled; *kito.predictor* is that of the "
        "fastest engine. Differences are absolute, of the last layer's output without its "
        "activation.",
        table(headings, lines, left=2),
        "![Conversion time against layers](conversion.svg)",
        machines(conversions),
    ]
    return "\n\n".join(parts) + "\n"


def write_pages() -> None:
    """Write the pages anew, from the result files."""
    rows = read(TABLE)
    PAGE.write_text(page(rows))
    ORIGINAL_PAGE.write_text(original_page(rows, read(CONVERSIONS)))
