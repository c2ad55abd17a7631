"""The batches of whatever holds many samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

from kito.errors import InputError
from kito.signature import Array, Signature


@dataclass(frozen=True)
class Batches:
    """The inputs of one batch after the other, and how many batches there are, if that is known."""

    arrays: Iterable[list[Array]]
    number: int | None


def batches(signature: Signature, data: Any, batch_size: int) -> Batches:
    """The batches of arrays, which are cut, or of a data set, which has them.

    Args:
        data: arrays in the structure of the model's inputs; a tf.data.Dataset, PyDataset,
            DataLoader or generator of batches. A batch that is a list or tuple is inputs, targets
            and sample weights, as it is for Keras.
        batch_size: for arrays.

    Raises:
        InputError: the data does not fit the model, or is of no such kind.
    """
    size = signature.fixed_batch or batch_size
    signature = signature.open()
    if isinstance(data, list | tuple | Mapping) or hasattr(data, "__array__"):
        return _cut(signature.flatten(data), size)
    return Batches((signature.flatten(_inputs(each)) for each in _iterated(data)), _length(data))


def _cut(arrays: list[Array], size: int) -> Batches:
    starts = range(0, max(len(arrays[0]), 1), size)
    cut = ([each[start : start + size] for each in arrays] for start in starts)
    return Batches(cut, len(starts))


def _iterated(data: Any) -> Iterator[Any]:
    if hasattr(data, "as_numpy_iterator"):  # tf.data.Dataset
        yield from data.as_numpy_iterator()
    elif hasattr(data, "num_batches"):  # keras.utils.PyDataset
        if data.num_batches is None:
            raise InputError("the PyDataset has no end: it needs a length")
        for index in range(data.num_batches):
            yield data[index]
    elif isinstance(data, Iterable):
        yield from data
    else:
        raise InputError(
            f"a {type(data).__name__} is neither an array, nor a structure of arrays, nor a data "
            "set or generator of batches"
        )


def _length(data: Any) -> int | None:
    if hasattr(data, "num_batches"):
        number: int | None = data.num_batches
        return number
    try:
        return len(data) if isinstance(data, Sized) else None
    except TypeError:  # what a Dataset of unknown length says
        return None


def _inputs(batch: Any) -> Any:
    """What keras.utils.unpack_x_y_sample_weight takes for the inputs."""
    return batch[0] if isinstance(batch, list | tuple) and batch else batch
