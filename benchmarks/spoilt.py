"""Files that are no good model: the catalogue of `bad_files.py`, and how each is made.

Most are good files of which one thing is changed. What a file is called says what is bad about it.
"""

# ruff: noqa: D103 (so does the entry in front of each function)

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
# Where the weights of the layer `dense` are.
KERNEL = "layers/dense/vars/0"
KERNEL_H5 = "model_weights/dense/dense/kernel"
HUGE = 10**12

Members = dict[str, bytes]


@dataclass(frozen=True)
class BadFile:
    """A file that is no good model.

    Attributes:
        group: what kind of thing is bad.
        name: what is bad.
        suffix: of the file.
        make: writes the file.
        says: a part of what kito must say.
    """

    group: str
    name: str
    suffix: str
    make: Callable[[Path], object]
    says: str


BAD_FILES: list[BadFile] = []


def bad(group: str, name: str, says: str, suffix: str = ".keras") -> Callable[..., Any]:
    """Add what a function writes to the catalogue."""

    def add(make: Callable[[Path], object]) -> Callable[[Path], object]:
        BAD_FILES.append(BadFile(group, name, suffix, make, says))
        return make

    return add


# Good files, and changes of them


def small() -> keras.Model:
    """The model that is spoilt."""
    inputs = keras.Input((4,), name="inputs")
    x = layers.Dense(3, name="dense")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    return keras.Model(inputs, layers.ReLU(name="relu")(x), name="small")


@functools.cache
def saved(suffix: str) -> bytes:
    """A good file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"good{suffix}")
        small().save(path)
        return path.read_bytes()


def members() -> Members:
    """The members of a good archive."""
    with zipfile.ZipFile(io.BytesIO(saved(".keras"))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, content: Members) -> None:
    """Write an archive, as Keras does."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def pack_with(path: Path, name: str, data: bytes) -> None:
    """A good archive, but for one member."""
    pack(path, members() | {name: data})


def change_config(path: Path, change: Callable[[Any], object]) -> None:
    """A good archive, but for the configuration."""
    config = json.loads(members()[CONFIG])
    change(config)
    pack_with(path, CONFIG, json.dumps(config).encode())


def change_weights(path: Path, change: Callable[[h5py.File], object]) -> None:
    """A good archive, but for the weights."""
    stream = io.BytesIO(members()[WEIGHTS])
    with h5py.File(stream, "r+") as file:
        change(file)
    pack_with(path, WEIGHTS, stream.getvalue())


def change_h5(path: Path, change: Callable[[h5py.File], object]) -> None:
    """A good `.h5` file, but for something."""
    path.write_bytes(saved(".h5"))
    with h5py.File(path, "r+") as file:
        change(file)


def layer(config: Any, name: str) -> Any:
    """The configuration of a layer in that of the model."""
    return next(each for each in config["config"]["layers"] if each["config"]["name"] == name)


def bad_config(group: str, name: str, says: str) -> Callable[..., Any]:
    """Add a good file whose configuration is changed."""

    def add(change: Callable[[Any], object]) -> Callable[[Any], object]:
        bad(group, name, says)(lambda path: change_config(path, change))
        return change

    return add


def bad_weights(name: str, says: str) -> Callable[..., Any]:
    """Add a good file whose weights are changed."""

    def add(change: Callable[[h5py.File], object]) -> Callable[[h5py.File], object]:
        bad("weights", name, says)(lambda path: change_weights(path, change))
        return change

    return add


def bad_h5(name: str, says: str) -> Callable[..., Any]:
    """Add a good `.h5` file that is changed."""

    def add(change: Callable[[h5py.File], object]) -> Callable[[h5py.File], object]:
        bad("h5", name, says, ".h5")(lambda path: change_h5(path, change))
        return change

    return add


# Files that are something else


class Runs:
    """A pickle of it runs a command when it is loaded."""

    def __reduce__(self) -> Any:
        """What a pickle calls."""
        return os.system, ("touch pwned",)


