"""Sequential models that are called on other sizes than those they were built for.

Keras builds a Sequential for the sizes of its first call, and then runs it on any. Composites in it
become Functional models, which take no other sizes than they were traced for: so these must be the
sizes of all calls.
"""

from __future__ import annotations

from dataclasses import replace

import keras

from kito.graph.inference import infer_outputs
from kito.graph.ir import Graph, Node, Tensor, walk
from kito.graph.layer import Layer

Tensors = list[Tensor]


def fit_sequentials(root: Graph) -> tuple[set[Graph], set[Graph]]:
    """Let the sizes of Sequential models that differ from those of their calls be unknown.

    Returns:
        The graphs that were changed, and those of which Keras can't infer sizes then.
    """
    changed: set[Graph] = set()
    failed: set[Graph] = set()
    while wrong := {graph: given for graph, given in _calls(root).items() if graph not in failed}:
        for graph, given in wrong.items():
            nodes = _resized(graph, given)
            if nodes is None:
                failed.add(graph)
                continue
            for node in nodes:
                graph.put(node)
            changed.add(graph)
    return changed, failed


def common(*tensors: Tensor) -> Tensor:
    """A tensor with the sizes that all have, and None for the others."""
    sizes = zip(*(tensor.shape for tensor in tensors), strict=True)
    return replace(
        tensors[0], shape=tuple(each[0] if len({*each}) == 1 else None for each in sizes)
    )


def _calls(root: Graph) -> dict[Graph, Tensors]:
    """The Sequential models that do not admit all their calls, and what would."""
    wrong: dict[Graph, Tensors] = {}
    for _, graph in walk(root):
        for node in graph:
            inside = node.layer.graph
            if inside is None or not inside.sequential:
                continue
            taken = wrong.get(inside) or _inputs(inside)
            given = [graph.tensor(ref) for ref in node.refs]
            if node.layer.cls is keras.layers.TimeDistributed:
                given = [replace(each, shape=(each.shape[0], *each.shape[2:])) for each in given]
            if [len(each.shape) for each in taken] != [len(each.shape) for each in given]:
                continue
            general = list(map(common, taken, given))
            if any(
                old is not None and new is None
                for before, after in zip(taken, general, strict=True)
                for old, new in zip(before.shape, after.shape, strict=True)
            ):
                wrong[inside] = general
    return wrong


def _inputs(graph: Graph) -> Tensors:
    return [graph.tensor(ref) for ref in keras.tree.flatten(graph.inputs)]


def _resized(graph: Graph, given: Tensors) -> list[Node] | None:
    """The calls of a model with other sizes; None if Keras can't infer them."""
    trial = Graph(graph.name)
    inputs = dict(zip(keras.tree.flatten(graph.inputs), given, strict=True))
    places = {ref.node: tensor for ref, tensor in inputs.items()}
    for node in graph:
        if node.id in places:
            tensor = places[node.id]
            config = node.layer.config | {"batch_shape": tensor.shape}
            layer = Layer.of(keras.layers.InputLayer.from_config(config))
            trial.put(
                replace(node, layer=layer, outputs=(replace(node.output, shape=tensor.shape),))
            )
            continue
        try:
            outputs = infer_outputs(trial, node.layer, node.args, node.kwargs)
        except Exception:
            return None
        trial.put(
            replace(
                node,
                outputs=tuple(
                    replace(old, shape=new.shape)
                    for old, new in zip(node.outputs, outputs, strict=True)
                ),
            )
        )
    return list(trial)
