"""Graph -> keras.Model.

Layers that no rule touched are copied, weights included; new layers are built from their
configuration and given their weights. A layer that Keras can't copy is shared with the source
model. No initializer draws random numbers, and weights leave the graph as soon as they are in
place, so that no second copy of them exists.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection
from typing import Any

import keras
import networkx as nx

from kito.errors import GraphError, first_line
from kito.graph.copying import (
    CannotCopyError,
    can_load,
    copy_and_call,
    copy_layer,
    copy_together,
    known_output,
)
from kito.graph.doubt import CONTAINERS, check_copied, copied, is_run
from kito.graph.inference import placeholder
from kito.graph.inline import names_inside
from kito.graph.ir import Graph, Node, Ref, Tensor, rewritten_graphs, walk
from kito.graph.keras_internals import (
    Functional,
    called,
    compile_arguments,
    is_graph_class,
    keras_mask,
    mark_called,
    named_weights,
    no_initializers,
    reads_several,
    recursion,
    set_trainable_alone,
    shell,
    sublayers,
)
from kito.graph.layer import Layer
from kito.graph.record import UntraceableError
from kito.progress import track
from kito.report import Report

TIED = CannotCopyError("other layers hold a layer that it holds")


def codegen(graph: Graph, report: Report) -> keras.Model:
    """Build the Keras model that a graph describes. The graph's new weights are used up.

    Raises:
        GraphError: a new layer does not accept its weights, or its output is not what it replaces.
    """
    longest = max(len(nested) for _, nested in walk(graph))
    with recursion(longest):
        model = _Builder(graph, report).model(graph)
    mark_called(model)
    return model


def taken_apart(graph: Graph) -> tuple[set[Any], set[Any]]:
    """The composites, and models in them, of which the calls will stand in the model around them,
    and the composites that Keras can load, but not what would take their place: they share a layer
    with a model of the user.
    """
    builder = _Builder(graph, Report())
    stuck = {layer.source for layer in builder.stuck if can_load(layer.source)}
    return {layer.source for layer in builder.flat} - stuck, stuck


def copy_compile_state(model: keras.Model, fast: keras.Model, report: Report) -> None:
    """Compile the new model as the source was, so that `evaluate` works as before.

    A loss is the same object, also one that Keras could not load. The optimizer gets no state: that
    would be as large as the weights, or twice that. Penalties on weights or activations, which only
    training needs, are lost where a layer was rewritten.
    """
    if not getattr(model, "compiled", False):
        return
    try:
        fast.compile(**keras.tree.map_structure(_without_state, compile_arguments(model)))
    except Exception as error:
        report.notes.append(
            f"the result is not compiled, call `compile` again: {first_line(error)}"
        )
    if lost := _penalties(model) - _penalties(fast):
        report.notes.append(
            "the loss of `evaluate` lacks what regularizers of rewritten layers added to it "
            f"({lost})"
        )


def _without_state(argument: Any) -> Any:
    """An argument of `compile`; what keeps what it counts is made anew."""
    stateful = isinstance(argument, keras.Metric | keras.Optimizer)
    return type(argument).from_config(argument.get_config()) if stateful else argument


def _penalties(model: keras.Model) -> int:
    """How many regularizers add to the loss of a model."""
    weights = sum(weight.regularizer is not None for weight in model.trainable_weights)
    return weights + sum(part.activity_regularizer is not None for part in sublayers(model))


def _name_outputs(model: keras.Model, graph: Graph) -> None:
    """Give the outputs the names that they have in the source, also two of one layer."""
    known = list(getattr(graph.source, "output_names", ()))
    names = list(getattr(model, "output_names", ()))
    if len(known) == len(names) and known != names:
        model.output_names = known


class _Builder:
    """Remembers what was built, so that a layer which is called twice is built once."""

    def __init__(self, graph: Graph, report: Report) -> None:
        layers = {node.layer for _, each in walk(graph) for node in each}
        # A layer that was changed for some of its calls has tensors in common with itself.
        self.users = Counter(id(w) for layer in layers for w in layer.new_weights.values())
        self.report = report
        self.built: dict[Layer, keras.Operation] = {}
        self.models: dict[int, keras.Model] = {}
        self.rewritten = rewritten_graphs(graph)
        # The layers that could not be copied, and the traces that stand for them.
        self.unfolded: set[Layer] = set()
        self.believed: set[Graph] = set()
        # Layers that have weights in common: of each a copy would have its own.
        self.tied = self.find_tied(graph)
        # Composites that have layers in common, of which the calls stand in the model around them.
        self.flat, self.stuck = self.find_flat(graph)
        # In how many graphs a layer is called, and what all layers are called.
        self.callers = Counter(
            layer for _, each in walk(graph) for layer in {node.layer for node in each}
        )
        self.spread = {
            layer
            for layer, callers in self.callers.items()
            if callers > 1 and layer.graph is None and not layer.parameters
        }
        self.all_names = {layer.name for layer in self.callers}
        self.inside = False  # whether the model that is built is that of a composite, or in one
        self.here: set[Layer] = set()  # the layers of that model
        self.names: set[str] = set()  # and their names

    def find_tied(self, graph: Graph) -> set[Layer]:
        """The layers that hold a part with weights which others hold too, unless they are copied
        together, or what a composite calls can stand for it: then the part is one layer.
        """
        tied: set[Layer] = set()
        if graph.spare is not None:
            return tied  # the result is that
        known = -1
        while known < len(self.unfolded):  # those inside are next
            known = len(self.unfolded)
            copied: dict[Layer, tuple[Graph, Node]] = {}
            self.find_copied(graph, set(), copied)
            self.unfolded.update(filter(self.falls_apart, copied))
            for layer in self.built.keys() | tied | self.unfolded:
                copied.pop(layer, None)
            for some in _with_parts_in_common(copied):
                composites = [layer for layer in some if len(sublayers(layer.source)) > 1]
                # Of a graph that the user made, Keras loads no more than of the result.
                stay = all(
                    copied[layer][0].trace is None or not self.can_unfold(layer)
                    for layer in composites
                )
                sites = {layer: copied[layer] for layer in composites}
                if stay and self.copy_together(some, sites):
                    continue
                if all(map(self.can_unfold, composites)):
                    self.unfolded.update(composites)
                else:
                    tied.update(some)
        return tied

    def falls_apart(self, layer: Layer) -> bool:
        """Whether a composite can't be copied, of which several parts call one layer."""
        graph = layer.graph
        if graph is None or graph.trace is None or graph.spare is not None:
            return False
        inside = {node.layer: None for _, each in walk(graph) for node in each}
        parts = [each for each in inside if isinstance(each.source, keras.Layer)]
        if not _with_parts_in_common(parts):
            return False
        try:
            graph.spare = copied(layer.source, graph.trace)
        except Exception:
            return self.can_unfold(layer)
        return False

    def find_flat(self, graph: Graph) -> tuple[set[Layer], set[Layer]]:
        """The composites that become models with a layer which another model calls too: those Keras
        does not load. And those with such a layer, however flat: a model of the user calls it.
        """
        flat: set[Layer] = set()
        inner = self.find_inner(graph)
        while True:
            depths: dict[Layer | None, int] = {}
            holders: dict[Layer, set[Layer | None]] = {}
            self.find_holders(graph, [None], flat, holders, depths)
            several = {layer for layer, each in holders.items() if len(each) > 1}
            some = set().union(*(holders[layer] for layer in several))
            found = {
                layer
                for layer in some
                if layer is not None and (self.is_unfolded(layer) or layer in inner)
            }
            if not found:
                composites = {node.layer for _, each in walk(graph) for node in each}
                return flat, {
                    layer
                    for layer in composites
                    if layer.graph is not None
                    and self.is_unfolded(layer)
                    and not several.isdisjoint(node.layer for node in layer.graph)
                }
            # That may be enough for those around them.
            deepest = max(depths[layer] for layer in found)
            flat |= {layer for layer in found if depths[layer] == deepest}

    def find_inner(self, graph: Graph) -> set[Layer]:
        """The models that composites call, and no model of the user."""
        users: set[Layer] = set()
        graphs = [graph]
        for each in graphs:
            inside = {node.layer for node in each} - users
            users |= inside
            nested = [layer.graph for layer in inside if layer.graph is not None]
            graphs += [each for each in nested if each.trace is None]
        inner = {node.layer for _, each in walk(graph) for node in each} - users
        return {layer for layer in inner if type(layer.source) in (Functional, keras.Sequential)}

    def find_holders(
        self,
        graph: Graph,
        around: list[Layer | None],
        flat: set[Layer],
        found: dict[Layer, set[Layer | None]],
        depths: dict[Layer | None, int],
    ) -> None:
        """Find in which models each layer with weights will be called, and how deep these are.

        Args:
            around: the layers of the models that the calls of the graph will stand in.
            flat: the composites that do not become models.
        """
        depths[around[-1]] = max(len(around), depths.get(around[-1], 0))
        for layer in {node.layer for node in graph}:
            if layer.parameters and layer not in flat:
                found.setdefault(layer, set()).add(around[-1])
            if layer.graph is not None and (self.is_unfolded(layer) or not self.is_copied(layer)):
                inside = around if layer in flat else [*around, layer]
                self.find_holders(layer.graph, inside, flat, found, depths)

    def find_copied(
        self, graph: Graph, seen: set[Graph], found: dict[Layer, tuple[Graph, Node]]
    ) -> None:
        """Find the layers of which the result has copies, not those inside, and a call of each."""
        seen.add(graph)
        for node in graph:
            layer = node.layer
            if self.is_copied(layer) and layer not in self.unfolded:
                found.setdefault(layer, (graph, node))
            elif layer.graph is not None and layer.graph not in seen:
                self.find_copied(layer.graph, seen, found)

    def copy_together(self, layers: list[Layer], sites: dict[Layer, tuple[Graph, Node]]) -> bool:
        """Copy layers that have parts in common, so that their copies have them too, if Keras can.

        Args:
            sites: the composites among them, each with a call of it.
        """
        inside = {part for layer in sites for part in sublayers(layer.source)[1:]}
        calls = {
            layer.source: _placeholders(*site)
            for layer, site in sites.items()
            if layer.source not in inside
        }
        try:
            copies = copy_together(calls)
        except Exception:
            return False
        for layer in layers:
            copy = copies[layer.source]
            self.built[layer] = shell(copy) if layer.source in calls else copy
            self.built[layer].name = layer.name
        return True

    def is_rewritten(self, layer: Layer) -> bool:
        """Whether a rule made the layer, or changed something in its graph."""
        return layer.is_new if layer.graph is None else layer.graph in self.rewritten

    def model(self, graph: Graph, name: str | None = None) -> keras.Model:
        """The model of a graph; layers that have one graph share one model.

        Args:
            name: that of the layer, which may have that of a composite that was laid open.
        """
        if id(graph) not in self.models:
            same = self.same_class(graph)
            model = self.new_model(graph) if same is None else same
            if is_graph_class(type(graph.source)):
                model.supports_masking = graph.source.supports_masking
            model.name = name or graph.name
            self.models[id(graph)] = model
        return self.models[id(graph)]

    def same_class(self, graph: Graph) -> keras.Model | None:
        """A copy of a model that has a class of its own, if no rule touched it.

        Such a class may save what its layers can't. What is written in Python becomes a Functional
        model all the same, if that can be saved.
        """
        plain = type(graph.source) in CONTAINERS
        written = not is_graph_class(type(graph.source))
        if plain or graph in self.rewritten or (written and not graph.frozen):
            return None
        try:
            model = copy_layer(graph.source) if graph.spare is None else graph.spare
        except Exception:
            return None
        _name_outputs(model, graph)
        return model

    def new_model(self, graph: Graph) -> keras.Model:
        tensors: dict[Ref, keras.KerasTensor] = {}
        chain = graph.sequential and _is_chain(graph)
        chain = chain and self.flat.isdisjoint(node.layer for node in graph)
        around = self.here, self.names, self.inside
        self.inside = self.inside or graph.trace is not None
        outside = self.without_weights() if self.inside else {}
        self.here = {node.layer for node in graph}
        self.names = {layer.name for layer in self.here}
        for node in track(list(graph), f"building {graph.name}"):
            if chain and node.args:
                self.prepare(graph, node)
            else:
                self.call(graph, node, tensors)
        model = (self.sequential if chain else self.functional)(graph, tensors)
        if self.inside:
            self.without_weights()
            self.built |= outside
        self.here, self.names, self.inside = around
        return model

    def functional(self, graph: Graph, tensors: dict[Ref, keras.KerasTensor]) -> keras.Model:
        inputs = keras.tree.map_structure(tensors.__getitem__, graph.inputs)
        outputs = keras.tree.map_structure(tensors.__getitem__, graph.outputs)
        model = Functional(inputs, outputs, name=graph.name)
        set_trainable_alone(model, graph.trainable)
        _name_outputs(model, graph)
        return model

    def without_weights(self) -> dict[Layer, keras.Operation]:
        """Forget what was built for layers without weights that several graphs call. Keras does not
        load, or loads wrongly, what two models call, so the model of a composite has its own.
        """
        known = [layer for layer in self.built if layer in self.spread]
        return {layer: self.built.pop(layer) for layer in known}

    def call(self, graph: Graph, node: Node, tensors: dict[Ref, keras.KerasTensor]) -> None:
        """Call the node's layer on symbolic tensors, building it if this is its first call."""
        if node.layer.cls is keras.layers.InputLayer:
            outputs = keras.layers.InputLayer.from_config(dict(node.layer.config)).output
        else:
            args, kwargs = keras.tree.map_structure(
                lambda leaf: tensors[leaf] if isinstance(leaf, Ref) else leaf,
                (node.args, node.kwargs),
            )
            known = _is_as_lifted(graph, node, tensors) and len(node.outputs) == 1
            output = placeholder(node.output) if known else None
            outputs = self.operation(node.layer, args, kwargs, output)
        flat = keras.tree.flatten(outputs)
        for index, (tensor, expected) in enumerate(zip(flat, node.outputs, strict=True)):
            tensors[Ref(node.id, index)] = tensor
            if node.layer.is_new:
                _check_output(node.layer, tensor, expected)

    def operation(
        self, layer: Layer, args: Any, kwargs: Any, output: keras.KerasTensor | None
    ) -> Any:
        """The result of calling the layer, which is built if this is its first call.

        Args:
            output: what the source's layer gives, if it gives one tensor and gets such arguments.
        """
        if self.is_unfolded(layer) or layer in self.flat:
            return self.unfold(layer, args, kwargs)
        if layer not in self.built and self.is_copied(layer):
            return self.copy(layer, args, kwargs, output)
        if layer not in self.built:
            leaves = keras.tree.flatten((args, kwargs))
            first = next(leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor))
            self.built[layer] = self.make(layer, first.shape)
        return called(self.built[layer], args, kwargs)

    def unfold(self, layer: Layer, args: Any, kwargs: Any) -> Any:
        """Call the model that stands in the place of a layer written in Python."""
        assert layer.graph is not None
        leaves = keras.tree.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
        if layer in self.flat:
            return self.lay_flat(layer, tensors)
        model = self.model(layer.graph, layer.name)
        return model(tensors if len(tensors) > 1 else tensors[0])

    def lay_flat(self, layer: Layer, given: list[keras.KerasTensor]) -> Any:
        """Make the calls inside a composite in the model around it, with names that are free."""
        assert layer.graph is not None
        tensors = {
            ref: tensor if tensor.dtype == dtype else keras.ops.cast(tensor, dtype)
            for ref, tensor in zip(keras.tree.flatten(layer.graph.inputs), given, strict=True)
            for dtype in [layer.graph.tensor(ref).dtype]
        }
        outputs = {layer.graph[ref.node].layer for ref in layer.graph.output_refs}
        for node in layer.graph:
            if Ref(node.id) in tensors:
                continue
            known = self.made(node.layer)
            self.call(layer.graph, node, tensors)
            made = self.made(node.layer)
            if made is not None and made is not known:
                alone = self.callers[node.layer] == 1 and layer in self.here
                last = {node.layer} == outputs and alone  # the name of the composite is free then
                made.name = layer.name if last else self.free_name(layer, node.layer)
        return keras.tree.map_structure(tensors.__getitem__, layer.graph.outputs)

    def made(self, layer: Layer) -> keras.Operation | None:
        """What was built for a layer, itself or the model of what it calls."""
        model = None if layer.graph is None else self.models.get(id(layer.graph))
        return self.built.get(layer, model)

    def free_name(self, composite: Layer, layer: Layer) -> str:
        """A name for a layer inside a composite that nothing has in the models around it."""
        taken = self.names if self.callers[layer] == 1 else self.names | self.all_names
        name = next(each for each in names_inside(composite, layer) if each not in taken)
        self.names.add(name)
        self.all_names.add(name)
        return name

    def can_unfold(self, layer: Layer) -> bool:
        """Whether what a layer that no rule touched calls may stand for it: nobody checked yet."""
        if not is_run(layer):
            return False
        if layer.graph is None or layer.graph.trace is None or layer.graph in self.believed:
            return layer.graph is not None
        try:
            self.believed.update(check_copied(layer.graph))
        except UntraceableError:
            return False
        return True

    def is_unfolded(self, layer: Layer) -> bool:
        """Whether the calls inside a composite layer take its place: only where a rule gained."""
        known = is_graph_class(layer.cls) or layer.cls is keras.layers.TimeDistributed
        gains = layer.graph is not None and not known and self.is_rewritten(layer)
        return gains or layer in self.unfolded

    def is_copied(self, layer: Layer) -> bool:
        """Whether the source's layer is copied as it is: a layer that no rule touched."""
        return (
            isinstance(layer.source, keras.Layer)
            and not (is_graph_class(layer.cls) and layer.graph is not None)
            and not self.is_rewritten(layer)
        )

    def make(self, layer: Layer, shape: tuple[int | None, ...]) -> keras.Operation:
        """What stands for a layer that is not a plain copy of the source's."""
        if layer.is_new:
            return self.new(layer, shape)
        if layer.graph is not None:
            if layer.cls is keras.layers.TimeDistributed:
                # Without what it held, which may have no configuration.
                config = keras.Layer.get_config(layer.source) | {"name": layer.name}
                return layer.cls(self.model(layer.graph), **config)
            return self.model(layer.graph, layer.name)
        operation = shell(layer.source)  # keras.ops: no weights
        operation.name = layer.name
        return operation

    def copy(self, layer: Layer, args: Any, kwargs: Any, output: keras.KerasTensor | None) -> Any:
        """Copy a layer of the source, call it, which builds it, and give it its weights."""
        if layer in self.tied:
            self.share(layer, TIED)
            return called(self.built[layer], args, kwargs)
        # A TimeDistributed has the graph of what it holds.
        if layer.graph is not None and layer.graph.trace and layer.graph.spare is not None:
            self.built[layer] = layer.graph.spare
            self.built[layer].name = layer.name
            with known_output(layer.source, self.built[layer], output):
                return called(self.built[layer], args, kwargs)
        try:
            # A rule may have left it in another's place, which has the name.
            copy, outputs = copy_and_call(layer.source, args, kwargs, layer.name, output)
        except Exception as error:
            if self.can_unfold(layer):  # what it calls may be copied where it can't be
                self.unfolded.add(layer)
                return self.unfold(layer, args, kwargs)
            self.share(layer, error)
            return called(self.built[layer], args, kwargs)
        self.built[layer] = copy
        return outputs

    def share(self, layer: Layer, error: Exception) -> None:
        """Use the source's own layer: it works, but is not a copy."""
        self.built[layer] = shell(layer.source)
        self.report.notes.append(
            f"{layer.name} ({type(layer.source).__name__}) is shared with the source model, "
            f"because Keras can't copy it: {first_line(error)}"
        )

    def new(self, layer: Layer, shape: tuple[int | None, ...]) -> keras.Layer:
        """A layer that a rule made, with its weights."""
        operation = layer.cls.from_config(dict(layer.config))
        if not layer.new_weights:
            return operation  # its first call builds it, whatever it takes
        with no_initializers(operation):
            if reads_several(operation):
                operation.build_from_config(layer.source.get_build_config())
            else:
                operation.build(shape)
        weights = dict(layer.new_weights)
        for name, variable in named_weights(operation).items():
            given = weights.get(name)
            if given is None or tuple(given.shape) != tuple(variable.shape):
                raise GraphError(
                    f"{layer!r} needs the weight '{name}' of shape {variable.shape}; the "
                    f"rule that made it gave {[(n, w.shape) for n, w in weights.items()]}"
                )
            shared = self.users[id(given)] > 1 or isinstance(given, keras.Variable)
            variable.assign(keras.ops.copy(given) if shared else given)
            del weights[name], given
        if weights:
            raise GraphError(f"{layer!r} has no weights named {sorted(weights)}")
        dict.clear(layer.new_weights)  # type: ignore[arg-type]
        return operation

    def prepare(self, graph: Graph, node: Node) -> None:
        """Build a layer of a Sequential model, which will make the calls itself."""
        layer = node.layer
        if layer in self.built:
            return
        given = graph.producer(node.refs[0]).output
        if layer in self.unfolded or not self.is_copied(layer):
            self.built[layer] = self.make(layer, given.shape)
            return
        if layer in self.tied:
            self.share(layer, TIED)
            return
        try:
            self.built[layer] = copy_layer(layer.source)
            self.built[layer].name = layer.name
        except Exception:
            try:  # a layer without a `build` needs a call
                copy, _ = copy_and_call(layer.source, (placeholder(given),), {}, layer.name)
                self.built[layer] = shell(copy)
            except Exception as error:
                self.share(layer, error)

    def sequential(self, graph: Graph, tensors: dict[Ref, keras.KerasTensor]) -> keras.Model:
        nodes = [node for node in graph if node.args]
        layers = [self.built[node.layer] for node in nodes]
        model = keras.Sequential([*tensors.values(), *layers], name=graph.name)
        for node, layer in zip(nodes, layers, strict=True):
            if node.layer.is_new:
                _check_output(node.layer, layer.output, node.output)
        set_trainable_alone(model, graph.trainable)
        return model