bad("other files", "empty", "is empty")(Path.touch)
bad("other files", "empty h5", "is empty", ".h5")(Path.touch)
bad("other files", "text", "is not a Keras model")(lambda path: path.write_text("hello"))
bad("other files", "pickle that runs a command", "is not a Keras model")(
    lambda path: path.write_bytes(pickle.dumps(Runs()))
)
bad("other files", "archive with a pickle, as PyTorch writes", "without a Keras model")(
    lambda path: pack(path, {"archive/data.pkl": pickle.dumps(Runs())})
)
bad("other files", "arrays of numpy", "without a Keras model")(
    lambda path: pack(path, {"kernel.npy": b"\x93NUMPY"})
)
bad("other files", "h5 named keras", "Rename it to")(lambda path: path.write_bytes(saved(".h5")))
bad("other files", "keras named h5", "Rename it to", ".h5")(
    lambda path: path.write_bytes(saved(".keras"))
)
bad("other files", "folder", "is a folder")(Path.mkdir)
bad("other files", "link to nowhere", "does not exist")(lambda path: path.symlink_to("nowhere"))
bad("other files", "link to itself", "does not exist")(lambda path: path.symlink_to(path.name))
bad("other files", "named pipe", "is no ordinary file")(os.mkfifo)


@bad("other files", "weights only", "has weights only", ".weights.h5")
def weights_only(path: Path) -> None:
    small().save_weights(path)


@bad("other files", "folder that was zipped", "without a Keras model")
def zipped_folder(path: Path) -> None:
    pack(path, {f"model/{name}": data for name, data in members().items()})


# Files that were cut off


def cut(path: Path, suffix: str, place: Callable[[bytes], int]) -> None:
    content = saved(suffix)
    path.write_bytes(content[: place(content)])


def end_of(name: str) -> Callable[[bytes], int]:
    """Where the data of a member end."""

    def place(content: bytes) -> int:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = archive.getinfo(name)
        return member.header_offset + 30 + len(name) + member.compress_size

    return place


for text, place in {
    "in its signature": lambda content: 3,
    "in the first header": lambda content: 20,
    "in the configuration": lambda content: end_of(CONFIG)(content) - 500,
    "behind the configuration": end_of(CONFIG),
    "in the weights": lambda content: end_of(WEIGHTS)(content) - 5000,
    "behind the weights": end_of(WEIGHTS),
    "in its directory": lambda content: content.rindex(b"PK\x01\x02") + 10,
    "one byte before its end": lambda content: len(content) - 1,
}.items():
    bad(
        "cut off",
        f"archive cut off {text}",
        "is not a Keras model" if text == "in its signature" else "is damaged or incomplete",
    )(lambda path, place=place: cut(path, ".keras", place))

for text, place in {
    "behind its signature": lambda content: 8,
    "in its first block": lambda content: 50,
    "after a quarter": lambda content: len(content) // 4,
    "after the half": lambda content: len(content) // 2,
    "one byte before its end": lambda content: len(content) - 1,
}.items():
    bad("cut off", f"h5 cut off {text}", "is damaged or incomplete", ".h5")(
        lambda path, place=place: cut(path, ".h5", place)
    )


# Archives


for evil in ("../evil.txt", "/tmp/evil.txt", "assets/../../evil.txt", "..\\evil.txt", "C:\\evil"):
    bad("archives", f"member named {evil}", "has a member outside of it")(
        lambda path, evil=evil: pack_with(path, evil, b"evil")
    )
for needed, says in {CONFIG: "without a Keras model", WEIGHTS: "has no weights"}.items():
    bad("archives", f"no {needed}", says)(
        lambda path, needed=needed: pack(
            path, {name: data for name, data in members().items() if name != needed}
        )
    )
bad("archives", "weights in an archive of arrays, with pickles", "has no weights")(
    lambda path: pack(path, {CONFIG: members()[CONFIG], "model.weights.npz": pickle.dumps(Runs())})
)
bad("archives", "weights that are text", "is damaged or incomplete")(
    lambda path: pack_with(path, WEIGHTS, b"hello")
)
bad("archives", "weights that are empty", "is damaged or incomplete")(
    lambda path: pack_with(path, WEIGHTS, b"")
)
bad("archives", "weights that are cut off", "is damaged or incomplete")(
    lambda path: pack_with(path, WEIGHTS, members()[WEIGHTS][:-3000])
)


@bad("archives", "two configurations", "has two members named 'config.json'")
def duplicate(path: Path) -> None:
    pack(path, members())
    # zipfile warns of it: so the second one gets its name afterwards.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.jsoN", b"{}")
    path.write_bytes(path.read_bytes().replace(b"config.jsoN", b"config.json"))


