"""Graph -> Graph: apply rules until none applies.

What is the same for every rule stands once: here, who owns a shared layer, what the new layers are
called, and when to stop; in guards.py, what a match may not be. A rule sees only matches that pass.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import keras
import numpy as np

from kito.definition import Decline, Match, Result, Rule
from kito.errors import RuleError
from kito.graph.borders import lay_open
from kito.graph.crossing import cross
from kito.graph.doubt import CONTAINERS, copied
from kito.graph.guards import check_match, check_result
from kito.graph.hazards import check_hazards
from kito.graph.inference import infer_outputs
from kito.graph.ir import Graph, Node, Ref, exactly, walk
from kito.graph.kept import EXPECTED_TO_GO, unexplained
from kito.graph.keras_internals import is_graph_class, sublayers
from kito.graph.layer import Call, Layer, Output
from kito.graph.site import Site
from kito.report import Applied, Declined, Report

# Why the built-in rules come to an end: each lowers the first of these numbers that it changes.
#   1. calls in a form that no rule makes: grouped, separable, with silu, with gelu on more than
#      rows, with a window over the whole input, and SpectralNormalization and TimeDistributed;
#   2. calls that scale or shift channels: normalizations, and layers and operations with constants;
#   3. calls of layers with weights;
#   4. calls.
# Rules of plugins may not. A rewrite leaves its tail in place, so rules that loop come back to the
# same call, or they make ever more calls, of which there are at most ten times as many rewrites as
# the model has calls.
MAX_REWRITES_OF_A_CALL = 100

T = TypeVar("T")
# Rule, path of the graph, and layers.
Rewrite = tuple[str, tuple[str, ...], tuple[str, ...]]


@dataclass
class Course:
    """Which of the rewrites of a run are made. Equal runs make equal rewrites in equal order.

    Attributes:
        most: how many; None is all.
        dropped: those that are left out.
        made: is filled with those that were made, in their order.
    """

    most: int | None = None
    dropped: Collection[Rewrite] = ()
    made: list[Rewrite] = field(default_factory=list)

    @property
    def is_free(self) -> bool:
        """Whether all rewrites are made that rules ask for."""
        return self.most is None and not self.dropped

    @property
    def is_over(self) -> bool:
        """Whether no more rewrites are made."""
        return self.most is not None and len(self.made) >= self.most


def rewrite(
    graph: Graph,
    rules: Sequence[Rule],
    report: Report,
    course: Course | None = None,
    closed: Collection[keras.Layer] = (),
) -> None:
    """Apply the rules everywhere in the graph and its nested graphs, in place, to a fixed point.

    Args:
        course: limits what is done, and records it; None is no limit.
        closed: the composites that are not laid open, see `lay_open`, and the layers that are not
            moved, see `cross`.

    Raises:
        RuleError: a rule raised, returned something unusable, or never comes to an end.
    """
    _Rewriter(graph, rules, report, course or Course(), closed).run()


@dataclass(frozen=True)
class _Done:
    """A rewrite that was made, the graphs in which it was, and the classes that it replaced."""

    graphs: frozenset[int]
    rule: Rule
    applied: Applied
    classes: frozenset[type]

    @property
    def is_reason(self) -> bool:
        """Whether it is one to replace a layer that is written in Python."""
        return self.rule.is_reason(self.classes)


class _Rewriter:
    def __init__(
        self,
        graph: Graph,
        rules: Sequence[Rule],
        report: Report,
        course: Course,
        closed: Collection[keras.Layer],
    ) -> None:
        self.root = graph
        self.report = report
        self.course = course
        self.closed = closed
        # By name: whatever order plugins were found in, the result is the same.
        self.all_rules = sorted(rules, key=lambda rule: rule.name)
        self.rules: dict[type, list[Rule]] = {}
        self.queue: deque[tuple[Graph, int]] = deque()
        self.queued: set[tuple[int, int]] = set()
        self.rewrites: dict[tuple[int, int], int] = {}
        self.declined: dict[tuple[int, int], dict[str, Declined]] = {}
        self.applied: list[_Done] = []
        self.look()
        self.limit = MAX_REWRITES_OF_A_CALL + 10 * sum(map(len, self.graphs))

    def look(self) -> None:
        """See what graphs there are, and who calls what in them."""
        self.paths = {id(nested): path for path, nested in walk(self.root)}
        self.graphs = [nested for _, nested in walk(self.root)]
        # As the keys of a dict, which has an order and gives one up at once.
        self.calls: dict[Layer, dict[tuple[Graph, int], None]] = {}
        self.owners: dict[Graph, dict[Layer, None]] = {}
        self.names: dict[Graph, Counter[str]] = {}
        for nested in self.graphs:
            for node in nested:
                self.enter(nested, node)

    def run(self) -> None:
        if self.root.frozen:
            return
        early = [rule for rule in self.all_rules if not rule.late]
        stages = [early] if len(early) == len(self.all_rules) else [early, self.all_rules]
        for rules in stages:
            self.to_fixed_point(rules)
            # What a rule left may fold across a border that was a hindrance to nothing before.
            while lay_open(self.root, self.closed) | (
                bool(rules) and cross(self.root, self.closed, self.is_taken_apart)
            ):
                self.look()
                self.to_fixed_point(rules)
        self.undo_idle()
        self.report.applied.extend(done.applied for done in self.applied)
        self.report.declined.extend(
            reason
            for graph in self.graphs
            for node in graph
            for reason in self.declined.get((id(graph), node.id), {}).values()
        )
        known: dict[tuple[str, ...], set[str]] = {}
        for each in self.report.declined:
            known.setdefault(each.path, set()).update(each.layers)
        names = {rule.name for rule in self.all_rules}
        for graph in self.graphs:
            path = self.paths[id(graph)]
            self.report.unmatched.extend(unexplained(graph, path, names, known.get(path, ())))

    def use(self, rules: list[Rule]) -> None:
        self.rules.clear()
        for rule in rules:
            for cls in rule.pattern.anchors:
                self.rules.setdefault(cls, []).append(rule)

    def to_fixed_point(self, rules: list[Rule]) -> None:
        self.use(rules)
        # Calls near a rewrite are looked at again at once. In the end all are, for a rule may look
        # farther; one round in which nothing applies is the fixed point.
        before = -1
        while before < len(self.applied):
            before = len(self.applied)
            for graph in self.graphs:
                for node in graph:
                    self.enqueue(graph, node.id)
            self.drain()

    def drain(self) -> None:
        while self.queue:
            graph, node_id = self.queue.popleft()
            self.queued.discard((id(graph), node_id))
            if node_id in graph:
                self.visit(graph, graph[node_id])

    def undo_idle(self) -> None:
        """Take back the rewrites inside layers and models with a class of their own, if none of
        them is a reason to lose that class: they are copied as they were.
        """
        for graph in self.graphs:
            if not self.keeps_class(graph):
                continue
            if self.is_taken_apart(graph):
                continue
            inside = {id(nested) for _, nested in walk(graph)}
            undone = [done for done in self.applied if done.graphs & inside]
            across = any(not done.graphs <= inside for done in undone)  # with calls elsewhere
            source = graph.source if graph.trace is None else graph.trace.source
            if not undone or across or (graph.trace and self.shares(source, inside)):
                continue
            try:
                graph.spare = copied(source, graph.trace)
            except Exception:  # the calls inside will take its place
                continue
            self.applied = [done for done in self.applied if not done.graphs <= inside]
            reason = f"this alone is no reason to take {graph.name} apart, as it has its own class"
            self.report.declined.extend(
                Declined(done.rule.name, done.applied.layers, done.applied.path, reason)
                for done in undone
                if done.classes & EXPECTED_TO_GO
            )
            for _, nested in walk(graph):
                nested.restore()
            self.declined = {
                key: said for key, said in self.declined.items() if key[0] not in inside
            }
            self.ask_again(graph)

    def is_taken_apart(self, graph: Graph) -> bool:
        """Whether a rule that is a reason to take a composite apart was applied in it."""
        inside = {id(nested) for _, nested in walk(graph)}
        return any(done.is_reason and done.graphs & inside for done in self.applied)

    def ask_again(self, restored: Graph) -> None:
        """Note why no rule that is a reason to take a graph apart applies to its normalizations,
        now that they are as they were.
        """
        self.look()
        self.use([rule for rule in self.all_rules if rule.opens])
        for _, nested in walk(restored):
            for node in nested:
                if node.layer.cls in EXPECTED_TO_GO:
                    self.applicable(nested, node)

    def shares(self, source: keras.Layer, inside: set[int]) -> bool:
        """Whether other composites use a layer with weights that a composite holds: then it is not
        copied, for the result would have that twice.
        """
        held = {id(part) for part in sublayers(source) if part.weights}
        return any(
            id(part) in held
            for graph in self.graphs
            if graph.trace is not None and id(graph) not in inside
            for node in graph
            if node.layer.graph is None and isinstance(node.layer.source, keras.Layer)
            for part in sublayers(node.layer.source)
        )

    def keeps_class(self, graph: Graph) -> bool:
        """Whether the result has something of the same class in the place of the graph, if nothing
        is rewritten in it.
        """
        if graph is self.root:
            return is_graph_class(type(graph.source)) and not _is_plain(graph)
        return graph.trace is not None or not _is_plain(graph)

    def enqueue(self, graph: Graph, node_id: int) -> None:
        if (id(graph), node_id) not in self.queued:
            self.queued.add((id(graph), node_id))
            self.queue.append((graph, node_id))

    def visit(self, graph: Graph, node: Node) -> None:
        found = self.applicable(graph, node)
        if found is not None:
            self.apply(*found)

    def applicable(self, graph: Graph, node: Node) -> tuple[Rule, list[Site]] | None:
        """The first rule that applies to a call and those around it, and where; the reasons of
        those before it are noted.
        """
        declined = self.declined[id(graph), node.id] = {}
        for rule in self.rules.get(node.layer.cls, ()):
            if self.course.is_over:
                break
            match = self.timed(rule, rule.pattern.match, graph, node)
            if match is None:
                continue
            try:
                sites = self.decide(rule, graph, match)
            except Decline as reason:
                declined[rule.name] = Declined(
                    rule=rule.name,
                    layers=tuple(node.layer.name for node in match.nodes),
                    path=self.paths[id(graph)],
                    reason=_with_classes(str(reason), match),
                )
                continue
            return rule, sites
        return None

    def decide(self, rule: Rule, graph: Graph, match: Match) -> list[Site]:
        """All sites that are rewritten together with this one, each with its result.

        Raises:
            Decline: a guard or the rule says no.
        """
        if self.key(rule, graph, match) in self.course.dropped:
            raise Decline("the result did not compute the same; see the faults")
        site = self.evaluate(rule, graph, match)
        sites = [site, *self.twins(rule, site)]
        for each in sites:
            for tail, result in each.pairs:
                check_hazards(each.graph, each.match, tail, result, self.readers)
        self.check_name(sites)
        self.check_cost(sites)
        return sites

    def evaluate(self, rule: Rule, graph: Graph, match: Match) -> Site:
        check_match(graph, match)
        try:
            site = Site(graph, match, self.timed(rule, rule, match))
        except Decline:
            raise
        except Exception as error:
            names = ", ".join(node.layer.name for node in match.nodes)
            raise RuleError(
                rule.name,
                f"the rule '{rule.name}' failed on {names}: {type(error).__name__}: {error}. "
                "Leave it out with `rules=`, and tell its author.",
            ) from error
        check_result(site)
        return site

    def twins(self, rule: Rule, site: Site) -> list[Site]:
        """The other calls of the same layers, where these can be rewritten in the same way. Of
        those without weights, such as activations, each call may have one of its own, if that is
        given a tensor and nothing else.
        """
        layers = [node.layer for node in site.match.nodes]
        weighted = [layer for layer in layers if layer.parameters] or layers
        taken = {(site.graph, node.id) for node in site.match.nodes}
        found = []
        for node in site.match.nodes:
            is_own = len(self.calls[node.layer]) == layers.count(node.layer)
            if is_own and (node.layer in weighted or not _takes_only_tensors(node)):
                return []
        for graph, node_id in self.calls[weighted[-1]]:
            for tail in _within(graph, graph[node_id], len(layers)):
                twin = self.twin(rule, site, graph, tail, taken)
                if twin is not None:
                    found.append(twin)
                    taken |= {(graph, node.id) for node in twin.match.nodes}
        return found

    def twin(
        self, rule: Rule, site: Site, graph: Graph, tail: Node, taken: set[tuple[Graph, int]]
    ) -> Site | None:
        """The site that ends with a call, if it is like another one and has no calls of others."""
        match = rule.pattern.match(graph, tail)
        if match is None or len(match.nodes) != len(site.match.nodes):
            return None
        if any((graph, node.id) in taken for node in match.nodes):
            return None
        pairs = zip(match.nodes, site.match.nodes, strict=True)
        if not all(_stands_for(node.layer, other.layer) for node, other in pairs):
            return None
        try:
            twin = self.evaluate(rule, graph, match)
        except Decline:
            return None
        alike = len(twin.layers) == len(site.layers) and all(map(_same, twin.layers, site.layers))
        return twin if alike else None

    def readers(self, graph: Graph, node: Node) -> Iterator[tuple[Graph, Node]]:
        """The calls that read the node, across the borders of nested models."""
        for reader in graph.consumers(node.id):
            yield graph, reader
        if node.id in graph.output_ids:
            for layer in self.owners.get(graph, ()):
                for outer, node_id in self.calls.get(layer, ()):
                    yield from self.readers(outer, outer[node_id])

    def check_name(self, sites: list[Site]) -> None:
        """An output is called as its layer is called.

        Raises:
            Decline: the name of an output would have to stay with other calls of the layer.
        """
        vanishing = self.vanishing(sites)
        for site in sites:
            for tail, result in site.pairs:
                if tail.id not in site.graph.output_ids:
                    continue
                if not isinstance(result, Call):
                    raise Decline(f"{tail.layer.name} gives an output its name")
                if tail.layer not in vanishing:
                    raise Decline(
                        f"{tail.layer.name} gives an output its name, and is called elsewhere"
                    )

    def check_cost(self, sites: list[Site]) -> None:
        """A call may get its own copy of a shared layer where that saves more than it costs.

        The cost is the weights that the model gains, the saving is the elements that are no longer
        written and read for one sample; unknown dimensions count as 1.

        Raises:
            Decline: the copy costs more.
        """
        site = sites[0]
        nodes = site.match.nodes
        vanishing = self.vanishing(sites)
        kept = [node for node in nodes if node.layer not in vanishing]
        if not any(node.layer.parameters for node in kept):
            return
        kept_layers = {node.layer for node in kept}
        replaced = {node.layer for node in nodes} - kept_layers
        growth = sum(layer.parameters for layer in site.layers if layer not in kept_layers) - sum(
            layer.parameters for layer in replaced
        )
        saved = sum(
            math.prod(size or 1 for size in node.output.shape)
            for site in sites
            for node in site.match.nodes
            if node not in site.match.tails
        )
        if growth > saved:
            shared = next(node.layer for node in kept if node.layer.parameters)
            raise Decline(
                f"{shared.name} is called {len(self.calls[shared])} times; a copy for this call "
                f"would add {growth:,} parameters and save {saved:,} elements"
            )

    def vanishing(self, sites: list[Site]) -> set[Layer]:
        """The layers of which the rewrite of these sites leaves no call."""
        rewritten = Counter(node.layer for site in sites for node in site.match.nodes)
        return {layer for layer, calls in rewritten.items() if calls == len(self.calls[layer])}

    def apply(self, rule: Rule, sites: list[Site]) -> None:
        site = sites[0]
        old = tuple(dict.fromkeys(node.layer for node in site.match.nodes))
        vanishing = self.vanishing(sites)
        gone = [layer for layer in old if layer not in site.layers and layer in vanishing]
        names = self.named(site, old, gone, {each.graph for each in sites})
        moved: dict[tuple[Graph, Ref], Ref] = {}
        for each in sites:
            self.count(rule, each)
            # The layers of the first site are those of all.
            self.splice(each, dict(zip(each.layers, names, strict=True)), moved)
        for layer in dict.fromkeys(node.layer for each in sites for node in each.match.nodes):
            calls = self.calls[layer]
            if not calls:
                del self.calls[layer]  # and with it the weights that an earlier rewrite gave it
            elif len(calls) == 1:  # what is called once need not be copied
                [(graph, node_id)] = calls
                for node in (graph[node_id], *graph.readers(node_id)):
                    self.enqueue(graph, node.id)
        new = [layer for layer in names if layer not in old]
        before = sum(layer.parameters for layer in gone)
        applied = Applied(
            rule=rule.name,
            layers=tuple(layer.name for layer in old),
            result=tuple(layer.name for layer in names),
            path=self.paths[id(site.graph)],
            calls=len(sites),
            parameters=sum(layer.parameters for layer in new) - before,
        )
        self.course.made.append(self.key(rule, site.graph, site.match))
        graphs = frozenset(id(each.graph) for each in sites)
        self.applied.append(_Done(graphs, rule, applied, frozenset(layer.cls for layer in old)))

    def key(self, rule: Rule, graph: Graph, match: Match) -> Rewrite:
        """What tells a rewrite from all others of a run, and of another run of the same model."""
        names = tuple(dict.fromkeys(node.layer.name for node in match.nodes))
        return (rule.name, self.paths[id(graph)], names)

    def timed(self, rule: Rule, function: Callable[..., T], *args: Any) -> T:
        """Call a function of a rule, and add the time that it takes to the report."""
        start = time.perf_counter()
        try:
            return function(*args)
        finally:
            seconds = self.report.seconds
            seconds[rule.name] = seconds.get(rule.name, 0.0) + time.perf_counter() - start

    def count(self, rule: Rule, site: Site) -> None:
        key = (id(site.graph), site.match.tail.id)
        self.rewrites[key] = self.rewrites.get(key, 0) + 1
        total = len(self.applied)
        if self.rewrites[key] > MAX_REWRITES_OF_A_CALL or total > self.limit:
            raise RuleError(
                rule.name,
                f"the rules do not come to an end: '{rule.name}' was applied again and again at "
                f"'{site.match.tail.layer.name}'. Leave it, or the rule that undoes it, out with "
                "`rules=`.",
            )

    def splice(
        self, site: Site, names: Mapping[Layer, Layer], moved: dict[tuple[Graph, Ref], Ref]
    ) -> None:
        """Put what the rule asks for where the match stands.

        The last call keeps the number of the match's tail, and so its readers.

        Args:
            moved: the tensors that sites before this one replaced by others; is added to.
        """
        graph, match = site.graph, site.match
        graph.rewritten = True
        readers = [reader for tail in match.tails for reader in graph.consumers(tail.id)]
        for node in match.nodes:
            del self.calls[node.layer][graph, node.id]
            self.names[graph][node.layer.name] -= 1
        self.build(site, names, moved)
        for node in reversed([node for node in match.nodes if node not in match.tails]):
            graph.remove(node.id)
        for reader in readers:
            self.enqueue(graph, reader.id)

    def build(
        self, site: Site, names: Mapping[Layer, Layer], moved: dict[tuple[Graph, Ref], Ref]
    ) -> None:
        graph = site.graph
        places: dict[Result, Node] = {
            result: tail for tail, result in site.pairs if isinstance(result, Call)
        }
        ids: dict[Call, int] = {}

        def to_ref(leaf: Any) -> Any:
            if isinstance(leaf, Output):
                return Ref(ids[leaf.call], leaf.index)
            while isinstance(leaf, Ref) and (graph, leaf) in moved:
                leaf = moved[graph, leaf]
            return Ref(ids[leaf]) if isinstance(leaf, Call) else leaf

        for call in site.calls:
            tail = places.get(call)
            ids[call] = tail.id if tail else graph.new_id()
            args, kwargs = keras.tree.map_structure(to_ref, (call.args, call.kwargs))
            outputs = tail.outputs if tail else infer_outputs(graph, call.layer, args, kwargs)
            self.put(graph, Node(ids[call], names[call.layer], args, kwargs, outputs))
        for tail, result in site.pairs:
            if tail is not places.get(result):  # what it computed is there already
                moved[graph, Ref(tail.id)] = to_ref(result)
                graph.redirect(Ref(tail.id), moved[graph, Ref(tail.id)])
                graph.remove(tail.id)

    def put(self, graph: Graph, node: Node) -> None:
        graph.put(node)
        graph.verify_node(node)
        self.enter(graph, node)
        self.enqueue(graph, node.id)

    def enter(self, graph: Graph, node: Node) -> None:
        """Note a call, by its layer and by the name of that."""
        self.calls.setdefault(node.layer, {})[graph, node.id] = None
        self.names.setdefault(graph, Counter())[node.layer.name] += 1
        if node.layer.graph is not None:
            self.owners.setdefault(node.layer.graph, {})[node.layer] = None

    def named(
        self,
        site: Site,
        old: tuple[Layer, ...],
        gone: list[Layer],
        graphs: Collection[Graph],
    ) -> tuple[Layer, ...]:
        """A layer takes the name of that whose place it takes, the others keep theirs, where these
        are free.

        Layers of the match that the rule keeps as they are, are not copied for a name.
        """
        free = {layer.name for layer in gone}
        taken: set[str] = set()

        def unique(wanted: Iterable[str]) -> str:
            for name in wanted:
                if name in free:
                    free.discard(name)
                    return name
                if name not in taken and not any(self.names[graph][name] for graph in graphs):
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

        named: dict[Layer, Layer] = {}
        for layer, before in site.successors.items():  # these have the first choice
            if layer is not before:
                named[layer] = replace(layer, name=unique(candidates(before.name)))
        for layer in site.layers:
            if layer not in named and layer not in old:
                named[layer] = replace(layer, name=unique(candidates(layer.name)))
        return tuple(named.get(layer, layer) for layer in site.layers)


def _is_plain(graph: Graph) -> bool:
    return type(graph.source) in CONTAINERS


def _with_classes(reason: str, match: Match) -> str:
    """A reason with the classes of layers that rules made: these may be called as what they took in
    was called, a convolution as its activation.
    """
    for layer in dict.fromkeys(node.layer for node in match.nodes):
        if layer.is_new:
            name = rf"(?<![\w/]){re.escape(layer.name)}(?![\w/])"
            reason = re.sub(name, f"{layer.name} ({layer.cls.__name__})", reason, count=1)
    return reason


def _within(graph: Graph, node: Node, steps: int) -> Iterator[Node]:
    """The calls that are reached from one in fewer than so many steps, that one first."""
    known: dict[int, Node] = {}
    some = [node]
    for _ in range(steps):
        known |= {each.id: each for each in some}
        yield from some
        read = {each.id: each for one in some for each in graph.readers(one.id)}
        some = [each for each in read.values() if each.id not in known]


def _takes_only_tensors(node: Node) -> bool:
    return all(isinstance(leaf, Ref) for leaf in keras.tree.flatten((node.args, node.kwargs)))


def _stands_for(one: Layer, other: Layer) -> bool:
    """Whether two layers are one, or have no weights and compute the same."""
    if one is other or one.cls is not other.cls or one.parameters or other.parameters:
        return one is other
    return one.signature == other.signature and exactly(one.behaviour) == exactly(other.behaviour)


def _same(one: Layer, other: Layer) -> bool:
    return (
        one.cls is other.cls
        and one.config == other.config
        and one.weights.keys() == other.weights.keys()
        and all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    )
