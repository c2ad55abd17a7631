"""Bars on a terminal, after a while, and nothing anywhere else."""

import io
import os
import pty
import subprocess
import sys
import time

import keras
import pytest

import kito
from kito import progress
from kito.progress import doing, track

SLOW = """
import time
from kito import progress
progress.DELAY = 0.05
for _ in progress.track(range(2), "counting [bold]"):
    time.sleep(0.3)
print("done")
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr look like a terminal on which a bar appears at once, and gives that."""

    def begin():  # not at once: pytest sets stderr again before the test runs
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    return begin


def test_shows_what_takes_long(terminal):
    stderr = terminal()
    assert [each for each in track(range(3), "counting") if not time.sleep(0.15)] == [0, 1, 2]
    assert "counting ..." in stderr.getvalue()


def test_shows_nothing_of_what_is_quick(terminal, monkeypatch):
    stderr = terminal()
    monkeypatch.setattr(progress, "DELAY", 60.0)
    assert list(track(range(3), "counting")) == [0, 1, 2]
    assert stderr.getvalue() == ""


def test_shows_one_thing_inside_another(terminal):
    stderr = terminal()
    with doing("outside", 2) as step:
        for _ in track(range(2), "inside"):
            time.sleep(0.15)
        step()
    shown = stderr.getvalue()
    assert "outside ..." in shown
    assert "inside ..." in shown


@pytest.mark.parametrize("leave", ["raise", "break"])
def test_ends_however_the_block_is_left(terminal, leave):
    stderr = terminal()
    try:
        for _ in track(range(3), "counting"):
            if leave == "raise":
                raise KeyboardInterrupt
            break
    except KeyboardInterrupt:
        pass
    time.sleep(0.05)
    shown = stderr.getvalue()
    time.sleep(0.3)
    assert stderr.getvalue() == shown
    assert progress._bars._display is None


def test_optimize_verify_and_compare_say_what_they_do(terminal, monkeypatch):
    """Each phase, whatever it takes here."""
    terminal()
    shown = []

    def add_task(self, description, **_):
        shown.append(description)
        return 0

    monkeypatch.setattr(progress.Progress, "add_task", add_task)
    monkeypatch.setattr(progress.Progress, "remove_task", lambda *_: None)
    monkeypatch.setattr(progress.Progress, "advance", lambda *_: None)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="small")
    fast = kito.optimize(model, verify=True)
    kito.compare(model, fast, repeats=1)
    expected = ["reading the model", "rewriting it", "building small", "verifying", "timing"]
    assert [f"{each} ..." for each in expected] == [
        each for each in dict.fromkeys(shown) if each != "running ..."
    ]


def test_a_real_terminal():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as process:
        assert process.stdout.read() == b"done\n"
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "counting [bold] ..." in shown
    assert shown.endswith("\x1b[?25h") or "\x1b[2K" in shown  # what was drawn is taken away


def test_nothing_in_a_pipe():
    done = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    assert done.stderr == ""