@bad("archives", "weights that are a link", "that is a link")
def link_as_member(path: Path) -> None:
    member = zipfile.ZipInfo(WEIGHTS)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(CONFIG, members()[CONFIG])
        archive.writestr(member, b"/etc/passwd")


def patch(path: Path, name: str, offset: int, value: bytes) -> None:
    """Write over a field of a member's entry in the directory of an archive."""
    pack(path, members())
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    entry = content.rindex(b"PK\x01\x02", directory, content.index(name.encode(), directory))
    content[entry + offset : entry + offset + len(value)] = value
    path.write_bytes(content)


bad("archives", "encrypted member", "is encrypted")(
    lambda path: patch(path, CONFIG, 8, struct.pack("<H", 1))
)
bad("archives", "packed by an unknown method", "is packed in a way that can't be unpacked")(
    lambda path: patch(path, CONFIG, 10, struct.pack("<H", 97))
)
bad("archives", "declared size of 4 GB", "would unpack to 4,294,967,280 bytes")(
    lambda path: patch(path, WEIGHTS, 24, struct.pack("<I", 2**32 - 16))
)
bad("archives", "configuration with another checksum", "is damaged or incomplete")(
    lambda path: patch(path, CONFIG, 16, b"oops")
)
bad("archives", "metadata with another checksum", "is damaged or incomplete")(
    lambda path: patch(path, "metadata.json", 16, b"oops")
)


@bad("archives", "zip bomb", "would unpack to 268,435,456 bytes, from")
def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CONFIG, members()[CONFIG])
        with archive.open(WEIGHTS, "w") as file:
            for _ in range(256):
                file.write(bytes(2**20))


@bad("archives", "changed byte in the weights", "is damaged or incomplete")
def changed_byte(path: Path) -> None:
    content = bytearray(saved(".keras"))
    content[end_of(WEIGHTS)(content) - 3000] ^= 1
    path.write_bytes(content)


# Configurations

for text, content, says in [
    ("not JSON", b"{", "is not JSON"),
    ("not UTF-8", b'{"class_name": "\xff"}', "is not JSON"),
    ("empty text", b"", "is not JSON"),
    ("a list", b"[]", "does not describe a model"),
    ("a number", b"1", "does not describe a model"),
    ("empty", b"{}", "does not describe a model"),
    ("of no class", b'{"config": {}}', "does not describe a model"),
    ("a class and no more", b'{"class_name": "Functional"}', "does not describe a model"),
    ("100,000 brackets", b"[" * 100_000, "is nested too deeply"),
    (
        "500 models inside one another",
        b'{"class_name": "Sequential", "config": {"layers": [' * 500 + b"]}}" * 500,
        "is nested too deeply",
    ),
    ("number of 10,000 digits", b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON"),
]:
    bad("configurations", f"configuration: {text}", says)(
        lambda path, content=content: pack_with(path, CONFIG, content)
    )


def sequential(*inside: Any) -> Any:
    """The configuration of a Sequential model."""
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "chain", "layers": list(inside)},
        "registered_name": None,
    }


def replace(config: Any, other: Any) -> None:
    config.clear()
    config.update(other)


def inputs_of(config: Any, name: str) -> Any:
    """The place where a layer's configuration says what the layer reads."""
    return layer(config, name)["inbound_nodes"][0]["args"][0]["config"]


@bad_config("configurations", "layer that is its own input", "is its own input: dense <- dense")
def own_input(config: Any) -> None:
    inputs_of(config, "dense")["keras_history"] = ["dense", 0, 0]


@bad_config("configurations", "layers that read each other", "is its own input: dense <- bn <-")
def cycle(config: Any) -> None:
    inputs_of(config, "dense")["keras_history"] = ["bn", 0, 0]


@bad_config("configurations", "input that is not there", "takes an output of 'nobody' that is not")
def no_such_input(config: Any) -> None:
    inputs_of(config, "dense")["keras_history"] = ["nobody", 0, 0]


@bad_config("configurations", "call that is not made", "takes an output of 'dense' that is not")
def no_such_call(config: Any) -> None:
    inputs_of(config, "bn")["keras_history"] = ["dense", 7, 0]


@bad_config("configurations", "output of a call that has one only", "can't load")
def no_such_output(config: Any) -> None:
    inputs_of(config, "bn")["keras_history"] = ["dense", 0, 5]


