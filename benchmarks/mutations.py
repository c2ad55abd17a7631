"""Random changes of model files, for `fuzz_files.py`: small good files, and ways to spoil them.

Everything is drawn from the generator that is handed in, so that a file can be made again.
"""

from __future__ import annotations

import functools
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers

from kito.testing import randomize

CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"

SHARED = re.compile(rb'"shared_object_id": \d+')

Rng = np.random.Generator
Mutation = Callable[[Rng, bytes], bytes]


# Good files


def pictures() -> keras.Model:
    """Convolutions, branches, and what it was trained with."""
    inputs = keras.Input((8, 8, 3), name="picture")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Add(name="add")([x, layers.ReLU(name="relu")(y)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="dense")(x), name="pictures")
    model.compile("adam", "mse", metrics=["mae"])
    return model


def words() -> keras.Model:
    """A table of words and a recurrent layer, in a Sequential model."""
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32", name="words"),
            layers.Embedding(7, 4, name="table"),
            layers.LSTM(3, name="lstm"),
            layers.LayerNormalization(name="norm"),
            layers.Dense(2, name="dense"),
        ],
        name="words",
    )


def nested() -> keras.Model:
    """A model in a model that is called twice, two outputs, and operators."""
    inside = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="dense"), layers.BatchNormalization(name="bn")],
        name="inside",
    )
    one, two = keras.Input((4,), name="one"), keras.Input((4,), name="two")
    total = inside(one) * 2.0 + inside(two)
    wide = layers.Concatenate(name="concatenate")([total, two])
    return keras.Model([one, two], {"total": total, "wide": wide}, name="nested")


MODELS = (pictures, words, nested)


@functools.cache
def good_file(number: int, suffix: str) -> bytes:
    """The file of one of `MODELS`; the same bytes each time."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = randomize(MODELS[number]())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"good{suffix}")
        model.save(path)
        content = path.read_bytes()
    if suffix == ".h5":
        return content
    members = unpacked(content)
    ids = iter(range(1_000))
    seen: dict[bytes, bytes] = {}
    # Keras writes addresses, and the time.
    members[CONFIG] = SHARED.sub(
        lambda found: seen.setdefault(found[0], b'"shared_object_id": %d' % next(ids)),
        members[CONFIG],
    )
    return packed(members | {METADATA: b'{"keras_version": "3", "date_saved": ""}'})


def unpacked(content: bytes) -> dict[str, bytes]:
    """The members of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members: dict[str, bytes]) -> bytes:
    """An archive of members, with the right checksums."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


# Changes of bytes


def flipped(rng: Rng, content: bytes) -> bytes:
    """One to eight bits are the other way round."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut_off(rng: Rng, content: bytes) -> bytes:
    """The end is missing."""
    return content[: rng.integers(len(content))]


def stretch(rng: Rng, content: bytes) -> slice:
    """A part of a file, more often a short one."""
    length = int(min(len(content) - 1, 2 ** rng.uniform(0, 12)))
    start = int(rng.integers(len(content) - length))
    return slice(start, start + length)


def overwritten(rng: Rng, content: bytes) -> bytes:
    """A stretch is zeros, ones, or noise."""
    part = stretch(rng, content)
    length = part.stop - part.start
    other = [bytes(length), b"\xff" * length, rng.bytes(length)][rng.integers(3)]
    return content[: part.start] + other + content[part.stop :]


def spliced(rng: Rng, content: bytes) -> bytes:
    """A stretch stands in the place of another one, or between what was there, or is missing."""
    source, target = stretch(rng, content), stretch(rng, content)
    other = b"" if rng.integers(3) == 0 else content[source]
    return content[: target.start] + other + content[target.stop :]


# Changes of configurations

VALUES = (
    *(None, True, False, "", "relu", "float16", "string", "../x", [], {}, [None], [0, 0]),
    *(0, 1, 2, 3, -1, 255, 2**20, 2**31 - 1, 2**31, 2**63, 10**12, 10**30),
    *(0.0, 0.5, -1.5, 1e-300, 1e300, float("nan"), float("inf")),
)


def places(config: Any) -> Iterator[tuple[Any, Any]]:
    """All places in a configuration: a dict or list, and a key or index in it."""
    keys = config if isinstance(config, dict) else range(len(config))
    for key in keys:
        yield config, key
        if isinstance(config[key], (dict, list)):
            yield from places(config[key])


