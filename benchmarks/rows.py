"""Figures in CSV files of benchmarks/results, a row a measurement, and as Markdown tables; all
values are text.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """The rows that are there; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write the file anew. What a row does not have is empty."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(headings: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table.

    Args:
        left: the number of columns that hold words, and not figures.
    """
    marks = [":--"] * left + ["--:"] * (len(headings) - left)
    all_lines = ["| " + " | ".join(line) + " |" for line in (headings, *lines)]
    return "\n".join([all_lines[0], f"|{'|'.join(marks)}|", *all_lines[1:]])