@bad_config("configurations", "output layer that is not there", "could not find layer nobody")
def no_such_output_layer(config: Any) -> None:
    config["config"]["output_layers"] = [["nobody", 0, 0]]


@bad_config("configurations", "two layers of one name", "can't load")
def one_name(config: Any) -> None:
    layer(config, "relu")["config"]["name"] = "bn"


for key in ("layers", "input_layers", "output_layers"):

    @bad_config("configurations", f"no {key}", f"'{key}'")
    def without(config: Any, key: str = key) -> None:
        del config["config"][key]


@bad_config("configurations", "layer without its calls", "'inbound_nodes'")
def no_nodes(config: Any) -> None:
    del layer(config, "dense")["inbound_nodes"]


@bad_config("configurations", "model without layers", "is not built")
def empty_model(config: Any) -> None:
    replace(config, sequential())


@bad_config("configurations", "graph without layers", "can't load")
def empty_graph(config: Any) -> None:
    config["config"] |= {"layers": [], "input_layers": [], "output_layers": []}


@bad_config("configurations", "layer instead of a model", "holds a Dense, which is not a model")
def no_model(config: Any) -> None:
    dense = layer(config, "dense")
    replace(config, {key: dense[key] for key in ("module", "class_name", "config")})


@bad_config("configurations", "optimizer instead of a model", "which is not a model")
def optimizer(config: Any) -> None:
    replace(config, keras.saving.serialize_keras_object(keras.optimizers.SGD()))


for text, change, says in [
    ("negative units", {"units": -3}, "Received: units=-3"),
    ("no units", {"units": 0}, "Received: units=0"),
    ("units that are a word", {"units": "three"}, "units=three"),
    ("units that are no whole number", {"units": 2.5}, "units=2.5"),
    ("unknown activation", {"activation": "reluu"}, "reluu"),
    ("unknown option", {"colour": "red"}, "colour"),
    ("unknown dtype", {"dtype": "float7"}, "float7"),
    ("name that is a number", {"name": 7}, "7"),
]:

    @bad_config("configurations", text, says)
    def changed(config: Any, change: Any = change) -> None:
        layer(config, "dense")["config"].update(change)


@bad_config("configurations", "unknown class", "needs the custom object 'Magic'")
def unknown_class(config: Any) -> None:
    layer(config, "dense").update(class_name="Magic", module=None, registered_name="Magic")


@bad_config("configurations", "channels that do not fit", "can't load")
def no_fit(config: Any) -> None:
    layer(config, "relu").update(
        class_name="Reshape", config={"name": "relu", "target_shape": [5, 5]}
    )


# Sizes that no machine has


@bad_config("sizes", "layer of 10^12 units", "asks for a weight 'kernel' of the shape (4, 1000000")
def huge_layer(config: Any) -> None:
    layer(config, "dense")["config"]["units"] = HUGE


@bad_config("sizes", "layer of 10^9 units", "asks for a weight 'kernel' of the shape (4, 1000000")
def large_layer(config: Any) -> None:
    layer(config, "dense")["config"]["units"] = 10**9


@bad_config("sizes", "layer of 10^30 units", "asks for a weight 'kernel'")
def beyond_integers(config: Any) -> None:
    layer(config, "dense")["config"]["units"] = 10**30


@bad_config("sizes", "input of 10^12 numbers", "layer 'dense' is incompatible")
def huge_input(config: Any) -> None:
    layer(config, "inputs")["config"]["batch_shape"] = [None, HUGE]


def insert_instead_of_relu(config: Any, class_name: str, **options: Any) -> None:
    layer(config, "relu").update(class_name=class_name, config={"name": "relu", **options})


@bad_config("sizes", "output of 10^12 numbers", "4 samples of it need")
def huge_output(config: Any) -> None:
    insert_instead_of_relu(config, "RepeatVector", n=HUGE)


@bad_config("sizes", "padding by 10^12", "4 samples of it need")
def huge_padding(config: Any) -> None:
    replace(
        config,
        sequential(
            {
                "module": "keras.layers",
                "class_name": "InputLayer",
                "config": {"batch_shape": [None, 4, 4], "name": "inputs"},
            },
            {
                "module": "keras.layers",
                "class_name": "ZeroPadding1D",
                "config": {"padding": HUGE, "name": "padding"},
            },
        ),
    )