def _is_as_lifted(graph: Graph, node: Node, tensors: dict[Ref, keras.KerasTensor]) -> bool:
    """Whether a call gets tensors of the shapes and dtypes that it had in the source."""
    return all(
        (tuple(tensors[ref].shape), str(tensors[ref].dtype)) == (known.shape, known.dtype)
        for ref in node.refs
        for known in [graph.tensor(ref)]
    )


def _placeholders(graph: Graph, node: Node) -> tuple[Any, Any]:
    """The arguments of a call, with symbolic tensors."""
    given: tuple[Any, Any] = keras.tree.map_structure(
        lambda leaf: placeholder(graph.tensor(leaf)) if isinstance(leaf, Ref) else leaf,
        (node.args, node.kwargs),
    )
    return given


def _with_parts_in_common(layers: Collection[Layer]) -> list[list[Layer]]:
    """The layers that hold parts with weights which others of them hold too, those that have some
    in common together, directly or by others between them.
    """
    held = nx.Graph()
    for layer in layers:
        for part in sublayers(layer.source):
            if part.weights and len(sublayers(part)) == 1:
                held.add_edge(layer, part)
    groups = []
    for group in nx.connected_components(held):
        some = [each for each in group if isinstance(each, Layer)]
        if len(some) > 1 and any(len(sublayers(each.source)) > 1 for each in some):
            groups.append([layer for layer in layers if layer in group])
    return groups


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


def _check_output(layer: Layer, tensor: keras.KerasTensor, expected: Tensor) -> None:
    # What Keras could not infer of the old layer, such as a wrapper, it may know of the new one.
    same_shape = len(tensor.shape) == len(expected.shape) and all(
        old in (None, new) for old, new in zip(expected.shape, tensor.shape, strict=True)
    )
    if not same_shape or str(tensor.dtype) != expected.dtype:
        raise GraphError(
            f"{layer!r} returns {tensor.shape} {tensor.dtype} where the model had "
            f"{expected.shape} {expected.dtype}"
        )
    if (keras_mask(tensor) is not None) != expected.masked:
        raise GraphError(f"{layer!r} changed the mask of its tensor")
