"""Graph -> keras.Model.

Layers that no rule touched are copied, weights included; new layers are built from their
configuration and given their weights. A layer that Keras can't copy is shared with the source
model. No initializer draws random numbers, and weights leave the graph as soon as they are in
place, so that no second copy of them exists.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kito.errors import GraphError
from kito.graph.ir import Graph, Layer, Node, Ref, Tensor, is_rewritten
from kito.graph.keras_internals import (
    Functional,
    is_graph_class,
    keras_mask,
    no_initializers,
    own_attributes,
    shell,
    sublayers,
)
from kito.report import Report


def codegen(graph: Graph, report: Report) -> keras.Model:
    """Build the Keras model that a graph describes. The graph's new weights are used up.

    Raises:
        GraphError: a new layer does not accept its weights, or its output is not what it replaces.
    """
    return _Builder(report).model(graph)


def copy_compile_state(model: keras.Model, fast: keras.Model, report: Report) -> None:
    """Compile the new model as the source was, so that `evaluate` works as before.

    The optimizer gets no state: that would be as large as the weights, or twice that.
    """
    if not getattr(model, "compiled", False):
        return
    try:
        config = keras.saving.deserialize_keras_object(model.get_compile_config())
        fast.compile(**config)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        report.notes.append(f"the result is not compiled, call `compile` again: {reason}")


class _CannotCopyError(Exception):
    """Keras can't make a second layer of a configuration."""


