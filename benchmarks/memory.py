"""How much memory this process takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from pathlib import Path

MEGABYTE = 2**20


def resident(entry: str = "VmRSS") -> int:
    """Bytes, from an entry of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(entry)


def give_back() -> None:
    """Collect what is not needed, and give the system what the allocator keeps for later, lest its
    reuse pass for no use at all.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """The peak of this process' resident memory inside a `with` block, above what it was before.

    Linux keeps the peak itself and can reset it. Where that is not allowed, a thread looks.
    """

    def __enter__(self) -> PeakMemory:
        give_back()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = self._highest = resident()
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._exact = True
        except OSError:
            self._exact = False
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._exact:
            self._highest = resident("VmHWM")
        else:
            self._stop.set()
            self._thread.join()
        self.extra = self._highest - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self._highest = max(self._highest, resident())
