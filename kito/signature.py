"""What a model takes and returns: its tensors in Keras' order, and how they are nested.

A structure is written with the index of a tensor in place of each tensor. So the order in which
Keras flattens structures is known where Keras is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kito.errors import InputError

Array = np.ndarray[Any, Any]
# An index, or a list, tuple or dict of structures.
Structure = Any


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, its shape with None for what is open, its Keras dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of arrays; text is kept as objects."""
        name = "object" if self.dtype == "string" else self.dtype
        if name == "bfloat16":  # which numpy has from this package
            import ml_dtypes  # noqa: F401, PLC0415
        return np.dtype(name)


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    input_structure: Structure
    output_structure: Structure

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the model takes; None if it takes any."""
        return next((each.shape[0] for each in self.inputs if each.shape and each.shape[0]), None)

    @property
    def splits(self) -> bool:
        """Whether each sample has a row in all inputs and outputs."""
        return all(
            each.shape and each.shape[0] in (None, self.fixed_batch)
            for each in (*self.inputs, *self.outputs)
        )

    def open(self) -> Signature:
        """The same with any batch size."""
        return replace(
            self, inputs=tuple(replace(each, shape=(None, *each.shape[1:])) for each in self.inputs)
        )

    def flatten(self, data: Any) -> list[Array]:
        """The arrays in a structure like the model's, as the model would convert them.

        Of a model that takes no dict, the inputs may be a dict of their names.

        Raises:
            InputError: names the input that is missing, unknown, or of another shape or dtype.
        """
        structure = self.input_structure
        if isinstance(data, Mapping) and not isinstance(structure, dict):
            structure = {each.name: index for index, each in enumerate(self.inputs)}
        leaves = dict(_leaves(structure, data, "the input"))
        arrays = [_converted(leaves[index], each) for index, each in enumerate(self.inputs)]
        sizes = {
            each.name: len(array)
            for each, array in zip(self.inputs, arrays, strict=True)
            if each.shape and each.shape[0] is None
        }
        if len(set(sizes.values())) > 1:
            given = ", ".join(f"'{name}' has {size}" for name, size in sizes.items())
            raise InputError(f"the inputs differ in their number of samples: {given}")
        return arrays

    def pack(self, arrays: Sequence[Array]) -> Any:
        """Output arrays in the structure that the model returns, in its dtypes.

        Raises:
            ValueError: there are not as many as the model returns.
        """
        if len(arrays) != len(self.outputs):
            raise ValueError(f"there are {len(arrays)} outputs, the model has {len(self.outputs)}")
        converted = [
            np.asarray(array, each.numpy_dtype)
            for array, each in zip(arrays, self.outputs, strict=True)
        ]
        return _packed(self.output_structure, converted)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can write it."""
        return {
            "inputs": [asdict(each) for each in self.inputs],
            "outputs": [asdict(each) for each in self.outputs],
            "input_structure": _written(self.input_structure),
            "output_structure": _written(self.output_structure),
        }

    @classmethod
    def from_dict(cls, written: dict[str, Any]) -> Signature:
        """What `to_dict` wrote."""
        inputs, outputs = (
            tuple(Tensor(each["name"], tuple(each["shape"]), each["dtype"]) for each in tensors)
            for tensors in (written["inputs"], written["outputs"])
        )
        structures = (_read(written[f"{kind}_structure"]) for kind in ("input", "output"))
        return cls(inputs, outputs, *structures)


def _leaves(structure: Structure, data: Any, where: str) -> list[tuple[int, Any]]:
    """The index of each tensor and what is given for it.

    Raises:
        InputError: the data has another structure.
    """
    if isinstance(structure, int):
        return [(structure, data)]
    if isinstance(structure, dict):
        if not isinstance(data, Mapping):
            raise InputError(f"{where} is not a dict of {', '.join(map(repr, structure))}")
        if missing := [key for key in structure if key not in data]:
            raise InputError(f"{where} lacks {', '.join(map(repr, missing))}")
        if unknown := [key for key in data if key not in structure]:
            raise InputError(
                f"{where} has {', '.join(map(repr, unknown))}, which the model does not take; it "
                f"takes {', '.join(map(repr, structure))}"
            )
        pairs = [(each, data[key], f"{where}[{key!r}]") for key, each in structure.items()]
    else:
        if not isinstance(data, list | tuple) or len(data) != len(structure):
            raise InputError(f"{where} is not a list of {len(structure)} arrays")
        pairs = [(each, data[index], f"{where}[{index}]") for index, each in enumerate(structure)]
    return [leaf for each, part, place in pairs for leaf in _leaves(each, part, place)]


def _converted(given: Any, tensor: Tensor) -> Array:
    """An array of the tensor's dtype and rank.

    Raises:
        InputError: it would have other values, or has another shape.
    """
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise InputError(f"the input '{tensor.name}' is no array: {error}") from error
    array = _of_dtype(array, tensor)
    # As Keras does.
    if array.ndim == len(tensor.shape) - 1 and tensor.shape[-1] == 1:
        array = array[..., np.newaxis]
    elif array.ndim == len(tensor.shape) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    fits = array.ndim == len(tensor.shape) and all(
        size in (None, given) for size, given in zip(tensor.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"the input '{tensor.name}' has the shape {array.shape}; the model takes {tensor.shape}"
        )
    return np.asarray(array, order="C")


def _of_dtype(array: Array, tensor: Tensor) -> Array:
    wanted = tensor.numpy_dtype
    if array.dtype == wanted:
        return array
    if tensor.dtype == "string":
        return array.astype(object)
    with np.errstate(invalid="ignore"):
        try:
            cast = array.astype(wanted)
        except (TypeError, ValueError) as error:
            raise InputError(f"the input '{tensor.name}' is no number: {error}") from error
    # Floats are rounded, as Keras does; what an integer can't hold is a mistake.
    if wanted.kind in "iub" and not np.array_equal(cast, array):
        raise InputError(
            f"the input '{tensor.name}' is {array.dtype}, with values that {tensor.dtype}, which "
            "the model takes, does not have"
        )
    return cast


def _packed(structure: Structure, arrays: Sequence[Array]) -> Any:
    if isinstance(structure, int):
        return arrays[structure]
    if isinstance(structure, dict):
        return {key: _packed(each, arrays) for key, each in structure.items()}
    return type(structure)(_packed(each, arrays) for each in structure)


def _written(structure: Structure) -> Any:
    if isinstance(structure, int):
        return structure
    if isinstance(structure, dict):
        return {"dict": {key: _written(each) for key, each in structure.items()}}
    kind = "tuple" if isinstance(structure, tuple) else "list"
    return {kind: [_written(each) for each in structure]}


def _read(written: Any) -> Structure:
    if isinstance(written, int):
        return written
    [(kind, content)] = written.items()
    if kind == "dict":
        return {key: _read(each) for key, each in content.items()}
    return (tuple if kind == "tuple" else list)(map(_read, content))
