"""Graph -> Graph: apply rules until none applies.

What is the same for every rule stands here once: what a match may not be (the guards), who owns a
shared layer, what the new layers are called, and when to stop. A rule sees only matches that pass.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from kito.definition import Decline, Match, Rule
from kito.errors import RuleError
from kito.graph.hazards import check_hazards
from kito.graph.ir import Graph, Layer, Node, Ref, Tensor, walk
from kito.graph.keras_internals import sublayers
from kito.report import Applied, Declined, Report

# A rewrite leaves its tail in place, so rules that loop come back to the same call, or they make
# ever more calls, of which there are at most ten times as many rewrites as the model has calls.
MAX_REWRITES_OF_A_CALL = 100


def rewrite(graph: Graph, rules: Sequence[Rule], report: Report) -> None:
    """Apply the rules everywhere in the graph and its nested graphs, in place, to a fixed point.

    Raises:
        RuleError: a rule raised, returned something unusable, or never comes to an end.
    """
    _Rewriter(graph, rules, report).run()


@dataclass(frozen=True)
class _Site:
    """A match and the graph that it stands in."""

    graph: Graph
    match: Match
    result: tuple[Layer, ...] = ()


class _Rewriter:
    def __init__(self, graph: Graph, rules: Sequence[Rule], report: Report) -> None:
        self.paths = {id(nested): path for path, nested in walk(graph)}
        self.graphs = [nested for _, nested in walk(graph)]
        self.report = report
        self.rules: dict[type, list[Rule]] = {}
        # By name: whatever order plugins were found in, the result is the same.
        for rule in sorted(rules, key=lambda rule: rule.name):
            for cls in rule.pattern.anchors:
                self.rules.setdefault(cls, []).append(rule)
        self.calls: dict[Layer, list[tuple[Graph, int]]] = {}
        for nested in self.graphs:
            for node in nested:
                self.calls.setdefault(node.layer, []).append((nested, node.id))
        self.queue: deque[tuple[Graph, int]] = deque(
            (nested, node.id) for nested in self.graphs for node in nested
        )
        self.queued = {(id(nested), node_id) for nested, node_id in self.queue}
        self.rewrites: dict[tuple[int, int], int] = {}
        self.limit = MAX_REWRITES_OF_A_CALL + 10 * len(self.queue)
        self.declined: dict[tuple[int, int], dict[str, Declined]] = {}

    def run(self) -> None:
        while self.queue:
            graph, node_id = self.queue.popleft()
            self.queued.discard((id(graph), node_id))
            if node_id in graph:
                self.visit(graph, graph[node_id])
        self.report.declined.extend(
            reason
            for graph in self.graphs
            for node in graph
            for reason in self.declined.get((id(graph), node.id), {}).values()
        )

    def enqueue(self, graph: Graph, node_id: int) -> None:
        if (id(graph), node_id) not in self.queued:
            self.queued.add((id(graph), node_id))
            self.queue.append((graph, node_id))

    def visit(self, graph: Graph, node: Node) -> None:
        declined = self.declined[id(graph), node.id] = {}
        for rule in self.rules.get(node.layer.cls, ()):
            match = rule.pattern.match(graph, node)
            if match is None:
                continue
            try:
                sites = self.decide(rule, _Site(graph, match))
            except Decline as reason:
                declined[rule.name] = Declined(
                    rule=rule.name,
                    layers=tuple(node.layer.name for node in match.nodes),
                    path=self.paths[id(graph)],
                    reason=str(reason),
                )
                continue
            self.apply(rule, sites)
            return

    def decide(self, rule: Rule, site: _Site) -> list[_Site]:
        """All sites that are rewritten together with this one, each with its result.

        Raises:
            Decline: a guard or the rule says no.
        """
        site = self.evaluate(rule, site)
        sites = [site, *self.twins(rule, site)]
        for each in sites:
            check_hazards(each.result[-1], (each.graph, each.match.tail), self.readers)
        self.check_name(sites)
        self.check_cost(sites)
        return sites

    def evaluate(self, rule: Rule, site: _Site) -> _Site:
        check_match(site.graph, site.match)
        try:
            result = rule(site.match)
        except Decline:
            raise
        except Exception as error:
            names = ", ".join(node.layer.name for node in site.match.nodes)
            raise RuleError(
                f"the rule '{rule.name}' failed on {names}: {type(error).__name__}: {error}. "
                "Leave it out with `rules=`, and tell its author."
            ) from error
        check_result(rule, site, result)
        return replace(site, result=result)

    def twins(self, rule: Rule, site: _Site) -> list[_Site]:
        """The other calls of the same layers, where these can be rewritten in the same way."""
        layers = [node.layer for node in site.match.nodes]
        found = []
        for graph, node_id in self.calls[layers[-1]]:
            match = rule.pattern.match(graph, graph[node_id])
            if match is None or (graph is site.graph and node_id == site.match.tail.id):
                continue
            if [node.layer for node in match.nodes] != layers:
                continue
            try:
                twin = self.evaluate(rule, _Site(graph, match))
            except Decline:
                continue
            if len(twin.result) == len(site.result) and all(map(_same, twin.result, site.result)):
                found.append(twin)
        return found

    def readers(self, graph: Graph, node: Node) -> Iterator[tuple[Graph, Node]]:
        """The calls that read the node, across the borders of nested models."""
        for reader in graph.consumers(node.id):
            yield graph, reader
        if node.id in {ref.node for ref in graph.output_refs}:
            for layer, calls in self.calls.items():
                if layer.graph is graph:
                    for outer, node_id in calls:
                        yield from self.readers(outer, outer[node_id])

    def check_name(self, sites: list[_Site]) -> None:
        """An output is called as its layer is called.

        Raises:
            Decline: the name of an output would have to stay with other calls of the layer.
        """
        tail = sites[0].match.tail
        is_output = any(
            site.match.tail.id in {ref.node for ref in site.graph.output_refs} for site in sites
        )
        if is_output and not self.disappears(tail.layer, sites):
            raise Decline(f"{tail.layer.name} gives an output its name, and is called elsewhere")

    def check_cost(self, sites: list[_Site]) -> None:
        """A call may get its own copy of a shared layer where that saves more than it costs.

        The cost is the weights that the model gains, the saving is the elements that are no longer
        written and read for one sample; unknown dimensions count as 1.

        Raises:
            Decline: the copy costs more.
        """
        site = sites[0]
        nodes = site.match.nodes
        kept = [node for node in nodes if not self.disappears(node.layer, sites)]
        if not any(node.layer.parameters for node in kept):
            return
        replaced = {node.layer for node in nodes} - {node.layer for node in kept}
        growth = sum(layer.parameters for layer in site.result) - sum(
            layer.parameters for layer in replaced
        )
        saved = sum(
            math.prod(size or 1 for size in node.output.shape)
            for site in sites
            for node in site.match.nodes[:-1]
        )
        if growth > saved:
            shared = next(node.layer for node in kept if node.layer.parameters)
            raise Decline(
                f"{shared.name} is called {len(self.calls[shared])} times; a copy for this call "
                f"would add {growth:,} parameters and save {saved:,} elements"
            )

    def disappears(self, layer: Layer, sites: list[_Site]) -> bool:
        """Whether the rewrite of these sites leaves no call of the layer."""
        rewritten = sum(node.layer is layer for site in sites for node in site.match.nodes)
        return rewritten == len(self.calls[layer])

    def apply(self, rule: Rule, sites: list[_Site]) -> None:
        site = sites[0]
        old = tuple(node.layer for node in site.match.nodes)
        gone = [layer for layer in old if self.disappears(layer, sites)]
        new = self.named(site.result, old, gone, [site.graph for site in sites])
        for each in sites:
            self.count(rule, each)
            self.splice(each.graph, each.match, new)
        before = sum(layer.parameters for layer in gone)
        self.report.applied.append(
            Applied(
                rule=rule.name,
                layers=tuple(layer.name for layer in old),
                result=tuple(layer.name for layer in new),
                path=self.paths[id(site.graph)],
                calls=len(sites),
                parameters=sum(layer.parameters for layer in new) - before,
            )
        )

    def count(self, rule: Rule, site: _Site) -> None:
        key = (id(site.graph), site.match.tail.id)
        self.rewrites[key] = self.rewrites.get(key, 0) + 1
        total = len(self.report.applied)
        if self.rewrites[key] > MAX_REWRITES_OF_A_CALL or total > self.limit:
            raise RuleError(
                f"the rules do not come to an end: '{rule.name}' was applied again and again at "
                f"'{site.match.tail.layer.name}'. Leave it, or the rule that undoes it, out with "
                "`rules=`."
            )

    def splice(self, graph: Graph, match: Match, layers: tuple[Layer, ...]) -> None:
        """Put calls of the layers where the match stands; the tail keeps its number, and so its
        readers.
        """
        graph.rewritten = True
        head, tail = match.head, match.tail
        args, kwargs = head.args, head.kwargs
        for node in match.nodes:
            self.calls[node.layer].remove((graph, node.id))
        tensor = graph.producer(head.refs[0]).outputs[head.refs[0].index]
        for layer in layers[:-1]:
            tensor = infer_output(layer, tensor)
            node = Node(graph.new_id(), layer, args, kwargs, (tensor,))
            self.put(graph, node)
            args, kwargs = (Ref(node.id),), {}
        self.put(graph, Node(tail.id, layers[-1], args, kwargs, tail.outputs))
        for node in reversed(match.nodes[:-1]):
            graph.remove(node.id)
        for reader in graph.consumers(tail.id):
            self.enqueue(graph, reader.id)
        for node in match.nodes:  # a layer with fewer calls may now be worth its copy
            for other_graph, other_id in self.calls[node.layer]:
                self.enqueue(other_graph, other_id)
                for reader in other_graph.consumers(other_id):
                    self.enqueue(other_graph, reader.id)

    def put(self, graph: Graph, node: Node) -> None:
        graph.put(node)
        graph.verify_node(node)
        self.calls.setdefault(node.layer, []).append((graph, node.id))
        self.enqueue(graph, node.id)

    def named(
        self,
        layers: tuple[Layer, ...],
        old: tuple[Layer, ...],
        gone: list[Layer],
        graphs: Iterable[Graph],
    ) -> tuple[Layer, ...]:
        """The last layer takes the tail's name, the others keep theirs, where these are free."""
        free = {layer.name for layer in gone}
        taken: set[str] | None = None

        def unique(wanted: Iterable[str]) -> str:
            nonlocal taken
            for name in wanted:
                if name in free:
                    free.discard(name)
                    return name
                if taken is None:
                    taken = {node.layer.name for graph in graphs for node in graph}
                if name not in taken:
                    taken.add(name)
                    return name
            raise AssertionError("the candidates are endless")

        fallback = "_".join(layer.name for layer in (old[0], old[-1]))

        def candidates(preferred: str) -> Iterable[str]:
            yield preferred
            yield old[0].name
            yield fallback
            number = 1
            while True:
                yield f"{fallback}_{number}"
                number += 1

        last = replace(layers[-1], name=unique(candidates(old[-1].name)))
        first = [replace(layer, name=unique(candidates(layer.name))) for layer in layers[:-1]]
        return (*first, last)


