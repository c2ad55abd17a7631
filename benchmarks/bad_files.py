"""Give the command `kito optimize` files that are no good model, and write down what it says.

    python benchmarks/bad_files.py                       all of them
    python benchmarks/bad_files.py --only "zip bomb"     one of them

The catalogue is in `spoilt.py`: truncated files, archives that reach outside of themselves, sizes
that no machine has, configurations without a model, Python code, weights that do not fit. For each
of them the command must end with exit code 2 and one line on stderr that says what is wrong, write
nothing, and show no traceback. What it said stands in benchmarks/results/bad_files.csv, and
`bad_files.md` is made of that. The tests run all of them too.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import chdir
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
from click.testing import CliRunner
from rows import RESULTS, Row, table, write
from spoilt import BAD_FILES, BadFile

from kito import cli

TABLE = RESULTS / "bad_files.csv"
PAGE = RESULTS / "bad_files.md"
COLUMNS = ("group", "name", "exit_code", "message")
INPUT_UNUSABLE = 2


def run(each: BadFile) -> Row:
    """Write the file, give it to the command, and check that it was refused as it should be.

    Raises:
        AssertionError: it was not.
    """
    with tempfile.TemporaryDirectory() as name, chdir(name):
        folder = Path(name)
        path = Path(f"bad{each.suffix}")
        each.make(path)
        before = sorted(folder.iterdir())
        result = CliRunner().invoke(cli.main, ["optimize", str(path), "-o", "out.keras"])
        after = sorted(folder.iterdir())
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Warning: ")]
    assert result.exit_code == INPUT_UNUSABLE, (each.name, result.exit_code, result.output)
    assert len(lines) == 1, (each.name, lines)
    assert after == before, (each.name, after)
    assert not result.stdout, (each.name, result.stdout)
    message = lines[0].removeprefix("Error: ").replace(str(folder), "/folder")
    assert each.says in message, (each.name, message)
    return {
        "group": each.group,
        "name": each.name,
        "exit_code": str(result.exit_code),
        "message": message,
    }


def line(row: Row) -> list[str]:
    """A line of the table."""
    return [row["name"], row["message"].replace("|", "\\|")]


def page(rows: list[Row]) -> str:
    """The table as Markdown."""
    lines = [
        "# Bad files",
        "",
        "Made by `nox -s bad_files`: each of these files was given to `kito optimize`. What is "
        "checked is",
        "said in `benchmarks/bad_files.py`.",
        "",
        f"{len(rows)} files, all refused with one line and exit code {INPUT_UNUSABLE}; nothing was "
        "written.",
    ]
    for group in dict.fromkeys(row["group"] for row in rows):
        these = [row for row in rows if row["group"] == group]
        lines += [
            "",
            f"## {group[0].upper()}{group[1:]}",
            "",
            table(("file", "what kito says"), map(line, these), left=2),
        ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--only", multiple=True, help="The name of a bad file; may be repeated.")
def main(only: tuple[str, ...]) -> None:
    """Run the catalogue, and write the table if that was all of it."""
    chosen = [each for each in BAD_FILES if not only or each.name in only]
    rows = []
    for each in chosen:
        rows.append(run(each))
        click.echo(f"{each.group}: {each.name}: {rows[-1]['message']}")
    if not only:
        write(TABLE, COLUMNS, rows)
        PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
