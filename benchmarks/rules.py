"""What does each built-in rule gain, on each target?

    python benchmarks/rules.py                 every rule, on TensorFlow
    python benchmarks/rules.py --target onnx --only gelu --only silu
    python benchmarks/rules.py --page          measures nothing, and writes the page anew

Each rule has a few blocks of a real network on which it fires; `subjects.py` has them all. Two
models run in turns on the same batch, in one process, and the medians are compared: with the rules
that are default for the target but this one, and with this rule too, also where it is no default.

The figures go to benchmarks/results/rules.csv, a row a target and rule, and as a table to rules.md.
Where a model can't be exported without the rule, or with it, the row says so. A run skips
what has a row; `--again` measures it anew. The backend of Keras is the target where that is one
(KERAS_BACKEND=jax python benchmarks/rules.py --target jax).
"""

from __future__ import annotations

import os
import re
import textwrap

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import numpy as np
from machine import machine, machines
from rows import RESULTS, Row, read, table, write
from runtimes import RUNTIMES, Run, check_backend
from subjects import SUBJECTS
from turns import batch_for, in_turns, without_and_with

import kito
from kito import plugins
from kito.testing import randomize

TABLE = RESULTS / "rules.csv"
PAGE = RESULTS / "rules.md"
COLUMNS = (
    "target",
    "rule",
    "network",
    "fired",
    "outcome",
    "batch",
    "before_ms",
    "after_ms",
    "ratio",
    "difference",
    "repeats",
    "error",
    "machine",
)
BATCH = 8
# Of the largest output: what a runtime may differ by from Keras.
TOLERANCE = 1e-3
MEASURED, IDLE = "measured", "does not fire"
# By whether the model runs without the rule, and with it.
OUTCOMES = {
    (True, True): MEASURED,
    (False, True): "only with it",
    (True, False): "only without it",
    (False, False): "can't be exported",
}
INTRODUCTION = """\
# Speed, rule by rule

Made by `nox -s rules`. A few blocks of the network in the second column, which stand in
[subjects.py](../subjects.py), run without the rule and with it; all other rules that are default
for the target are in both models. A figure says how many times faster the blocks are with the rule:
above 1 is a gain, and a few hundredths are noise. It is bold where the rule is a default for the
target.
"""
WORDS = """
No figure means: *only with it*, without the rule the model can't be exported, or the runtime does
not load it, or gives other answers; *only without it*, the reverse; *can't be exported*, neither
can; *does not fire*, another default rule leaves nothing to do; -, not measured yet.
"""


def measure(rule: str, target: str, seconds: float) -> Row:
    """Optimize the rule's model without it and with it, and time both in turns."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    subject = SUBJECTS[rule]
    model = randomize(subject.build())
    report = kito.Report()
    without, with_it = without_and_with(rule, target)
    before = kito.optimize(model, without, target=target)
    after = kito.optimize(model, with_it, target=target, report=report)
    fired = report.folded.get(rule, 0)
    row = dict.fromkeys(COLUMNS, "") | {
        "target": target,
        "rule": rule,
        "network": subject.network,
        "fired": str(fired),
        "machine": machine(target),
    }
    if not fired:
        return row | {"outcome": IDLE}
    batch = batch_for(model, BATCH)
    runs = [started(each, target, batch) for each in (before, after)]
    row["outcome"] = OUTCOMES[tuple(callable(run) for run in runs)]
    if row["outcome"] == MEASURED:
        return row | in_turns(*runs, batch, seconds)
    return row | {"error": next(run for run in runs if isinstance(run, str))}


def started(model: keras.Model, target: str, batch: np.ndarray) -> Run | str:
    """The model in its runtime, which has run once; or what is wrong with it there, as one line."""
    expected = model.predict_on_batch(batch)  # Keras exports to ONNX only what was called
    try:
        run = RUNTIMES[target](model, len(batch))
        answer = run(batch)
    except Exception as error:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        return re.sub(r"\S*/(model\.\w+)", r"\1", line)  # the folder has another name each time
    if answer.shape != expected.shape:
        return f"the runtime gives {answer.shape}, Keras gives {expected.shape}"
    if np.abs(answer - expected).max() > TOLERANCE * np.abs(expected).max():
        return "the runtime gives other answers than Keras"
    return run


def page(rows: list[Row]) -> str:
    """The figures as Markdown."""
    found = {(row["target"], row["rule"]): row for row in rows}
    cells = [
        [
            f"[{rule}](../../docs/recipes/{rule}.md)",
            subject.network,
            *(cell(rule, target, found.get((target, rule))) for target in RUNTIMES),
        ]
        for rule, subject in sorted(SUBJECTS.items())
    ]
    lines = [INTRODUCTION, table(("rule", "blocks of", *RUNTIMES), cells, left=2), WORDS]
    if rows:
        differences = (float(row["difference"]) for row in rows if row["difference"])
        lines += [
            f"Answers differ by {max(differences, default=0.0):.1e} of the largest at most.",
            "",
            machines(rows),
        ]
    errors = [row for row in rows if row["error"]]
    if errors:
        lines += ["", "## Where there is no figure", ""]
        for row in errors:
            error = textwrap.shorten(row["error"], 200, placeholder=" ...")
            lines.append(f"- {row['rule']}, {row['target']}, {row['outcome']}: `{error}`")
    return "\n".join(lines).rstrip() + "\n"


def cell(rule: str, target: str, row: Row | None) -> str:
    """What the table says of a rule on a target."""
    if row is None:
        return "-"
    text = f"{float(row['ratio']):.2f}" if row["outcome"] == MEASURED else row["outcome"]
    default = plugins.registry()[rule].rule.is_default(target)
    return f"**{text}**" if default else text


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--target", type=click.Choice(list(RUNTIMES)), default="tensorflow")
@click.option(
    "--only",
    metavar="RULE",
    multiple=True,
    type=click.Choice(sorted(SUBJECTS)),
    help="A rule; may be given several times.",
)
@click.option("--seconds", default=4.0, show_default=True, help="How long to time a rule.")
@click.option("--again", is_flag=True, help="Measure what has a row already.")
@click.option("--page", "page_only", is_flag=True, help="Measure nothing.")
def main(target: str, only: tuple[str, ...], seconds: float, again: bool, page_only: bool) -> None:
    """Measure, and write a row and the page after each rule."""
    rows = read(TABLE)
    if page_only:
        PAGE.write_text(page(rows))
        return
    check_backend(target)
    for rule in only or sorted(SUBJECTS):
        old = [row for row in rows if (row["target"], row["rule"]) == (target, rule)]
        if old and not again:
            continue
        row = measure(rule, target, seconds)
        rows = [*(each for each in rows if each not in old), row]
        rows.sort(key=lambda row: (row["target"], row["rule"]))
        write(TABLE, COLUMNS, rows)
        PAGE.write_text(page(rows))
        click.echo(
            f"{target} {rule}: {row['before_ms']} -> {row['after_ms']} ms, {row['ratio']} x, "
            f"difference {row['difference']}"
            if row["outcome"] == MEASURED
            else f"{target} {rule}: {row['outcome']} {row['error']}"
        )


if __name__ == "__main__":
    main()
