"""What the configuration of a model says, checked before Keras builds anything of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import keras

from kito.errors import InputError

# What the configuration of a Functional model consists of.
GRAPH = ("layers", "input_layers", "output_layers")


def check_config(name: str, config: Any) -> None:
    """Refuse a configuration of which there is no model.

    Args:
        name: of the file, for the message.

    Raises:
        InputError: with the reason and what to do.
    """
    if not (
        isinstance(config, dict)
        and isinstance(config.get("class_name"), str)
        and isinstance(config.get("config"), dict)
    ):
        raise InputError(
            f"the configuration in '{name}' does not describe a model. Give a file that "
            "`model.save` wrote."
        )
    for owner, part in _parts(config):
        inner = part.get("config")
        if part.get("class_name") != "Functional" or not isinstance(inner, dict):
            continue
        if lacking := [key for key in GRAPH if not isinstance(inner.get(key), (list, dict))]:
            raise InputError(
                f"the configuration of {owner} in '{name}' has no '{lacking[0]}'. The file is "
                "damaged: save the model anew."
            )
        _check_order(name, owner, inner["layers"])


def refuse_code(name: str, configs: list[Any]) -> None:
    """Refuse a file with Python code in it, before Keras sees it.

    Keras refuses too; but not all its releases do so for `.h5`, and its message names no layer.

    Raises:
        InputError: there is code in the file.
    """
    for owner, part in _parts(configs):
        # Keras 2 wrote the function of a Lambda layer as a list.
        inner = part.get("config")
        function = inner.get("function") if isinstance(inner, dict) else None
        keras_2 = part.get("class_name") == "Lambda" and isinstance(function, list)
        if keras_2 or part.get("class_name") == "__lambda__":
            raise InputError(
                f"'{name}' contains Python code (the lambda of {owner}), which loading would run. "
                "If you trust where the file comes from, allow it with --unsafe."
            )


def count_calls(config: Any) -> int:
    """How many calls of layers there are in all graphs of a configuration."""
    calls = 0
    for _, part in _parts(config):
        found = part.get("inbound_nodes")
        inner = part.get("config")
        if part.get("class_name") == "Sequential" and isinstance(inner, dict):
            found = inner.get("layers")  # each is called once
        calls += len(found) if isinstance(found, list) else 0
    return calls


def _parts(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All dicts in a configuration, each with the name of the layer that it belongs to."""
    # Not recursive: how deep a file is nested is up to whoever wrote it.
    waiting = [("the model", config)]
    while waiting:
        owner, part = waiting.pop()
        if isinstance(part, dict):
            inner = part.get("config")
            if isinstance(inner, dict) and isinstance(inner.get("name"), str):
                owner = f"'{inner['name']}'"
            yield owner, part
            part = list(part.values())
        if isinstance(part, list):
            waiting += [(owner, each) for each in reversed(part)]


def _check_order(name: str, owner: str, layers: list[Any]) -> None:
    """Refuse a graph of which no order of its calls can be run.

    Not all releases of Keras notice, and those that don't never return.

    Raises:
        InputError: layers are their own inputs, or take what is not there.
    """
    calls: dict[str, deque[Any]] = {}
    done: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer, dict) or not isinstance(layer.get("inbound_nodes"), list):
            raise InputError(
                f"the configuration of a layer of {owner} in '{name}' has no 'inbound_nodes', "
                "which say what it reads. The file is damaged: save the model anew."
            )
        calls[str(layer.get("name"))] = deque(layer["inbound_nodes"])
        # An input has an output without a call, and so has a model, which is no layer of Keras.
        is_called = layer["inbound_nodes"] and hasattr(keras.layers, str(layer.get("class_name")))
        done[str(layer.get("name"))] = 0 if is_called else 1
    progress = True
    while progress:
        progress = False
        for layer, nodes in calls.items():
            while nodes and not _missing(nodes[0], done):
                nodes.popleft()
                done[layer] += 1
                progress = True
    waiting = {layer: _missing(nodes[0], done) for layer, nodes in calls.items() if nodes}
    if not waiting:
        return
    path = [next(iter(waiting))]
    while path[-1] in waiting and path[-1] not in path[:-1]:
        path.append(str(waiting[path[-1]]))
    problem = (
        f"the layer '{path[-1]}' of {owner} is its own input: {' <- '.join(path)}"
        if path[-1] in path[:-1]
        else f"the layer '{path[-2]}' of {owner} takes an output of '{path[-1]}' that is not there"
    )
    raise InputError(f"{problem}. '{name}' is damaged: save the model anew.")


def _missing(call: Any, done: Counter[str]) -> str | None:
    """A layer whose output a call takes, and that has not been called often enough for it."""
    for layer, index in _sources(call):
        if index >= done[layer]:
            return layer
    return None


def _sources(call: Any) -> Iterator[tuple[str, int]]:
    """The layers whose outputs a call takes, and which of their calls."""
    for _, part in _parts(call):
        history = part.get("keras_history")
        if isinstance(history, list):
            yield from _source(history)
    # Keras 2: [[layer, call, output, arguments], ...]
    for entry in call if isinstance(call, list) else ():
        if isinstance(entry, list):
            yield from _source(entry)


def _source(entry: list[Any]) -> Iterator[tuple[str, int]]:
    if len(entry) >= 3 and isinstance(entry[0], str) and isinstance(entry[1], int):
        yield entry[0], entry[1]