def with_other_values(rng: Rng, text: bytes) -> bytes:
    """One to three values of a configuration are others."""
    config = json.loads(text)
    for _ in range(rng.integers(1, 4)):
        leaves = [(c, k) for c, k in places(config) if not isinstance(c[k], (dict, list))]
        container, key = leaves[rng.integers(len(leaves))]
        if rng.integers(4):
            container[key] = VALUES[rng.integers(len(VALUES))]
        else:  # what stands elsewhere fits more often
            other, other_key = leaves[rng.integers(len(leaves))]
            container[key] = other[other_key]
    return json.dumps(config).encode()


def with_other_parts(rng: Rng, text: bytes) -> bytes:
    """One to three parts of a configuration are missing, are there twice, or are elsewhere too."""
    config = json.loads(text)
    for _ in range(rng.integers(1, 4)):
        found = list(places(config))
        container, key = found[rng.integers(len(found))]
        other, other_key = found[rng.integers(len(found))]
        change = rng.integers(3)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, list):
            container.insert(key, container[key])
        else:  # through text: a part of itself must not hold itself
            container[key] = json.loads(json.dumps(other[other_key]))
    return json.dumps(config).encode()


# Changes of HDF5


def with_other_weights(rng: Rng, content: bytes) -> bytes:
    """One to three datasets, groups or attributes are missing, are elsewhere, or are others."""
    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        for _ in range(rng.integers(1, 4)):
            names: list[str] = []
            file.visit(names.append)
            if names:
                _change_object(rng, file, names[rng.integers(len(names))], names)
    return stream.getvalue()


def _change_object(rng: Rng, file: h5py.File, name: str, names: list[str]) -> None:
    attributes = file[name].attrs
    change = rng.integers(6)
    if change == 0:
        del file[name]
    elif change == 1:
        file.move(name, f"{name}x")
    elif change == 2 and len(attributes):
        key = sorted(attributes)[rng.integers(len(attributes))]
        attributes[key] = np.array([b"x", b"../dense", b"0"])[: rng.integers(4)]
    elif change == 3:
        del file[name]
        file[name] = h5py.SoftLink("/") if rng.integers(2) else h5py.ExternalLink("x.h5", "/")
    elif change == 4:
        other = names[rng.integers(len(names))]
        if other != name and not other.startswith(f"{name}/"):
            kept = file[other]
            del file[name]
            file[name] = kept
    else:
        shape = tuple(int(size) for size in rng.integers(0, 6, rng.integers(4)))
        dtype = ["float32", "float64", "int8", "S3", "bool", "float16"][rng.integers(6)]
        values = np.full(shape, [0, 1, -1, np.nan, np.inf, 1e30][rng.integers(4)])
        del file[name]
        with np.errstate(invalid="ignore", over="ignore"):
            file.create_dataset(name, data=values.astype(dtype))


# All of them, by the format of the file


def inside(name: str, mutation: Mutation) -> Mutation:
    """A change of a member of an archive, which gets the right checksum."""

    def mutate(rng: Rng, content: bytes) -> bytes:
        members = unpacked(content)
        return packed(members | {name: mutation(rng, members[name])})

    return mutate


def in_attribute(mutation: Mutation) -> Mutation:
    """A change of the configuration of the model in an `.h5` file."""

    def mutate(rng: Rng, content: bytes) -> bytes:
        stream = io.BytesIO(content)
        with h5py.File(stream, "r+") as file:
            text = file.attrs["model_config"].encode()
            file.attrs["model_config"] = mutation(rng, text).decode()
        return stream.getvalue()

    return mutate


BYTES: dict[str, Mutation] = {
    "bits flipped": flipped,
    "cut off": cut_off,
    "stretch overwritten": overwritten,
    "stretch moved or missing": spliced,
}
MUTATIONS: dict[str, dict[str, Mutation]] = {
    ".keras": BYTES
    | {f"weights: {name}": inside(WEIGHTS, mutation) for name, mutation in BYTES.items()}
    | {
        "weights: objects changed": inside(WEIGHTS, with_other_weights),
        "configuration: values changed": inside(CONFIG, with_other_values),
        "configuration: parts changed": inside(CONFIG, with_other_parts),
        "configuration: bits flipped": inside(CONFIG, flipped),
    },
    ".h5": BYTES
    | {
        "objects changed": with_other_weights,
        "configuration: values changed": in_attribute(with_other_values),
        "configuration: parts changed": in_attribute(with_other_parts),
    },
}
KINDS = [(suffix, name) for suffix, named in MUTATIONS.items() for name in named]


def mutant(seed: int, number: int) -> tuple[str, str, bytes]:
    """The suffix, the kind of change, and the content of a spoilt file; kinds take turns."""
    suffix, kind = KINDS[number % len(KINDS)]
    rng = np.random.default_rng((seed, number))
    content = good_file(int(rng.integers(len(MODELS))), suffix)
    return suffix, kind, MUTATIONS[suffix][kind](rng, content)
