"""What a model is, in plain words and numbers: for `kito inspect`."""

# ruff: noqa: PLC0415 (Keras takes seconds to import, so not before it is needed)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kito.tables import Table

if TYPE_CHECKING:
    import keras


def describe(model: keras.Model) -> dict[str, Any]:
    """The name, inputs, outputs and layers of a model, as plain lists, dicts and numbers."""
    import keras

    from kito.graph.keras_internals import structures

    def tensors(symbolic: Sequence[Any], names: Sequence[str] = ()) -> list[dict[str, Any]]:
        names = names or [each.name for each in symbolic]
        return [
            {"name": name, "shape": list(each.shape), "dtype": str(each.dtype)}
            for name, each in zip(names, symbolic, strict=True)
        ]

    inputs, outputs = structures(model)
    return {
        "name": model.name,
        "class": type(model).__name__,
        "parameters": model.count_params(),
        "inputs": tensors(keras.tree.flatten(inputs)),
        # Keras names the outputs of a functional model after their layers; others have no names.
        "outputs": tensors(keras.tree.flatten(outputs), getattr(model, "output_names", ())),
        "layers": list(describe_layers(model)),
    }


def describe_layers(model: keras.Model, path: str = "") -> Iterator[dict[str, Any]]:
    """The layers of a model; those of a nested model follow it."""
    for layer in model.layers:
        yield {
            "name": path + layer.name,
            "class": type(layer).__name__,
            "parameters": layer.count_params() if layer.built else 0,
            "dtype": str(layer.dtype_policy.name),
        }
        if hasattr(layer, "layers"):
            yield from describe_layers(layer, f"{path}{layer.name}/")


def description_tables(description: dict[str, Any], verbose: bool) -> list[Table]:
    """What `inspect` shows of a model: its layers, or without `verbose` how many of each class."""
    tensors = [
        (kind, each["name"], str(tuple(each["shape"])), each["dtype"])
        for kind in ("input", "output")
        for each in description[f"{kind}s"]
    ]
    layers = description["layers"]
    if verbose:
        columns = ("layer", "class", "parameters", "dtype")
        rows = [
            (each["name"], each["class"], f"{each['parameters']:,}", each["dtype"])
            for each in layers
        ]
    else:
        columns = ("class", "layers", "parameters", "dtype")
        rows = []
        for kind in dict.fromkeys((each["class"], each["dtype"]) for each in layers):
            counts = [e["parameters"] for e in layers if (e["class"], e["dtype"]) == kind]
            rows.append((kind[0], str(len(counts)), f"{sum(counts):,}", kind[1]))
    return [
        Table("inputs and outputs", ("", "name", "shape", "dtype"), tensors),
        Table("layers", columns, rows),
    ]