@bad_config("sizes", "table of 10^12 words", "asks for a weight 'embeddings'")
def huge_table(config: Any) -> None:
    insert_instead_of_relu(config, "Embedding", input_dim=HUGE, output_dim=4)


@bad_weights("10^15 numbers that are not stored", "of which it stores 0")
def chunked(file: h5py.File) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (10**15,), "float32", chunks=(2**20,))


@bad_weights("10^9 zeros in a few packed bytes", "of the shape (1000000000,), 4,000,000,000")
def packed(file: h5py.File) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (10**9,), "float32", chunks=(2**20,), compression="gzip")[0] = 1


# Code


def code() -> Any:
    """What Keras writes of a lambda."""
    return {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}


@bad_config("code", "lambda", "contains Python code (the lambda of 'relu')")
def a_lambda(config: Any) -> None:
    insert_instead_of_relu(config, "Lambda", function=code())


@bad_config("code", "lambda as an activation", "contains Python code (the lambda of 'dense')")
def lambda_activation(config: Any) -> None:
    layer(config, "dense")["config"]["activation"] = code()


@bad_config("code", "lambda inside a model of a model", "contains Python code (the lambda of")
def nested_lambda(config: Any) -> None:
    config["config"]["layers"].append(
        sequential(sequential({"class_name": "Lambda", "config": {"function": code()}}))
    )


@bad_config("code", "lambda in the loss", "contains Python code (the lambda of 'small')")
def lambda_loss(config: Any) -> None:
    config["compile_config"] = {"optimizer": "sgd", "loss": code()}


@bad_config("code", "os.system as a class", "needs the custom object 'system'")
def system(config: Any) -> None:
    layer(config, "dense").update(class_name="system", module="os", registered_name=None)


@bad_config("code", "os.system as an activation", "needs the custom object 'system'")
def system_activation(config: Any) -> None:
    layer(config, "dense")["config"]["activation"] = {
        "class_name": "function",
        "module": "os",
        "config": "system",
        "registered_name": "system",
    }


@bad_config("code", "download as an activation", "get_file")
def download(config: Any) -> None:
    layer(config, "dense")["config"]["activation"] = {
        "class_name": "function",
        "module": "keras.utils",
        "config": "get_file",
        "registered_name": "get_file",
    }


@bad_config("code", "SavedModel from elsewhere", "allow it with --unsafe")
def other_model(config: Any) -> None:
    insert_instead_of_relu(config, "TFSMLayer", filepath="/tmp/evil", call_endpoint="serve")


# Weights


@bad_weights("NaN", "the weight 'dense/kernel' in 'bad.keras' has values that are not numbers")
def nan(file: h5py.File) -> None:
    file[KERNEL][0, 0] = np.nan


@bad_weights("NaN in a statistic", "the weight 'bn/moving_variance' in 'bad.keras' has values")
def nan_statistic(file: h5py.File) -> None:
    file["layers/batch_normalization/vars/3"][1] = np.nan


def store(file: h5py.File, path: str, value: Any, **options: Any) -> None:
    """Put something else in the place of a dataset."""
    del file[path]
    file.create_dataset(path, data=value, **options)


for text, shape in {
    "another shape": (4, 5),
    "another rank": (12,),
    "one number": (),
    "none": (0, 3),
}.items():

    @bad_weights(f"kernel of {text}", f"the weight 'dense/kernel' has the shape {shape} in 'bad.k")
    def other_shape(file: h5py.File, shape: Any = shape) -> None:
        store(file, KERNEL, np.ones(shape, "float32"))


bad_weights("kernel of words", "can't load")(
    lambda file: store(file, KERNEL, np.full((4, 3), b"word"))
)
bad_weights("kernel of pairs", "can't load")(
    lambda file: store(file, KERNEL, np.zeros((4, 3), [("a", "f4"), ("b", "f4")]))
)
bad_weights("kernel without a value", "can't load")(
    lambda file: store(file, KERNEL, h5py.Empty("float32"))
)


@bad_weights("no kernel", "Layer 'dense' expected 2 variables, but received 1 variables")
def no_kernel(file: h5py.File) -> None:
    del file[KERNEL]


@bad_weights("weight too many", "Layer 'dense' expected 2 variables, but received 3 variables")
def more(file: h5py.File) -> None:
    file["layers/dense/vars/2"] = np.ones(3)


