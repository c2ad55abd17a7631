"""A bar for what takes longer than two seconds, on a terminal; in a pipe nobody looks at it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

DELAY = 2.0

Item = TypeVar("Item")


class _Bars:
    """What is going on at the moment, a bar each. A terminal has room for one such display."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._display: Progress | None = None
        self._timer: threading.Timer | None = None

    def open(self) -> Progress:
        with self._lock:
            if self._display is None:
                self._display = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}", markup=False),
                    BarColumn(),
                    TimeElapsedColumn(),
                    console=Console(stderr=True),
                    transient=True,
                    # From another thread these would be put back in the wrong order.
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._timer = threading.Timer(DELAY, self._display.start)
                self._timer.daemon = True
                self._timer.start()
            self._open += 1
            return self._display

    def close(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._display is not None and self._timer is not None:
                self._timer.cancel()
                self._timer.join()
                self._display.stop()
                self._display = self._timer = None


_bars = _Bars()


@contextlib.contextmanager
def doing(what: str, steps: int | None = None) -> Iterator[Callable[[], None]]:
    """Show what goes on while the block runs.

    Args:
        what: in the user's words, such as "verifying".
        steps: how many there are, if that is known.

    Yields:
        What to call after each step.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    display = _bars.open()
    task = display.add_task(f"{what} ...", total=steps)
    try:
        yield lambda: display.advance(task)
    finally:
        display.remove_task(task)
        _bars.close()


def track(items: Iterable[Item], what: str) -> Iterator[Item]:
    """The items, one after the other, with a bar of how many are done."""
    with doing(what, len(items) if isinstance(items, Sized) else None) as step:
        for item in items:
            yield item
            step()
