"""Score a folder of images, on one machine or on all of a Ray cluster.

    python score_images.py PREDICTOR_FOLDER IMAGES_FOLDER OUT.parquet

Each file gets one row: its path, and its scores or why it is no image. `OUT.parquet` is a folder
that is there when all rows are. The same command goes on with a run that was cut off. Why it is
done in this way stands in docs/many-images.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image

import kito

Array = np.ndarray[Any, Any]


class Scorer:
    """An actor: it loads the predictor once, then writes the rows of one part after the other."""

    def __init__(self, predictor: Path, unfinished: Path, options: argparse.Namespace) -> None:
        self.predictor = kito.load_predictor(predictor, threads=options.threads)
        self.batch_size = options.batch_size
        self.unfinished = unfinished
        [image], [scores] = self.predictor.signature.inputs, self.predictor.signature.outputs
        self.shape, self.dtype = image.shape[1:], pa.from_numpy_dtype(scores.numpy_dtype)
        self.mode = {1: "L", 3: "RGB"}[self.shape[-1]]

    def __call__(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Score the files of each part."""
        for part, paths in zip(batch["part"], batch["paths"], strict=True):
            write_table(self.rows(paths), self.unfinished / "rows" / part)
        return {"part": batch["part"]}

    def rows(self, paths: Array) -> pa.Table:
        """A row for each file, with scores or an error."""
        images, errors = zip(*map(self.read, paths), strict=True)
        answers = self.predictor.predict(np.stack(images), self.batch_size)
        scores = [None if error else each for error, each in zip(errors, answers, strict=True)]
        return pa.table(
            {
                "path": pa.array(paths, pa.string()),
                "scores": pa.array(scores, pa.list_(self.dtype)),
                "error": pa.array(errors, pa.string()),
            }
        )

    def read(self, path: str) -> tuple[Array, str | None]:
        """An image of the size that the model takes, from 0 to 255; or black, and an error."""
        height, width, _ = self.shape
        try:
            with Image.open(path) as image:
                fitting = image.convert(self.mode).resize((width, height))
        except Exception as error:  # a file may be wrong in any way
            return np.zeros(self.shape, "uint8"), f"{type(error).__name__}: {error}"
        return np.asarray(fitting).reshape(self.shape), None


def write_table(table: pa.Table, path: Path) -> None:
    """Write a file that is whole or not there, even if two processes write it."""
    half = path.parent.parent / f"{path.name}.{uuid.uuid4()}"
    pq.write_table(table, half)
    os.replace(half, path)


def parts(images: Path, unfinished: Path, size: int) -> list[dict[str, Any]]:
    """The names and paths of the parts that have no rows yet; as they were in the first run."""
    listed = unfinished / "list" / "images.parquet"
    if not listed.exists():
        paths = sorted(str(each) for each in images.rglob("*") if each.is_file())
        if not paths:
            raise SystemExit(f"{images} has no files")
        numbers = [f"part-{index // size:06}.parquet" for index in range(len(paths))]
        write_table(pa.table({"path": paths, "part": numbers}), listed)
    table = pq.read_table(listed).group_by("part", use_threads=False)  # which keeps the order
    return [
        {"part": each["part"], "paths": each["path_list"]}
        for each in table.aggregate([("path", "list")]).to_pylist()
        if not (unfinished / "rows" / each["part"]).exists()
    ]


def main() -> None:
    """Score what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("predictor", type=Path, help="what predictor.save wrote")
    parser.add_argument("images", type=Path, help="a folder; those in it are read too")
    parser.add_argument("out", type=Path, help="does not exist yet")
    parser.add_argument("--batch-size", type=int, default=32, help="of images")
    parser.add_argument("--part-size", type=int, default=256, help="what a lost worker costs")
    parser.add_argument("--threads", type=int, default=1, help="of each actor")
    options = parser.parse_args()
    out = options.out.resolve()
    if out.exists():
        parser.error(f"{out} exists")
    unfinished = out.with_name(f"{out.name}.unfinished")
    for name in ("list", "rows"):
        (unfinished / name).mkdir(parents=True, exist_ok=True)
    if todo := parts(options.images.resolve(), unfinished, options.part_size):
        ray.data.from_items(todo, override_num_blocks=len(todo)).map_batches(
            Scorer,
            fn_constructor_args=(options.predictor.resolve(), unfinished, options),
            batch_size=1,
            num_cpus=options.threads,
            compute=ray.data.ActorPoolStrategy(min_size=1),
        ).materialize()
    os.rename(unfinished / "rows", out)
    shutil.rmtree(unfinished)


if __name__ == "__main__":
    main()
