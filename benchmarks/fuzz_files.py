"""Give the command `kito optimize` thousands of spoilt model files, and count what it does.

    python benchmarks/fuzz_files.py                         2,090 files, half an hour
    python benchmarks/fuzz_files.py --files 200 --seed 7    others
    python benchmarks/fuzz_files.py --number 41             one of them; it is kept as spoilt.*

The files are small good `.keras` and `.h5` files, each with a random change, see `mutations.py`;
seed and number say which. Each is one of:

- right: the file is still a model, the result is written, and computes what the model computes
- refused: exit code 2 and one line that says why, nothing is written
- not verified: the same, but exit code 1: the model is so odd that its answers can't be compared
- failed: exit code 3, more than one line, a traceback, a wrong result, or something left behind
- slow: the file is a model and is loaded within a minute, but to run it takes longer
- hung: anything else takes longer
- greedy: more than a gigabyte of memory
- died: the process ended by a signal, which only a library can bring about

Files run in a process of their own, which is started anew if it dies or hangs. What is counted
stands in benchmarks/results/fuzz_files.csv, so a run can be stopped and go on, and `fuzz_files.md`
is made of that.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
from click.testing import CliRunner
from machine import versions
from mutations import KINDS, mutant
from rich.progress import track
from rows import RESULTS, Row, read, table, write

import kito
from kito import cli
from kito.files import load_model

TABLE = RESULTS / "fuzz_files.csv"
PAGE = RESULTS / "fuzz_files.md"
OUTCOMES = ("right", "refused", "not verified", "slow", "failed", "hung", "greedy", "died")
GOOD = {"right", "refused", "not verified", "slow"}
COLUMNS = ("seed", "format", "change", "files", *OUTCOMES, "versions")
SECONDS = 60
GREEDY = 2**30
# What a process may have before an allocation fails: a safeguard for the machine.
AT_MOST = 8 * 2**30
# Keras and TensorFlow keep a little of each model.
FILES_OF_A_PROCESS = 300


# In the process that runs files


def serve() -> None:
    """Run the files whose paths come in, one a line; answer with a line of JSON each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + AT_MOST, resource.RLIM_INFINITY))
    for line in sys.stdin:
        os.chdir(line.strip())
        outcome, detail = run(next(Path().glob("spoilt.*")))
        print(json.dumps([outcome, detail]), file=answers, flush=True)


def run(path: Path) -> tuple[str, str]:
    """What the command does with a file in the current folder, and what it says."""
    keras.utils.clear_session()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    result = CliRunner().invoke(cli.main, ["optimize", str(path), "-o", "out.keras"])
    if resident("VmHWM") - before > GREEDY:
        return "greedy", result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Warning: ")]
    left = {each.name for each in Path().iterdir()} - {path.name}
    if result.exit_code == 0 and left == {"out.keras"} and not lines:
        return ("right", "") if same(path) else ("failed", "the result computes something else")
    clear = len(lines) == 1 and lines[0].startswith("Error: ") and not left and not result.stdout
    if result.exit_code in (1, 2) and clear:
        return "refused" if result.exit_code == 2 else "not verified", lines[0]
    return "failed", f"exit code {result.exit_code}, {sorted(left)}: {result.output}"


def same(path: Path) -> bool:
    """Whether the model in the file and the one that was written compute the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = keras.saving.load_model(path, compile=False)
        result = keras.saving.load_model("out.keras", compile=False)
        return kito.verify(source, result, seed=1).passed


def resident(entry: str) -> int:
    """Bytes, from an entry of /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{entry}:", 1)[1].split()[0]) * 1024


# In the process that counts


