"""The figures that README.md quotes, between two marks."""

from __future__ import annotations

from pathlib import Path

from bench_pages import headline
from bench_rows import TABLE, cases
from machine import machines
from rows import RESULTS, Row, read, table

README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- figures: start -->", "<!-- figures: end -->"
CHAINED = "chain"
BATCHES = ("1", "8")

NETWORKS = (
    "network",
    "parameters",
    "after",
    "layers folded",
    "relative difference",
    "conversion, s",
    "time : clone",
    "memory : weights",
    "clone's",
)
CHAINS = ("layers in a chain", "conversion, ms a layer", "clone, ms a layer")


def network_line(row: Row, memory: Row) -> list[str]:
    """A network with the times and the memory of its conversion."""
    ratios = (memory.get("ratio"), memory.get("clone_ratio"))
    return [
        row["network"],
        f"{int(row['parameters_before']):,}",
        f"{int(row['parameters_after']):,}",
        row["folded"],
        f"{float(row['relative_difference']):.1e}",
        f"{float(row['optimize_seconds']):.2f}",
        f"{float(row['ratio']):.2f}",
        *(f"{float(ratio):.2f}" if ratio else "" for ratio in ratios),
    ]


def chain_line(row: Row) -> list[str]:
    """A chain with the times a layer."""
    size = int(row["size"])
    each = (1000 * float(row[way]) / size for way in ("optimize", "clone"))
    return [f"{size:,}", *(f"{milliseconds:.2f}" for milliseconds in each)]


def figures() -> str:
    """The tables, from the result files."""
    timed = read(TABLE)
    networks = read(RESULTS / "networks.csv")
    memory = {row["network"]: row for row in read(RESULTS / "memory.csv")}
    chains = [row for row in read(RESULTS / "scale.csv") if row["kind"] == CHAINED]
    lines = [network_line(row, memory.get(row["network"], {})) for row in networks]
    return "\n\n".join(
        [
            *(f"Batches of {batch}:\n\n{headline(cases(timed), batch)}" for batch in BATCHES),
            machines(timed),
            table(NETWORKS, lines),
            table(CHAINS, map(chain_line, chains), left=0),
            machines([*networks, *chains]),
        ]
    )


def quoted(text: str) -> str:
    """The text of the README with the figures of the result files between its marks."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{figures()}\n\n{END}{after}"


def quote() -> None:
    """Write the figures into the README."""
    README.write_text(quoted(README.read_text()))
