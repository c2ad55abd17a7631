"""What an HDF5 file holds, found out in a process of its own.

A damaged file can make the HDF5 library crash or never return, which nothing in the same process
can prevent or interrupt. So a second process reads everything in the file first. It runs this
module as a script: that part needs nothing of kito.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from typing import Any

import h5py

# Reading takes this many seconds at most, and one more for so many bytes.
SECONDS, BYTES_A_SECOND = 30, 10_000_000
# What unpacks to less is read whatever it was packed from.
SMALL = 2**26
# Weights hardly get smaller by packing; only those that are all the same do.
PACKED = 100


@dataclass(frozen=True)
class Hdf5File:
    """What an HDF5 file holds.

    Attributes:
        damage: whether it is no HDF5 file, or one that can't be read.
        problem: why it must not be used; empty if it may be.
        groups: the names of what is at its top.
        texts: the attributes of the file, as texts.
        numbers: how many numbers are in its datasets.
    """

    damage: bool = False
    problem: str = ""
    groups: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    numbers: int = 0


def examine(name: str, member: str | None = None) -> Hdf5File:
    """What an HDF5 file, or one in a zip archive, holds.

    Raises:
        RuntimeError: the process that reads it could not be started.
    """
    limit = SECONDS + os.path.getsize(name) / BYTES_A_SECOND
    command = [sys.executable, "-P", __file__, name, *([member] if member else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Hdf5File(damage=True)
    if done.returncode < 0:  # by a signal: the library crashed
        return Hdf5File(damage=True)
    if done.returncode > 0:
        raise RuntimeError(f"HDF5 files can't be read: {done.stderr.strip()[-500:]}")
    return Hdf5File(**json.loads(done.stdout))


def _read(name: str, member: str | None) -> Hdf5File:
    if member is None:
        with h5py.File(name) as file:
            return _contents(file, os.path.getsize(name))
    with zipfile.ZipFile(name) as archive:
        content = archive.read(member)
    with h5py.File(io.BytesIO(content)) as file:
        return _contents(file, len(content))


def _contents(file: h5py.File, size: int) -> Hdf5File:
    """What is in a file of this many bytes, of which everything is read."""

    def elsewhere(path: str, link: Any) -> tuple[str, str] | None:
        if isinstance(link, h5py.HardLink):
            return None
        return path, link.filename if isinstance(link, h5py.ExternalLink) else link.path

    if found := file.visititems_links(elsewhere):  # it must not raise in there
        return Hdf5File(problem=f"has weights '{found[0]}' that are a link to '{found[1]}'")
    parts = {"/": file}
    file.visititems(lambda path, part: parts.update({path: part}))
    numbers = 0
    for path, part in parts.items():
        for value in part.attrs.values():
            str(value)
        if not isinstance(part, h5py.Dataset):
            continue
        if part.external or part.is_virtual:
            return Hdf5File(problem=f"has weights '{path}' that are in another file")
        count = math.prod(part.shape or ())
        declared, stored = count * part.dtype.itemsize, part.id.get_storage_size()
        if stored > size or declared > max(SMALL, PACKED * stored):
            return Hdf5File(
                problem=f"has weights '{path}' of the shape {part.shape}, {declared:,} bytes, of "
                f"which it stores {min(stored, size):,}"
            )
        part[()]
        numbers += count
    return Hdf5File(
        groups=list(file),
        texts={key: _text(value) for key, value in file.attrs.items()},
        numbers=numbers,
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def main(name: str, member: str | None = None) -> None:
    """Write what a file holds to stdout, as JSON."""
    try:
        found = _read(name, member)
    except Exception:  # there is little that a damaged file can't raise
        found = Hdf5File(damage=True)
    print(json.dumps(vars(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