class Server:
    """A process that runs files."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.served = 0

    def run(self, folder: Path) -> tuple[str, str]:
        """What happens to the file in a folder."""
        if self.process is None or self.served >= FILES_OF_A_PROCESS:
            self.close()
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self.served = 0
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.served += 1
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], SECONDS)[0]:
            self.close()
            return "slow" if is_loaded(folder) else "hung", ""
        answer = self.process.stdout.readline()
        if answer:
            outcome, detail = json.loads(answer)
            return outcome, detail
        code = self.process.wait()
        self.close()
        return "died", f"exit code {code}"

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def is_loaded(folder: Path) -> bool:
    """Whether kito loads the file in a folder within the time limit."""
    command = [sys.executable, __file__, "--load", str(next(folder.iterdir()))]
    try:
        return subprocess.run(command, timeout=SECONDS, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def count(seed: int, files: int, minutes: float, rows: list[Row]) -> Iterator[list[Row]]:
    """Run the files that are not in the rows yet, and count what happens by the kind of change.

    Yields:
        The rows with what was run since added, every now and then and at the end.
    """
    counts: dict[tuple[str, str], Counter[str]] = {kind: Counter() for kind in KINDS}
    for row in rows:
        counts[row["format"], row["change"]].update({name: int(row[name]) for name in OUTCOMES})
    done = sum(counted.total() for counted in counts.values())
    deadline = time.monotonic() + 60 * minutes
    server = Server()
    with contextlib.closing(server):
        for number in track(range(done, files), "files"):
            suffix, kind, content = mutant(seed, number)
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, f"spoilt{suffix}").write_bytes(content)
                outcome, detail = server.run(Path(folder))
            counts[suffix, kind][outcome] += 1
            if outcome not in GOOD:
                click.echo(f"{number}: {suffix}, {kind}: {outcome}: {detail}")
            if time.monotonic() > deadline:
                break
            if number % len(KINDS) == len(KINDS) - 1:
                yield as_rows(seed, counts)
    yield as_rows(seed, counts)


def as_rows(seed: int, counts: dict[tuple[str, str], Counter[str]]) -> list[Row]:
    """The rows of the table."""
    return [
        {
            "seed": str(seed),
            "format": suffix,
            "change": kind,
            "files": str(counted.total()),
            **{outcome: str(counted[outcome]) for outcome in OUTCOMES},
            "versions": f"{versions('keras', 'tensorflow', 'h5py')}, {platform.system()}",
        }
        for (suffix, kind), counted in counts.items()
    ]


def page(rows: list[Row]) -> str:
    """The table as Markdown."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update({name: int(row[name]) for name in ("files", *OUTCOMES)})
    names = ("format", "change", "files", *OUTCOMES)
    cells = [
        [row[name] if name in ("format", "change") else f"{int(row[name]):,}" for name in names]
        for row in [*rows, {"format": "all", "change": "", **{k: str(v) for k, v in total.items()}}]
    ]
    lines = [
        "# Spoilt files",
        "",
        "Made by `nox -s fuzz_files`: random changes of good model files, each given to",
        "`kito optimize`. What is counted is said in `benchmarks/fuzz_files.py`.",
        "",
        table(names, cells, left=2),
        "",
        f"Seed {rows[0]['seed']}. {rows[0]['versions']}.",
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--files", default=110 * len(KINDS), help="How many.", show_default=True)
@click.option("--seed", default=0, help="Of the changes.", show_default=True)
@click.option("--minutes", default=60.0, help="Stop after so many.", show_default=True)
@click.option("--number", type=int, help="Make and run this file alone, in the current folder.")
@click.option("--serve", "is_server", is_flag=True, hidden=True)
@click.option("--load", "loaded", hidden=True)
def main(
    files: int, seed: int, minutes: float, number: int | None, is_server: bool, loaded: str | None
) -> None:
    """Run the files, and write the table."""
    if loaded is not None:
        load_model(loaded)
        return
    if is_server:
        serve()
        return
    if number is not None:
        suffix, kind, content = mutant(seed, number)
        path = Path(f"spoilt{suffix}")
        path.write_bytes(content)
        click.echo(f"{path}, {kind}: {run(path)}")
        return
    done = [row for row in read(TABLE) if row["seed"] == str(seed)]
    for rows in count(seed, files, minutes, done):
        write(TABLE, COLUMNS, rows)
        PAGE.write_text(page(rows))
    if any(int(row[outcome]) for row in rows for outcome in set(OUTCOMES) - GOOD):
        sys.exit(1)


if __name__ == "__main__":
    main()
