"""keras.Model -> Graph.

A Functional model is already a graph of calls; this module copies that graph out of Keras, with
Refs where Keras has KerasTensors. Layers and nested models that are called more than once are
lifted once, so that sharing survives. What is written as a Python class is traced (trace.py).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import keras

from kito.errors import GraphError, InputError, NoGraphError
from kito.graph import set_first
from kito.graph.borders import NORMALIZATION, lay_open, may_fold_behind
from kito.graph.copying import can_copy
from kito.graph.doubt import check_alone
from kito.graph.faithful import WrongShapeError, check_shape
from kito.graph.inline import inline_models
from kito.graph.input_dtypes import (
    INTEGER,
    takes_floats,
    with_integers,
)
from kito.graph.ir import Calls, Graph, Node, Ref, Tensor, Trace, exactly, walk
from kito.graph.keras_internals import (
    Functional,
    arguments,
    arguments_of_call,
    arguments_of_calls,
    calls_in_order,
    has_inputs,
    in_stateless_scope,
    is_graph_model,
    is_users,
    keras_mask,
    patched_methods,
    plain,
    structures,
    sublayers,
    takes_several,
    tensors_of_calls,
)
from kito.graph.layer import Layer
from kito.graph.record import FAILS, FAILS_ON_DATA, UntraceableError, with_plain_sizes
from kito.graph.resize import common, fit_sequentials
from kito.graph.subclasses import class_of
from kito.graph.tensorflow_functions import in_function
from kito.graph.trace import (
    Outputs,
    is_composite,
    is_written_in_python,
    trace,
)
from kito.report import Report

KERAS_2 = ("tf_keras", "tensorflow.python.keras")


def lift(
    model: keras.Model,
    anchors: frozenset[type] = frozenset(),
    report: Report | None = None,
    whole: Mapping[keras.Layer, UntraceableError] = MappingProxyType({}),
    closed: Collection[keras.Layer] = (),
    named: Collection[type] = (),
    opened: Collection[keras.Layer] = (),
    plain: Collection[keras.Layer] = (),
) -> Graph:
    """Copy the structure of a model out of Keras; weights are not read.

    Args:
        anchors: the classes at which rules match. Layers and models written in Python that hold
            one of these are traced.
        report: is told which layers stay whole, and why.
        whole: those that are known not to be what their traces are.
        closed: those of which the border is no hindrance, see `lay_open`.
        named: classes for which rules are written; a layer of one of these is of no other.
        opened: those that the result can't have, see `lay_open`.
        plain: those that are traced whatever they hold, for their calls to take their place.

    Raises:
        InputError: the object is not a Keras 3 model, or it is not built.
    """
    check_model(model)
    report = Report() if report is None else report
    lifter = _Lifter(anchors, report, whole, named, plain)
    if model in whole:
        return lifter.frozen(model, str(whole[model]))
    graph = lifter.graph(model) if is_graph_model(model) else lifter.subclassed(model)
    try:
        lifter.expand(graph)
    except WrongShapeError:
        # What follows has wrong shapes too, and can be run, but not rebuilt otherwise.
        return lifter.frozen(model, "shapes of the model are wrong")
    inline_models(graph)
    remember(graph)
    if lay_open(graph, closed, opened):
        remember(graph)
    return graph


def put_back(graphs: Iterable[Graph], traced: Layer, whole: Layer) -> None:
    """Let the calls of a composite be calls of one layer again."""
    for graph in graphs:
        for node in list(graph):
            if node.layer is traced:
                graph.put(replace(node, layer=whole))


def remember(graph: Graph) -> None:
    """Note the calls of the graph, and of those nested in it, as they are now."""
    for _, nested in walk(graph):
        nested.lifted = Calls(tuple(nested), nested.inputs, nested.outputs)


def check_model(model: object) -> None:
    """Refuse what can't be optimized, with the reason and the remedy.

    Raises:
        InputError: the object is not a Keras 3 model, or it is not built; or what is assigned to
            variables now is lost.
    """
    if in_stateless_scope() or in_function():
        raise InputError(
            "a model can't be optimized inside a function that is compiled, or a StatelessScope: "
            "the result would have no weights. Optimize it before"
        )
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        if any(base.__module__.startswith(KERAS_2) for base in type(model).__mro__):
            raise InputError(
                f"this is a tf_keras (Keras 2) model ({kind}). Save it as `.h5`, load that file "
                "with Keras 3 (`keras.saving.load_model`), and optimize the result."
            )
        hint = ": load it first, with `keras.saving.load_model`" if _is_path(model) else ""
        raise InputError(f"expected a keras.Model, got {kind}{hint}")
    if not model.built and type(model).call is keras.Model.call:
        raise InputError(
            f"the model '{model.name}' ({type(model).__qualname__}) has no `call`, so there is "
            "nothing to optimize but the models inside it: optimize each of those"
        )
    if not model.built:
        raise InputError(
            f"the model '{model.name}' is not built: its input shapes are not known. Give it an "
            "`Input`, call `model.build(input_shape)`, or call it once on data."
        )


def _is_path(given: object) -> bool:
    return isinstance(given, str | os.PathLike)


# The layers that were looked into, and what became of them.
Tried = dict[Layer, Layer | None]


def _to_look_at_again(resized: set[Graph], seen: set[Graph], tried: Tried) -> list[Graph]:
    """The graphs in which composites were traced for sizes that are others by now; these are whole
    again.
    """
    inside = {node.layer for each in resized for node in each}
    for whole, traced in list(tried.items()):
        if traced in inside:
            put_back(seen, traced, whole)
            del tried[whole]
    again = {node.layer for each in resized for node in each} - tried.keys()
    graphs = [each for each in seen if any(node.layer in again for node in each)]
    seen.difference_update(graphs)
    return graphs


class _Lifter:
    """Remembers what was lifted, so that a shared layer stays one layer."""

    def __init__(
        self,
        anchors: frozenset[type],
        report: Report,
        whole: Mapping[keras.Layer, UntraceableError],
        named: Collection[type],
        plain: Collection[keras.Layer],
    ) -> None:
        self._anchors = anchors
        self._report = report
        self._whole = whole
        self._named = named
        self._plain = plain
        self._layers: dict[int, Layer] = {}
        self._outputs: Outputs = {}

    def graph(self, model: Any, name: str | None = None) -> Graph:
        graph = Graph(
            name or model.name,
            sequential=isinstance(model, keras.Sequential),
            trainable=getattr(model, "trainable", True),
        )
        graph.source = model
        refs: dict[int, Ref] = {}
        calls = calls_in_order(model)
        operations = [call.operation for call in calls]
        known = {
            id(each): self._layers[id(each)].name for each in operations if id(each) in self._layers
        }
        names = _names(operations, known, recorded=name is not None)

        def to_ref(leaf: Any) -> Any:
            return refs[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

        taken = {*names.values()}
        free = (each for each in map("input_{}".format, itertools.count()) if each not in taken)
        for tensor in model.inputs if name else ():  # those of a record no layer makes
            ref = refs[id(tensor)] = Ref(graph.new_id())
            layer = replace(_input_layer(tensor.shape, tensor.dtype), name=next(free))
            graph.put(Node(ref.node, layer, (), {}, (_tensor(tensor),)))
        for call in calls:
            if name and type(call.operation) is keras.layers.Identity:
                # In a trace nobody knows its name, and Keras can't save each of them.
                refs[id(call.outputs[0])] = refs[id(call.arguments.args[0])]
                continue
            node_id = graph.new_id()
            for index, tensor in enumerate(call.outputs):
                refs[id(tensor)] = Ref(node_id, index)
            args, kwargs = keras.tree.map_structure(to_ref, arguments(call))
            outputs = tuple(_tensor(tensor) for tensor in call.outputs)
            layer = self.layer(with_plain_sizes(call.operation), names[id(call.operation)], call)
            node = Node(node_id, layer, args, kwargs, outputs)
            graph.put(node)
            _mark_call(graph, node)
        inputs, outputs = structures(model)
        graph.inputs = keras.tree.map_structure(to_ref, inputs)
        graph.outputs = keras.tree.map_structure(to_ref, outputs)
        graph.prune()
        graph.verify()
        if any(_may_leak_a_mask(graph, node) for node in graph):
            for _, nested in walk(graph):
                nested.masked = True
        return graph

    def trace(self, call: Trace, name: str) -> Graph:
        """The graph of a call, which has that and what was found out of it.

        Raises:
            UntraceableError: there is none.
        """
        given = call.source, call.args, call.kwargs

        def attempt() -> Graph:
            with trace(*given, self._outputs) as (function, reads):
                graph = self.record(function, name)
            graph.trace = replace(call, reads=tuple(reads.shapes), record=function)
            return graph

        return set_first.traced(attempt, *given)

    def record(self, function: Functional, name: str) -> Graph:
        """The graph of a trace.

        Raises:
            UntraceableError: layers of one name, which others call too, meet in it.
        """
        try:
            return self.graph(function, name)
        except GraphError as error:
            raise UntraceableError(str(error)) from error

    def frozen(self, model: keras.Model, reason: str) -> Graph:
        """The graph of a model in which nothing can be rewritten."""
        self._report.notes.append(f"nothing is rewritten: {reason}")
        graph = lift(model)
        graph.frozen = True
        return graph

    def layer(self, operation: keras.Operation, name: str, call: Any = None) -> Layer:
        if id(operation) not in self._layers:
            graph = None
            wrapper = _is_time_distributed(operation)
            called = bool(self._anchors) and call is not None
            if is_graph_model(operation) and operation not in self._whole:
                graph = self.graph(operation)
            elif wrapper and is_graph_model(operation.layer):
                graph = self.layer(operation.layer, operation.layer.name).graph
            elif wrapper and called and is_composite(operation.layer, self._anchors):
                graph = self.step(operation)
            cls, wraps = type(operation), None
            if called and cls not in self._named:
                here = call.arguments.args, call.arguments.kwargs
                cls = class_of(operation, [here, *arguments_of_calls(operation)])
            if called and wrapper:
                wraps = self.wrapped_class(operation)
            layer = Layer(cls, name, source=operation, graph=graph, wraps=wraps)
            self._layers[id(operation)] = layer
        return self._layers[id(operation)]

    def wrapped_class(self, wrapper: keras.layers.TimeDistributed) -> type[keras.Operation]:
        """The class of what a TimeDistributed holds, see `class_of`."""
        inner = wrapper.layer
        if type(inner) in self._named:
            return type(inner)
        steps = [_one_step(tensor) for tensor in tensors_of_calls(wrapper)[0]]
        given = [keras.KerasTensor(step.shape, step.dtype) for step in steps]
        return class_of(inner, [((tensor,), {}) for tensor in given])

    def step(self, wrapper: keras.layers.TimeDistributed) -> Graph | None:
        """The graph of what a TimeDistributed does with each step, if that is to call a composite.

        Returns:
            None if the composite can't be called as any other: a TimeDistributed runs its `call`,
            which does not cast what it gets.
        """
        inner = wrapper.layer
        policies = {(each.autocast, each.compute_dtype) for each in (wrapper, inner)}
        if policies != {(True, inner.compute_dtype)}:
            self._report.notes.append(
                f"{wrapper.name} (TimeDistributed) is kept whole: {inner.name} in it computes in "
                "another dtype, and gets what it reads without a cast"
            )
            return None
        read, made = (common(*map(_one_step, tensors)) for tensors in tensors_of_calls(wrapper))
        if keras.backend.is_float_dtype(read.dtype):
            read = replace(read, dtype=wrapper.compute_dtype)
        graph = Graph(inner.name, trainable=inner.trainable)
        graph.source = wrapper
        given = keras.layers.InputLayer(batch_shape=read.shape, dtype=read.dtype)
        layer = self.layer(inner, inner.name)
        first, last = Ref(graph.new_id()), Ref(graph.new_id())
        graph.put(Node(first.node, Layer.of(given), (), {}, (read,)))
        graph.put(Node(last.node, layer, (first,), {}, (made,)))
        graph.inputs, graph.outputs = first, last
        return graph

    def expand(self, graph: Graph) -> None:
        """Trace the composite layers of the graph, those inside them, and so on.

        Raises:
            WrongShapeError: a layer's outputs have other shapes than the model shows.
        """
        traces: set[int] = set()
        seen: set[Graph] = set()
        tried: Tried = {}
        new = [graph]
        while new:
            resized, unknown = fit_sequentials(graph)
            new += _to_look_at_again(resized & seen, seen, tried)
            self.keep_callers_whole(graph, unknown, seen, tried)
            sites: dict[Layer, list[tuple[Graph, Node]]] = {}
            for nested in (nested for each in new for _, nested in walk(each)):
                if nested in seen:
                    continue
                seen.add(nested)
                for node in list(nested):
                    before = tried.get(node.layer)
                    if node.layer.graph is None and node.layer not in tried:
                        sites.setdefault(node.layer, []).append((nested, node))
                    elif before is not None and _takes(before, _call(nested, node)):
                        nested.put(replace(node, layer=before))
                    elif before is not None:  # traced further out, for calls that were otherwise
                        put_back(seen, before, node.layer)
                        del tried[node.layer]
                        sites[node.layer] = [
                            (each, call)
                            for each in seen
                            for call in each
                            if call.layer is node.layer
                        ]
            tried |= dict.fromkeys(sites)
            new = []
            for layer, calls in sites.items():
                inside = any(id(nested) in traces for nested, _ in calls)
                if not self.is_traceable(layer, inside, calls):
                    continue
                try:
                    traced = self.traced(layer, calls)
                except UntraceableError as error:
                    self.keep_whole(layer, str(error))
                    if isinstance(error, WrongShapeError):
                        raise
                    continue
                assert traced.graph is not None
                traced.graph.rewritten = layer.source in self._plain
                tried[layer] = traced
                traces.add(id(traced.graph))
                new.append(traced.graph)
                for nested, node in calls:
                    nested.put(replace(node, layer=traced))

    def is_traceable(self, layer: Layer, inside: bool, calls: list[tuple[Graph, Node]]) -> bool:
        """Whether to try: a rule could match inside, or across the border, or the layer around it
        was traced and nobody can copy this one out of that.
        """
        if is_composite(layer.source, self._anchors) or layer.source in self._plain:
            return True
        if NORMALIZATION in self._anchors and any(may_fold_behind(*call) for call in calls):
            return True
        return inside and is_written_in_python(layer.source) and not can_copy(layer.source)

    def keep_callers_whole(
        self, root: Graph, models: set[Graph], seen: set[Graph], tried: Tried
    ) -> None:
        """Let composites be whole that call a Sequential on sizes that can't be one for all calls.

        Raises:
            WrongShapeError: the model itself does.
        """
        reason = "it calls a Sequential on sizes of which Keras can't infer what that returns"
        for whole, traced in list(tried.items()):
            inside = traced.graph if traced is not None else None
            if inside is not None and any(node.layer.graph in models for node in inside):
                assert traced is not None
                put_back(seen, traced, whole)
                tried[whole] = None
                self.keep_whole(whole, reason)
        if self._anchors and any(node.layer.graph in models for node in root):
            raise WrongShapeError(reason)

    def keep_whole(self, layer: Layer, reason: str) -> None:
        self._report.notes.append(f"{layer.name} ({layer.cls.__name__}) is kept whole: {reason}")

    def traced(self, layer: Layer, sites: list[tuple[Graph, Node]]) -> Layer:
        """A composite layer with the graph that all its calls have in common, whatever their sizes.

        Raises:
            UntraceableError: there is none, or it is known to be wrong.
        """
        if layer.source in self._whole:
            raise self._whole[layer.source]
        calls = {exactly(call): call for call in (_call(*site) for site in sites)}
        call = _general(*calls.values())
        if call is None:
            raise UntraceableError(f"it is called in {len(calls)} different ways")
        leaves = keras.tree.flatten((call.args, call.kwargs))
        if (
            any(leaf.masked for leaf in leaves if isinstance(leaf, Tensor))
            or any(output.masked for _, node in sites for output in node.outputs)
            or any(graph.masked for graph, _ in sites)
        ):
            raise UntraceableError("a mask runs through it")
        if "training" in call.kwargs:
            raise UntraceableError("it is called with training=True")
        read = [graph.producer(ref).layer.source for graph, node in sites for ref in node.refs]
        if any(getattr(each, "optional", False) for each in read):
            raise UntraceableError("it gets an optional input, which may be None")
        if any(getattr(each, "sparse", False) for each in read):
            raise UntraceableError("it gets a sparse tensor, and may do otherwise with these")
        graph = self.trace(call, layer.name)
        for ref, spec in zip(keras.tree.flatten(graph.outputs), call.outputs, strict=True):
            check_shape(graph.tensor(ref).shape, spec)
        return replace(layer, graph=graph)

    def subclassed(self, model: keras.Model) -> Graph:
        """The graph of a model that is written as a class: traced.

        Raises:
            NoGraphError: it can't be traced, or its inputs are not known, or are more than one
                argument.
        """
        reasons: list[str] = []
        for inputs in _inputs_of(model):
            try:
                graph = self.recorded(model, inputs)
                if has_inputs(model):  # of its inputs Keras knows the dtypes
                    return self.checked(graph)
                known = with_integers(graph, inputs, self.inside)
                for better in (_of_any_length(known), known) if known != inputs else ():
                    try:
                        found = self.checked(self.recorded(model, better))
                    except UntraceableError as error:
                        reasons.append(str(error))
                        continue
                    self.note_sizes(found, reasons)
                    return found
                self.checked(graph)
            except UntraceableError as error:
                reasons.append(str(error))
                continue
            self.note_sizes(graph, reasons)
            graph.guessed = inputs
            return graph
        raise NoGraphError(
            f"the subclassed model '{model.name}' ({type(model).__qualname__}) has no graph of "
            f"layers, and its `call` can't be traced: {_best(reasons)}. Rebuild it with the "
            "functional API, or optimize the models inside it."
        )

    def note_sizes(self, graph: Graph, reasons: list[str]) -> None:
        """Note that the result takes no other sizes than the model was built for, if so: unless the
        model ran on no others either.
        """
        tensors = [graph.tensor(ref) for ref in keras.tree.flatten(graph.inputs)]
        shapes = [tensor.shape[1:] for tensor in tensors]
        # A row of integers are words, one of floats features.
        several = any(each.shape[1 if each.dtype == INTEGER else 2 :] for each in tensors)
        others = [each for each in reasons if not each.startswith(FAILS_ON_DATA)]
        if others and several and None not in sum(shapes, ()):
            graph.narrowed = (
                f"{graph.name} was built for inputs of {', '.join(map(str, shapes))}, and the "
                f"result takes no others: made for any, {others[0]}"
            )

    def inside(self, graph: Graph, node: Node) -> Graph | None:
        """What a layer calls: known, or found out for once."""
        if node.layer.graph is None and is_written_in_python(node.layer.source):
            try:
                return self.traced(node.layer, [(graph, node)]).graph
            except UntraceableError:
                return None
        return node.layer.graph

    def recorded(self, model: keras.Model, inputs: Any) -> Graph:
        """The graph of a model that is written as a class, for inputs of these shapes and dtypes.

        Raises:
            UntraceableError: there is none.
        """
        built = _as_built(model, inputs)
        calls = () if built == inputs else (Trace(model, (built,), {}),)
        graph = self.trace(Trace(model, (inputs,), {}, calls=calls), model.name)
        graph.trainable = model.trainable
        graph.source = model
        return graph

    def checked(self, graph: Graph) -> Graph:
        """The graph, which is that of its model whatever is known of it.

        Raises:
            UntraceableError: it is not.
        """
        assert graph.trace is not None
        remember(graph)
        (inputs,) = args = graph.trace.args
        # What it calls may keep something, too.
        set_first.traced(partial(check_alone, graph), graph.trace.source, args, graph.trace.kwargs)
        graph.trace = None  # which is all that there is to know
        leaves = keras.tree.flatten(graph.inputs)
        graph.inputs = keras.tree.pack_sequence_as(inputs, leaves)
        _name_inputs(graph, graph.source)
        return graph


def _best(reasons: list[str]) -> str:
    """Why a call can't be traced, of the reasons for several inputs: not that it does not take
    some, if there is another.
    """
    return next((each for each in reasons if FAILS not in each), reasons[-1])


@cache
def _input_layer(shape: tuple[int | None, ...], dtype: str) -> Layer:
    return Layer.of(keras.layers.InputLayer(batch_shape=shape, dtype=dtype))


def _names(
    operations: Iterable[keras.Operation], known: Mapping[int, str], recorded: bool
) -> dict[int, str]:
    """A name for each operation, by its id: a layer written in Python may hold two of one name.

    Args:
        known: those that have one, in another graph too.
        recorded: whether the operations that are no layers were made just now; their names count
            all that Keras ever made.
    """
    by_kind = sorted(operations, key=lambda each: not isinstance(each, keras.Layer))
    names = {
        id(each): re.sub(r"_\d+$", "", each.name)
        if recorded and not isinstance(each, keras.Layer)
        else each.name
        for each in by_kind
    } | {**known}
    taken, used = set(names.values()), set(known.values())
    for key, name in names.items():
        if key in known:
            continue
        if name in used:
            numbered = (f"{name}_{number}" for number in itertools.count(1))
            names[key] = next(each for each in numbered if each not in taken)
            taken.add(names[key])
        used.add(name)
    return names


def _is_time_distributed(operation: keras.Operation) -> bool:
    return type(operation) is keras.layers.TimeDistributed and not patched_methods(operation)


def _one_step(tensor: keras.KerasTensor) -> Tensor:
    """What a TimeDistributed reads, or makes, of one step: axis 1 is missing."""
    return Tensor((tensor.shape[0], *tensor.shape[2:]), str(tensor.dtype))


def _of_any_length(inputs: Any) -> Any:
    """The inputs of a model, where integers may be as many words as one likes."""
    return keras.tree.map_structure(
        lambda leaf: _of_any_size(leaf) if leaf.dtype == INTEGER else leaf, inputs
    )


def _may_leak_a_mask(graph: Graph, node: Node) -> bool:
    """Whether a mask may come out of a layer though Keras does not show it: a `call` that returns
    the tensor that it got, or that another layer made, returns its mask as well.
    """
    source = node.layer.source
    own = isinstance(source, keras.layers.Lambda) or is_users(type(source))
    if not isinstance(source, keras.Layer) or not own or node.output.masked:
        return False
    return any(graph.tensor(ref).masked for ref in node.refs) or any(
        isinstance(part, keras.layers.Masking) or getattr(part, "mask_zero", False)
        for part in sublayers(source)[1:]
    )


def _mark_call(graph: Graph, node: Node) -> None:
    """Note in the graphs inside a layer that the call hands them a mask, or training=True."""
    inside = node.layer.graph
    if inside is not None and node.kwargs.get("training"):
        for _, nested in walk(inside):
            nested.training = True
    given = node.kwargs.get("mask") is not None or any(
        graph.tensor(ref).masked for ref in node.refs
    )
    if inside is not None and given:
        for _, nested in walk(inside):
            nested.masked = True


def _call(graph: Graph, node: Node) -> Trace:
    """The call of a node, with what is known of the tensors that it gets and returns."""
    args, kwargs = keras.tree.map_structure(
        lambda leaf: graph.tensor(leaf) if isinstance(leaf, Ref) else leaf,
        (node.args, node.kwargs),
    )
    if not kwargs.get("training"):
        kwargs.pop("training", None)
    return Trace(node.layer.source, args, kwargs, node.outputs)


def _general(*calls: Trace) -> Trace | None:
    """The call of which the given ones are cases: the sizes in which they differ are not known.

    Returns:
        None if they differ in anything else.
    """
    if len(calls) == 1:
        return calls[0]
    structures = [(call.args, call.kwargs, call.outputs) for call in calls]
    kinds = {exactly(keras.tree.map_structure(_of_any_size, each)) for each in structures}
    if len(kinds) > 1:
        return None
    args, kwargs, outputs = keras.tree.map_structure(
        lambda leaf, *others: common(leaf, *others) if isinstance(leaf, Tensor) else leaf,
        *structures,
    )
    return Trace(calls[0].source, args, kwargs, outputs, calls=calls)


def _of_any_size(leaf: Any) -> Any:
    return replace(leaf, shape=(None,) * len(leaf.shape)) if isinstance(leaf, Tensor) else leaf


def _takes(traced: Layer, call: Trace) -> bool:
    """Whether a call is a case of that which was traced; its sizes are noted, to be checked."""
    assert traced.graph is not None
    trace = traced.graph.trace
    assert trace is not None
    if exactly(_general(trace, call)) != exactly(trace):
        return False
    if exactly(call) != exactly(trace):
        traced.graph.trace = replace(trace, calls=(*trace.calls, call))
    return True


def _inputs_of(model: keras.Model) -> Iterator[Any]:
    """What a subclassed model takes, with a batch of any size: the most general guess first.

    Raises:
        NoGraphError: it takes more than one argument, or nothing is known of it.
    """
    if isinstance(model, Functional):  # one with a `call` of its own
        yield keras.tree.map_structure(_tensor, structures(model)[0])
        return
    shapes = (model.get_build_config() or {}).get("input_shape")
    required = [
        each
        for each in arguments_of_call(model)
        if each.default is each.empty and not takes_several(each)
    ]
    if shapes is None and len(required) == 1:
        raise NoGraphError(
            f"Keras has not kept the shapes of the inputs of the subclassed model '{model.name}', "
            "for it could not trace its `call` to build it: rebuild it with the functional API, or "
            "optimize the models inside it. If it was called on symbolic tensors first, call it on "
            "data instead"
        )
    if shapes is None or len(required) != 1:
        raise NoGraphError(
            f"the subclassed model '{model.name}' does not take its inputs as one argument (a "
            "list or dict of tensors): a Functional model has no other signature"
        )

    def any_size(shape: Sequence[int | None], dtype: str) -> Tensor:
        return Tensor((*(None for _ in shape[:-1]), *shape[-1:]), dtype)

    def any_length(shape: Sequence[int | None], dtype: str) -> Tensor:
        sizes = (None if size in lengths else size for size in shape[1:])
        return Tensor((None, *sizes), dtype)

    def same_size(shape: Sequence[int | None], dtype: str) -> Tensor:
        return Tensor((None, *shape[1:]), dtype)

    # Of a network of graphs, the nodes are as many on the last axis of an adjacency matrix.
    built: list[Sequence[int | None]] = []
    keras.tree.map_shape_structure(built.append, shapes)
    lengths = {None, *(size for shape in built for size in shape[1:-1])}
    is_square = any(shape[1:] and shape[-1] in lengths for shape in built)
    guesses = (any_size, any_length, same_size) if is_square else (any_size, same_size)

    # What does not cast its inputs gets them as they come.
    dtypes = [str(model.input_dtype) if model.autocast else keras.config.floatx(), INTEGER]
    if known := has_inputs(model):  # a Sequential with a `call` of its own
        dtypes = [str(structures(model)[0].dtype)]
    for dtype in dtypes:
        for tensor in guesses:
            inputs = plain(keras.tree.map_shape_structure(partial(tensor, dtype=dtype), shapes))
            # Of several inputs, which are integers would be a guess.
            one = isinstance(inputs, Tensor)
            if known or dtype != INTEGER or (one and not takes_floats(model, inputs)):
                yield inputs


def _as_built(model: keras.Model, inputs: Any) -> Any:
    """The inputs of a subclassed model, of the sizes for which Keras built it."""
    if isinstance(model, Functional):
        return inputs
    shapes = keras.tree.map_shape_structure(
        lambda shape: Tensor((None, *shape[1:]), ""), model.get_build_config()["input_shape"]
    )
    return keras.tree.map_structure(
        lambda leaf, built: replace(leaf, shape=built.shape), inputs, plain(shapes)
    )


def _name_inputs(graph: Graph, model: keras.Model) -> None:
    """Give the inputs the names by which Keras finds them: the keys of a dict, or the model's."""
    names = [path[-1] if path else None for path, _ in keras.tree.flatten_with_path(graph.inputs)]
    if has_inputs(model):
        names = [tensor.name for tensor in model.inputs]
    for name, ref in zip(names, keras.tree.flatten(graph.inputs), strict=True):
        if isinstance(name, str):
            node = graph[ref.node]
            graph.put(replace(node, layer=replace(node.layer, name=name)))


def _tensor(tensor: keras.KerasTensor) -> Tensor:
    return Tensor(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype),
        masked=keras_mask(tensor) is not None,
    )