class _Builder:
    """Remembers what was built, so that a layer which is called twice is built once."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.built: dict[Layer, keras.Operation] = {}
        self.models: dict[int, keras.Model] = {}

    def model(self, graph: Graph) -> keras.Model:
        """The model of a graph; layers that have one graph share one model."""
        if id(graph) not in self.models:
            self.models[id(graph)] = self.new_model(graph)
        return self.models[id(graph)]

    def new_model(self, graph: Graph) -> keras.Model:
        tensors: dict[Ref, keras.KerasTensor] = {}
        chain = graph.sequential and _is_chain(graph)
        for node in graph:
            if chain and node.args:
                self.prepare(graph, node)
            else:
                self.call(node, tensors)
        if chain:
            return self.sequential(graph, tensors)
        inputs = keras.tree.map_structure(tensors.__getitem__, graph.inputs)
        outputs = keras.tree.map_structure(tensors.__getitem__, graph.outputs)
        return Functional(inputs, outputs, name=graph.name, trainable=graph.trainable)

    def call(self, node: Node, tensors: dict[Ref, keras.KerasTensor]) -> None:
        """Call the node's layer on symbolic tensors, building it if this is its first call."""
        if node.layer.cls is keras.layers.InputLayer:
            outputs = keras.layers.InputLayer.from_config(dict(node.layer.config)).output
        else:
            args, kwargs = keras.tree.map_structure(
                lambda leaf: tensors[leaf] if isinstance(leaf, Ref) else leaf,
                (node.args, node.kwargs),
            )
            outputs = self.operation(node.layer, args, kwargs)
        flat = keras.tree.flatten(outputs)
        for index, (tensor, expected) in enumerate(zip(flat, node.outputs, strict=True)):
            tensors[Ref(node.id, index)] = tensor
            if node.layer.new_weights or node.layer.overrides:
                _check_output(node.layer, tensor, expected)

    def operation(self, layer: Layer, args: Any, kwargs: Any) -> Any:
        """The result of calling the layer, which is built if this is its first call."""
        if _is_unfolded(layer):
            # The layer was written in Python; the model in its place takes a list of tensors.
            leaves = keras.tree.flatten((args, kwargs))
            tensors = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
            assert layer.graph is not None
            return self.model(layer.graph)(tensors if len(tensors) > 1 else tensors[0])
        if layer not in self.built and _is_copied(layer):
            return self.copy(layer, args, kwargs)
        if layer not in self.built:
            leaves = keras.tree.flatten((args, kwargs))
            first = next(leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor))
            self.built[layer] = self.make(layer, first.shape)
        return self.built[layer](*args, **kwargs)

    def make(self, layer: Layer, shape: tuple[int | None, ...]) -> keras.Operation:
        """What stands for a layer that is not a plain copy of the source's."""
        if layer.overrides or layer.new_weights:
            return self.new(layer, shape)
        if layer.graph is not None:
            model = self.model(layer.graph)
            if layer.cls is keras.layers.TimeDistributed:
                return layer.cls(**dict(layer.config) | {"layer": model})
            return model
        return shell(layer.source)  # keras.ops: no weights

    def copy(self, layer: Layer, args: Any, kwargs: Any) -> Any:
        """Copy a layer of the source, call it, which builds it, and give it its weights."""
        try:
            self.built[layer] = copy_structure(layer.source)
            with no_initializers([self.built[layer]]), policy_of(layer.source):
                outputs = self.built[layer](*args, **kwargs)
            copy_state(layer.source, self.built[layer])
            return outputs
        except Exception as error:
            self.share(layer, error)
            return self.built[layer](*args, **kwargs)

    def share(self, layer: Layer, error: Exception) -> None:
        """Use the source's own layer: it works, but is not a copy."""
        self.built[layer] = shell(layer.source)
        reason = str(error).strip().split("\n", 1)[0]
        self.report.notes.append(
            f"{layer.name} ({layer.cls.__name__}) is shared with the source model, because Keras "
            f"can't copy it: {reason}"
        )

    def new(self, layer: Layer, shape: tuple[int | None, ...]) -> keras.Layer:
        """A layer that a rule made, with its weights."""
        operation = layer.cls.from_config(dict(layer.config))
        with no_initializers([operation]):
            operation.build(shape)
        weights = dict(layer.new_weights)
        for variable in operation.weights:
            given = weights.get(variable.name)
            if given is None or tuple(given.shape) != tuple(variable.shape):
                raise GraphError(
                    f"{layer!r} needs the weight '{variable.name}' of shape {variable.shape}; the "
                    f"rule that made it gave {[(n, w.shape) for n, w in weights.items()]}"
                )
            variable.assign(weights.pop(variable.name))
        if weights:
            raise GraphError(f"{layer!r} has no weights named {sorted(weights)}")
        dict.clear(layer.new_weights)  # type: ignore[arg-type]
        return operation

    def prepare(self, graph: Graph, node: Node) -> None:
        """Build a layer of a Sequential model, which will make the calls itself."""
        layer = node.layer
        if not _is_copied(layer):
            self.built[layer] = self.make(layer, graph.producer(node.refs[0]).output.shape)
            return
        try:
            copy = copy_structure(layer.source)
            with no_initializers([copy]), policy_of(layer.source):
                copy.build_from_config(layer.source.get_build_config())
            copy_state(layer.source, copy)
            self.built[layer] = copy
        except Exception as error:
            self.share(layer, error)

    def sequential(self, graph: Graph, tensors: dict[Ref, keras.KerasTensor]) -> keras.Model:
        nodes = [node for node in graph if node.args]
        layers = [self.built[node.layer] for node in nodes]
        model = keras.Sequential([*tensors.values(), *layers], name=graph.name)
        for node, layer in zip(nodes, layers, strict=True):
            if node.layer.overrides or node.layer.new_weights:
                _check_output(node.layer, layer.output, node.output)
        model.trainable = graph.trainable
        return model


def _is_unfolded(layer: Layer) -> bool:
    """Whether the calls inside a composite layer take its place: only where a rule gained by it."""
    known = is_graph_class(layer.cls) or layer.cls is keras.layers.TimeDistributed
    return layer.graph is not None and not known and is_rewritten(layer)


def _is_copied(layer: Layer) -> bool:
    """Whether the source's layer is copied as it is: a layer that no rule touched."""
    return (
        isinstance(layer.source, keras.Layer)
        and not is_graph_class(layer.cls)
        and not is_rewritten(layer)
    )


