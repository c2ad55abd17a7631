"""Which engine was taken for a predictor, and what was found out about the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kito.engines.engine import Shapes
from kito.tables import Table, render


@dataclass(frozen=True)
class Candidate:
    """An engine that was tried.

    Attributes:
        engine: its name.
        seconds: the median time of a batch; None if it was not timed.
        difference: the largest difference from the model's answers, as a part of the largest one;
            None if it gave none.
        reason: why it was left out; None if its answers are right.
    """

    engine: str
    seconds: float | None = None
    difference: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Choice:
    """The engine of a predictor; `print(choice)` shows why as a table.

    Attributes:
        engine: its name.
        shapes: of the inputs of the batch that was timed.
        candidates: the engines that were tried, the fastest first.
        weakness: why wrong answers might not have shown, in words; None if they would.
        cached: whether it was found in the cache, and so not timed now.
    """

    engine: str
    shapes: Shapes = ()
    candidates: tuple[Candidate, ...] = ()
    weakness: str | None = None
    cached: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON can write it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, written: dict[str, Any]) -> Choice:
        """What `to_dict` wrote."""
        return cls(
            written["engine"],
            tuple(map(tuple, written["shapes"])),
            tuple(Candidate(**each) for each in written["candidates"]),
            written["weakness"],
            written["cached"],
        )

    def tables(self) -> list[Table]:
        """The candidates as a table; `str(choice)` renders it."""
        shapes = ", ".join(map(str, self.shapes))
        when = "chosen before" if self.cached else "chosen"
        return [
            Table(
                f"engines on {shapes}: {self.engine} is {when}",
                ("engine", "ms a batch", "difference", "left out"),
                [_row(each) for each in self.candidates],
            )
        ]

    def __str__(self) -> str:
        table = render(self.tables())
        return f"{table}The check proves little: {self.weakness}.\n" if self.weakness else table


def _row(candidate: Candidate) -> tuple[str, str, str, str]:
    seconds, difference = candidate.seconds, candidate.difference
    return (
        candidate.engine,
        "" if seconds is None else f"{1000 * seconds:.2f}",
        "" if difference is None else f"{difference:.1e}",
        candidate.reason or "",
    )


def fastest_first(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that were timed in the order of their times, then the others."""
    return tuple(
        sorted(
            candidates,
            key=lambda each: float("inf") if each.seconds is None else each.seconds,
        )
    )