def check_match(graph: Graph, match: Match) -> None:
    """What no rule may do, whatever it matches.

    Raises:
        Decline: with the reason.
    """
    outputs = {ref.node for ref in graph.output_refs}
    for node in match.nodes:
        for check in (_check_arguments, _check_layer):
            check(node)
    for node, follower in itertools.pairwise(match.nodes):
        if node.id in outputs:
            raise Decline(f"{node.layer.name} is an output of the model")
        others = [reader for reader in graph.consumers(node.id) if reader.id != follower.id]
        if others:
            names = " and ".join(dict.fromkeys(reader.layer.name for reader in others))
            raise Decline(f"{node.layer.name} feeds {names} as well as {follower.layer.name}")
        if len(graph.consumers(node.id)) > 1:
            raise Decline(f"{follower.layer.name} reads {node.layer.name} more than once")


def _check_arguments(node: Node) -> None:
    if node.kwargs.get("training"):
        raise Decline(f"{node.layer.name} is called with training=True")
    extra = [
        name for name, value in node.kwargs.items() if value is not None and value is not False
    ]
    if extra or len(node.args) != 1 or node.args[0] not in node.refs:
        raise Decline(f"{node.layer.name} is called with more than one tensor: {_call(node)}")


def _call(node: Node) -> str:
    arguments = ["tensor" if isinstance(arg, Ref) else type(arg).__name__ for arg in node.args]
    return ", ".join([*arguments, *(f"{name}=..." for name in node.kwargs)])


