"""What each rule gains on each target, as `nox -s rules` measured it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "rules.csv"
NOISE = 0.05  # of the time: what one run differs from the next


@dataclass(frozen=True)
class Effect:
    """A row of the table.

    Attributes:
        before, after: milliseconds; empty where nothing was timed.
        ratio: how many times faster; None where `outcome` says why there is none.
    """

    rule: str
    target: str
    network: str
    fired: str
    outcome: str
    before: str
    after: str
    ratio: float | None

    def cell(self) -> str:
        """The ratio for a table, with a mark if it is more than noise; or why there is none."""
        if self.ratio is None:
            return self.outcome
        if abs(self.ratio - 1) <= NOISE:
            return f"{self.ratio:.2f}"
        return f"[{self.ratio:.2f}]{{.{'gain' if self.ratio > 1 else 'loss'}}}"

    def order(self) -> tuple[bool, float, str]:
        """What runs only with the rule comes first, then the largest gain."""
        return self.outcome != "only with it", -(self.ratio or 0), self.rule


@cache
def effects() -> tuple[Effect, ...]:
    """All that was measured."""
    with TABLE.open(newline="") as file:
        return tuple(
            Effect(
                row["rule"],
                row["target"],
                row["network"],
                row["fired"],
                row["outcome"],
                row["before_ms"],
                row["after_ms"],
                float(row["ratio"]) if row["ratio"] else None,
            )
            for row in csv.DictReader(file)
        )