def _is_chain(graph: Graph) -> bool:
    """Whether a `Sequential` can hold the graph: layers only, each called once on the last."""
    nodes = list(graph)
    return (
        all(issubclass(node.layer.cls, keras.Layer) for node in nodes)
        and len({node.layer for node in nodes}) == len(nodes)
        and all(
            node.args == (Ref(previous.id),) and not any(node.kwargs.values())
            for previous, node in itertools.pairwise(nodes)
        )
    )


def copy_structure(layer: keras.Layer) -> keras.Layer:
    """A second layer of the same configuration, not yet built."""
    with policy_of(layer):
        try:
            copy = type(layer).from_config(layer.get_config())
        except Exception:
            # Classes that nobody registered: those inside the layer are known all the same.
            classes = {type(part).__name__: type(part) for part in sublayers(layer)}
            with keras.saving.custom_object_scope(classes):
                copy = type(layer).from_config(layer.get_config())
    # SpatialDropout leaves the policy out of its configuration, layers without a `get_config` of
    # their own leave out the name.
    copy.dtype_policy = layer.dtype_policy
    copy.name = layer.name
    return copy


@contextlib.contextmanager
def policy_of(layer: keras.Layer) -> Iterator[None]:
    """Let layers that a layer makes for itself have the policy that it has."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(layer.dtype_policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def copy_state(source: keras.Layer, copy: keras.Layer) -> None:
    """Give a copy the source's weights, and whatever else its class saves.

    Raises:
        _CannotCopyError: the copy was built differently.
    """
    pairs = list(zip(source.variables, copy.variables, strict=False))
    if len(source.variables) != len(copy.variables) or any(
        old.shape != new.shape or old.dtype != new.dtype for old, new in pairs
    ):
        raise _CannotCopyError("its configuration builds other weights")
    for old, new in pairs:
        # A copy: on JAX, `predict` gives the memory of a model's variables away while it runs.
        new.assign(keras.ops.copy(old))
    for old_part, new_part in zip(sublayers(source), sublayers(copy), strict=True):
        if old_part.dtype_policy != new_part.dtype_policy:
            raise _CannotCopyError(f"its configuration gives {new_part.name} another dtype policy")
        if lost := [
            name for name in own_attributes(old_part) if _differs(name, old_part, new_part)
        ]:
            raise _CannotCopyError(f"its configuration does not carry {', '.join(lost)}")
        if _overrides(old_part, "load_assets"):
            with tempfile.TemporaryDirectory() as folder:
                old_part.save_assets(folder)
                new_part.load_assets(folder)
        if hasattr(new_part, "finalize_state"):
            new_part.finalize_state()


def _differs(name: str, source: keras.Layer, copy: keras.Layer) -> bool:
    """Whether a copy has another value in an attribute, as far as values can be compared."""
    if name not in vars(copy):
        return True
    old, new = (keras.tree.flatten(vars(layer)[name]) for layer in (source, copy))
    return len(old) != len(new) or not all(map(_equal, old, new))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    plain = (bool, int, float, str, type(None), types.FunctionType)
    return bool(one == other) if isinstance(one, plain) else True


def _overrides(layer: keras.Layer, method: str) -> bool:
    return getattr(type(layer), method, None) is not getattr(keras.Layer, method, None)


def _check_output(layer: Layer, tensor: keras.KerasTensor, expected: Tensor) -> None:
    if tuple(tensor.shape) != expected.shape or str(tensor.dtype) != expected.dtype:
        raise GraphError(
            f"{layer!r} returns {tensor.shape} {tensor.dtype} where the model had "
            f"{expected.shape} {expected.dtype}"
        )
    if (keras_mask(tensor) is not None) != expected.masked:
        raise GraphError(f"{layer!r} changed the mask of its tensor")
