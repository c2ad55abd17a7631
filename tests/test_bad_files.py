"""Every file of the catalogue of bad files is refused; a sample of random changes is survived."""

import os
import subprocess
import sys

import bad_files
import fuzz_files
import mutations
import pytest
from rows import read

# Keras warns of itself when it saves with NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("default::UserWarning"),  # the command shows them
]


BAD_FILES = {f"{each.group}: {each.name}": each for each in bad_files.BAD_FILES}


@pytest.mark.parametrize("bad_file", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(bad_file):
    bad_files.run(bad_file)


@pytest.mark.parametrize(
    "name",
    ["archives: zip bomb", "sizes: layer of 10^12 units", "configurations: two layers of one name"],
)
def test_bad_file_as_a_process(name, tmp_path):
    bad_file = BAD_FILES[name]
    path = tmp_path / f"bad{bad_file.suffix}"
    bad_file.make(path)
    program = "from kito.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "optimize", path.name, "-o", "out.keras"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert bad_file.says in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == [path.name]


def test_the_catalogue_is_large_and_names_no_file_twice():
    assert len(BAD_FILES) == len(bad_files.BAD_FILES) > 40


def test_the_page_of_the_catalogue_is_made_of_the_rows():
    rows = read(bad_files.TABLE)
    assert [row["name"] for row in rows] == [each.name for each in BAD_FILES.values()]
    assert bad_files.PAGE.read_text() == bad_files.page(rows)


def test_a_random_change_of_each_kind():
    files = len(mutations.KINDS)
    *_, rows = fuzz_files.count(seed=1000, files=files, minutes=10, rows=[])
    assert sum(int(row["files"]) for row in rows) == files
    assert sum(int(row[outcome]) for row in rows for outcome in fuzz_files.GOOD) == files
    assert any(int(row["right"]) for row in rows)
    assert any(int(row["refused"]) for row in rows)


def test_a_change_can_be_made_again():
    numbers = range(len(mutations.KINDS))
    made = [mutations.mutant(3, number) for number in numbers]
    mutations.good_file.cache_clear()
    assert [mutations.mutant(3, number) for number in numbers] == made
    assert mutations.mutant(4, 0) != made[0]


def test_the_page_of_the_changes_is_made_of_the_rows():
    rows = read(fuzz_files.TABLE)
    assert sum(int(row["files"]) for row in rows) >= 2000
    assert fuzz_files.PAGE.read_text() == fuzz_files.page(rows)
