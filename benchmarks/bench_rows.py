"""The rows that `bench.py` writes, and how they are found again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rows import RESULTS, Row

from kito.bench import BY_HAND, PREDICTOR
from kito.ways import KERAS, PREDICT

TABLE = RESULTS / "bench.csv"
COLUMNS = (
    "network",
    "batch",
    "way",
    "model",
    "exact",
    "chosen",
    "repeats",
    "ms",
    "low_ms",
    "high_ms",
    "multiply_adds",
    "peak_rate",
    "prepare_mb",
    "run_mb",
    "difference",
    "mean_difference",
    "reason",
    "machine",
)


@dataclass(frozen=True)
class Case:
    """A network on a batch size, and the rows of the ways that ran it in its own precision.

    Attributes:
        keras: `predict_on_batch` of the network as it is.
        peer: the fastest way to run it as it is.
        kito: kito's model in `predict_on_batch`.
        predictor: what `kito.predictor` chose.
        by_hand: the engine of that, called by hand; None if that was not timed.
        predict: `model.predict` of the network as it is; None likewise.
    """

    network: str
    batch: str
    keras: Row
    peer: Row
    kito: Row
    predictor: Row
    by_hand: Row | None
    predict: Row | None


def cases(rows: Iterable[Row]) -> list[Case]:
    """The cases in the order of the rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["ms"] and row["exact"] == "yes":
            groups.setdefault((row["network"], row["batch"]), []).append(row)
    found = []
    for (network, batch), these in groups.items():
        ways = {(row["way"], row["model"]): row for row in these}
        sources = [row for row in these if row["model"] == "source"]
        found.append(
            Case(
                network,
                batch,
                ways[KERAS, "source"],
                min(sources, key=lambda row: float(row["ms"])),
                ways[KERAS, "kito"],
                ways[PREDICTOR, "kito"],
                ways.get((BY_HAND, "kito")),
                ways.get((PREDICT, "source")),
            )
        )
    return found


def ratio(slow: Row, fast: Row) -> float:
    """How many times faster the second row is."""
    return float(slow["ms"]) / float(fast["ms"])


def share(row: Row, peak_rate: float) -> float:
    """The part of the machine's multiply-adds that a row used."""
    work = int(row["multiply_adds"]) * int(row["batch"])
    return 1000 * work / float(row["ms"]) / peak_rate
