"""What was rewritten, what was not and why: a plain record that prints as a table."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kito.tables import Table, render

if TYPE_CHECKING:
    from kito.graph.change import Change
    from kito.verification import Verification

# In place of the rewrites.
NOTHING = "nothing: no rule applies"


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


@dataclass(frozen=True)
class Fault:
    """A rule that failed, or a rewrite of it that did; the result does without.

    Attributes:
        layers: those of the rewrite; none if the rule is not used at all.
        problem: what went wrong.
    """

    rule: str
    layers: tuple[str, ...]
    problem: str


@dataclass
class Report:
    """What one run of `optimize` did. `print(report)` shows it, `to_json()` is for machines.

    Attributes:
        applied: the rewrites, in the order in which they were made.
        declined: the matches that stand in the result, with the reason of each.
        unmatched: the normalizations, paddings and so on that stand in the result although no rule
            declined, with the rule that is nearest, and what stands around them.
        timed: what `tune` measured.
        faults: the rules and rewrites that failed, and that the result does without.
        verification: how far the answers are apart; None if that was not asked for.
        seconds: the time that each rule took, by name.
        notes: what else a user should know, such as layers that are shared with the source model.
        change: the calls of the model before and after, for `draw`; None before `optimize` ran.
    """

    applied: list[Applied] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)
    unmatched: list[Declined] = field(default_factory=list)
    timed: list[Timed] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    verification: Verification | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    change: Change | None = field(default=None, repr=False, compare=False)

    @property
    def renamed(self) -> dict[str, str]:
        """Old layer name -> the name of the layer that now does its work, with nested paths.

        Layers whose work is not done any more, such as a Dropout, are left out.
        """
        names: dict[str, str] = {}
        olds: dict[str, set[str]] = {}  # those that now have a name

        def rename(old: str, new: str) -> None:
            olds.get(names.get(old, ""), set()).discard(old)
            names[old] = new
            olds.setdefault(new, set()).add(old)

        for applied in self.applied:
            prefix = "".join(f"{part}/" for part in applied.path)
            gone = [prefix + name for name in applied.layers if name not in applied.result]
            moved = [old for name in gone for old in olds.pop(name, ())]
            if not applied.result:
                for old in moved:
                    del names[old]
                continue
            for old in moved:
                rename(old, prefix + applied.result[-1])
            for name in applied.layers:
                new = name if name in applied.result else applied.result[-1]
                rename(prefix + name, prefix + new)
        return names

    @property
    def folded(self) -> dict[str, int]:
        """How often each rule was applied."""
        counts: dict[str, int] = {}
        for applied in self.applied:
            counts[applied.rule] = counts.get(applied.rule, 0) + applied.calls
        return counts

    def add(self, other: Report) -> None:
        """Take over what another report says."""
        self.applied += other.applied
        self.declined += other.declined
        self.unmatched += other.unmatched
        self.timed += other.timed
        self.faults += other.faults
        self.notes += other.notes
        for rule, seconds in other.seconds.items():
            self.seconds[rule] = self.seconds.get(rule, 0.0) + seconds
        self.verification = other.verification or self.verification
        self.change = other.change or self.change

    def to_dict(self) -> dict[str, Any]:
        """The report as plain lists, dicts, strings and numbers."""
        document = dataclasses.asdict(dataclasses.replace(self, change=None))
        del document["change"]
        return document | {"renamed": self.renamed, "size": self.size}

    @property
    def size(self) -> dict[str, tuple[int, int]]:
        """Calls, parameters, multiply-adds and passes over data, before and after.

        Empty before `optimize` ran. A pass is a call that multiplies nothing, such as an addition.
        """
        if self.change is None:
            return {}
        return {
            "calls": self.change.calls,
            "parameters": self.change.parameters,
            "multiply-adds": self.change.multiply_adds,
            "passes": self.change.passes,
        }

    def to_json(self) -> str:
        """The report as a JSON document."""
        return json.dumps(self.to_dict(), indent=2)

    def draw(self, path: str | os.PathLike[str], *, everything: bool = False) -> None:
        """Draw the model before and after, with what changed marked.

        Args:
            path: the file to write: `.svg`, `.png`, or `.json` for the viewer Model Explorer.
            everything: whether every call is drawn; without, repeated blocks and unchanged
                stretches of a large model are folded.

        Raises:
            InputError: the suffix is another one, `optimize` has not filled the report, pygraphviz
                is not installed, or the file can't be written.
        """
        from kito.drawing.files import write  # noqa: PLC0415 (it imports this module)

        write(self, path, everything)

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
                ]
                or [(NOTHING, "", "", "")],
            )
        ]
        if kept := [*self.declined, *self.unmatched]:
            tables.append(
                Table(
                    "kept",
                    ("rule", "layers", "reason"),
                    [
                        (row.rule, _path(row.path, " -> ".join(row.layers)), row.reason)
                        for row in kept
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
        if self.size:
            tables.append(
                Table(
                    "size",
                    ("", "before", "after"),
                    [(name, f"{old:,}", f"{new:,}") for name, (old, new) in self.size.items()],
                )
            )
        if self.faults:
            tables.append(
                Table(
                    "faults",
                    ("rule", "layers", "problem"),
                    [
                        (row.rule, " -> ".join(row.layers) or "all", row.problem)
                        for row in self.faults
                    ],
                )
            )
        if self.verification:
            tables.append(Table("verification", ("answers",), [(str(self.verification),)]))
        if self.notes:
            tables.append(Table("notes", ("note",), [(note,) for note in self.notes]))
        return tables

    def __str__(self) -> str:
        return render(self.tables())


def _path(path: tuple[str, ...], name: str) -> str:
    return "/".join((*path, name))