def _check_layer(node: Node) -> None:
    source = node.layer.source
    for part in sublayers(source) if isinstance(source, keras.Layer) else ():
        if "call" in vars(part):
            raise Decline(f"{part.name} has a `call` of its own, not that of its class")
        if mode := getattr(part, "quantization_mode", None):
            raise Decline(f"{part.name} is quantized ({mode})")


def check_result(rule: Rule, site: _Site, result: tuple[Layer, ...]) -> None:
    """Whether the layers that a rule returned can stand where the match stands.

    Raises:
        RuleError: they are not layers.
        Decline: a mask would get lost, or appear.
    """
    if not result or not all(isinstance(layer, Layer) for layer in result):
        raise RuleError(f"the rule '{rule.name}' returned {result!r}, not layers")
    match = site.match
    masked = any(site.graph.producer(ref).outputs[ref.index].masked for ref in match.head.refs)
    if not masked:
        return
    passes = {node.layer.cls: node.output.masked for node in match.nodes}
    after = all(passes.get(layer.cls, False) for layer in result)
    if after != match.tail.output.masked:
        raise Decline(
            f"a mask runs through {match.head.layer.name}, and the rewrite would change it"
        )


def infer_output(layer: Layer, tensor: Tensor) -> Tensor:
    """What a layer that no model has called yet would return, as Keras infers it."""
    operation = layer.cls.from_config(dict(layer.config))
    output = operation.compute_output_spec(keras.KerasTensor(tensor.shape, tensor.dtype))
    return Tensor(tuple(output.shape), str(output.dtype), tensor.masked)


def _same(one: Layer, other: Layer) -> bool:
    return (
        one.cls is other.cls
        and one.config == other.config
        and one.weights.keys() == other.weights.keys()
        and all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    )
