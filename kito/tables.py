"""Tables for people, drawn by rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and the rows as text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]] = field(default_factory=list)

    def __rich__(self) -> RichTable:
        table = RichTable(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for column in self.columns:
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))  # not markup: names may have brackets
        return table


def render(tables: Iterable[Table], width: int = 120) -> str:
    """The tables as plain text of at most `width` columns."""
    console = Console(width=width, color_system=None, markup=False, highlight=False)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()
