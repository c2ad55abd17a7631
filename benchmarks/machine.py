"""What figures depend on: the versions of packages, and the machine."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from rows import Row


def versions(*packages: str) -> str:
    """The packages and their versions."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in packages)


def machine(target: str) -> str:
    """What times on a target depend on."""
    package = {"onnx": "onnxruntime", "litert": "ai-edge-litert"}.get(target, target)
    return (
        f"{versions('keras', package)}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} processors{_processor()}"
    )


def _processor() -> str:
    """Which processors these are, where Linux tells; what TensorFlow uses depends on that."""
    known = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", known.read_text(), re.M) if known.exists() else None
    return f" ({found[1]})" if found else ""


def machines(rows: Iterable[Row]) -> str:
    """The line of a page that says where its rows were measured."""
    return f"Machine: {'; '.join(dict.fromkeys(row['machine'] for row in rows))}."
