"""What was rewritten, what was not and why: a plain record that prints as a table."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from kito.tables import Table, render


@dataclass(frozen=True)
class Applied:
    """One rewrite. `parameters` is how many weights the model gained (negative: lost)."""

    rule: str
    layers: tuple[str, ...]
    result: tuple[str, ...]
    path: tuple[str, ...]
    calls: int
    parameters: int


@dataclass(frozen=True)
class Declined:
    """One match that stayed as it was, and why."""

    rule: str
    layers: tuple[str, ...]
    path: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Timed:
    """A rule that `tune` tried. `ratio` is how many times faster the model became by adding the
    rule, or by leaving it out (`added`), and `kept` whether that was kept.
    """

    rule: str
    added: bool
    ratio: float
    kept: bool


@dataclass
class Report:
    """What one run of `optimize` did. `print(report)` shows it, `to_json()` is for machines.

    Attributes:
        applied: the rewrites, in the order in which they were made.
        declined: the matches that stand in the result, with the reason of each.
        timed: what `tune` measured.
        notes: what else a user should know, such as layers that are shared with the source model.
    """

    applied: list[Applied] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)
    timed: list[Timed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def renamed(self) -> dict[str, str]:
        """Old layer name -> the name of the layer that now does its work, with nested paths."""
        names: dict[str, str] = {}
        for applied in self.applied:
            prefix = "".join(f"{part}/" for part in applied.path)
            for old, new in names.items():
                if new in {prefix + name for name in applied.layers if name not in applied.result}:
                    names[old] = prefix + applied.result[-1]
            for name in applied.layers:
                new = name if name in applied.result else applied.result[-1]
                names[prefix + name] = prefix + new
        return names

    @property
    def folded(self) -> dict[str, int]:
        """How often each rule was applied."""
        counts: dict[str, int] = {}
        for applied in self.applied:
            counts[applied.rule] = counts.get(applied.rule, 0) + applied.calls
        return counts

    def to_dict(self) -> dict[str, Any]:
        """The report as plain lists, dicts, strings and numbers."""
        return dataclasses.asdict(self) | {"renamed": self.renamed}

    def to_json(self) -> str:
        """The report as a JSON document."""
        return json.dumps(self.to_dict(), indent=2)

    def tables(self) -> list[Table]:
        """The report as tables; `str(report)` renders them."""
        tables = [
            Table(
                "rewritten",
                ("rule", "layers", "becomes", "parameters"),
                [
                    (
                        row.rule,
                        _path(row.path, " -> ".join(row.layers)),
                        " -> ".join(row.result),
                        f"{row.parameters:+,}",
                    )
                    for row in self.applied
                ],
            )
        ]
        if self.declined:
            tables.append(
                Table(
                    "kept",
                    ("rule", "layers", "reason"),
                    [
                        (row.rule, _path(row.path, " -> ".join(row.layers)), row.reason)
                        for row in self.declined
                    ],
                )
            )
        if self.timed:
            tables.append(
                Table(
                    "timed",
                    ("rule", "tried", "faster", "kept"),
                    [
                        (
                            row.rule,
                            "with" if row.added else "without",
                            f"{row.ratio:.2f} x",
                            "yes" if row.kept else "no",
                        )
                        for row in self.timed
                    ],
                )
            )
        if self.notes:
            tables.append(Table("notes", ("note",), [(note,) for note in self.notes]))
        return tables

    def __str__(self) -> str:
        return render(self.tables())


def _path(path: tuple[str, ...], name: str) -> str:
    return "/".join((*path, name))