@bad_weights("no layers", "expected 2 variables, but received 0 variables")
def no_layers(file: h5py.File) -> None:
    del file["layers"]


@bad_weights("group in place of a kernel", "expected Dataset")
def group(file: h5py.File) -> None:
    del file[KERNEL]
    file.create_group(KERNEL)


@bad_weights("kernel in place of a group", "can't load")
def dataset(file: h5py.File) -> None:
    store(file, "layers/dense", np.ones(3))


@bad_weights("link to another file", "that are a link to '/etc/passwd'")
def external_link(file: h5py.File) -> None:
    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink("/etc/passwd", "/kernel")


@bad_weights("link to another place", "that are a link to '/layers/dense/vars/1'")
def soft_link(file: h5py.File) -> None:
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/layers/dense/vars/1")


@bad_weights("group that holds itself", "can't load")
def loop(file: h5py.File) -> None:
    del file[KERNEL]
    file[KERNEL] = file["layers"]


@bad_weights("bytes of another file", "that are in another file")
def external_storage(file: h5py.File) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (4, 3), "float32", external=[("/etc/passwd", 0, 48)])


@bad_weights("dataset of another file", "that are in another file")
def virtual(file: h5py.File) -> None:
    del file[KERNEL]
    layout = h5py.VirtualLayout((4, 3), "float32")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "kernel", (4, 3))
    file.create_virtual_dataset(KERNEL, layout)


# .h5


@bad_h5("configuration that is numbers", "is not JSON")
def numbers(file: h5py.File) -> None:
    file.attrs["model_config"] = np.arange(3)


@bad_h5("configuration that is empty", "is not JSON")
def no_text(file: h5py.File) -> None:
    file.attrs["model_config"] = h5py.Empty("S1")


@bad_h5("configuration that is not JSON", "is not JSON")
def no_json(file: h5py.File) -> None:
    file.attrs["model_config"] = "{'class_name'"


def change_model_config(file: h5py.File, change: Callable[[Any], object]) -> None:
    config = json.loads(file.attrs["model_config"])
    change(config)
    file.attrs["model_config"] = json.dumps(config)


bad_h5("layers that read each other", "is its own input: dense <- bn <- dense")(
    lambda file: change_model_config(file, cycle)
)
bad_h5("layer of 10^12 units", "asks for a weight 'kernel'")(
    lambda file: change_model_config(file, huge_layer)
)
bad_h5("lambda", "contains Python code (the lambda of 'relu')")(
    lambda file: change_model_config(file, a_lambda)
)
bad_h5("unknown class", "needs the custom object 'Magic'")(
    lambda file: change_model_config(file, unknown_class)
)


@bad_h5("layers of Keras 2 that read each other", "is its own input: dense <- bn <- dense")
def keras_2(file: h5py.File) -> None:
    def change(config: Any) -> None:
        for name, source in {"dense": "bn", "bn": "dense", "relu": "bn"}.items():
            layer(config, name)["inbound_nodes"] = [[[source, 0, 0, {}]]]

    change_model_config(file, change)


@bad_h5("no weights", "has no weights")
def no_weights(file: h5py.File) -> None:
    del file["model_weights"]


@bad_h5("no names of layers", "Model expected 2 layers, found 0 saved layers")
def no_names(file: h5py.File) -> None:
    del file["model_weights"].attrs["layer_names"]


@bad_h5("names that lead elsewhere", "can't load")
def other_names(file: h5py.File) -> None:
    file["model_weights/dense"].attrs["weight_names"] = [b"../../evil", b"/etc/passwd"]


@bad_h5("kernel of another shape", "the weight 'dense/kernel' has the shape (4, 5) in 'bad.h5'")
def other_shape_h5(file: h5py.File) -> None:
    store(file, KERNEL_H5, np.ones((4, 5), "float32"))


@bad_h5("NaN", "the weight 'dense/kernel' in 'bad.h5' has values that are not numbers")
def nan_h5(file: h5py.File) -> None:
    file[KERNEL_H5][0, 0] = np.nan


@bad_h5("weights in another file", "that are a link to '/etc/passwd'")
def external_weights(file: h5py.File) -> None:
    del file["model_weights"]
    file["model_weights"] = h5py.ExternalLink("/etc/passwd", "/")
