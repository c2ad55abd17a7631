"""What rules match: calls that read each other, found from their last call upwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import keras

from kito.errors import RuleDefinitionError
from kito.graph.ir import Graph, Node

Classes = tuple[type[keras.Operation], ...]
Captured = Node | tuple[Node, ...]


@dataclass(frozen=True)
class Match:
    """The calls that a pattern found, by capture name, in the order of computation.

    Attributes:
        context: the captures that the rule only looks at, and that stay.
        ends: the capture of calls that stand side by side, each with readers of its own; None if
            the last call alone is read from outside.
    """

    captures: Mapping[str, Captured]
    context: frozenset[str] = frozenset()
    ends: str | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The calls that the rule replaces."""
        found: list[Node] = []
        for name, captured in self.captures.items():
            if name not in self.context:
                found += (captured,) if isinstance(captured, Node) else captured
        return tuple(found)

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def tail(self) -> Node:
        return self.nodes[-1]

    @property
    def tails(self) -> tuple[Node, ...]:
        """The calls that others read: the last one, or each of those side by side."""
        ends = self.captures[self.ends] if self.ends else self.tail
        return (ends,) if isinstance(ends, Node) else ends


class Pattern(Protocol):
    """Anything that finds a match which ends at a given call.

    Attributes:
        names: the captures, which are the parameters of the rule's function.
        anchors: the classes of the last call; the engine asks for matches at these only.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def anchors(self) -> Classes: ...

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        ...


@dataclass(frozen=True)
class Link:
    """Which calls may stand at one place of a pattern.

    Attributes:
        classes: exactly these, for a subclass may compute something else.
        condition: what must hold of a call besides; None is nothing.
        many: whether any number of calls stand there, also none.
    """

    classes: Classes
    condition: Callable[[Node], bool] | None = None
    many: bool = False

    def fits(self, node: Node) -> bool:
        """Whether a call may stand there."""
        if node.layer.cls not in self.classes or self.condition is None:
            return node.layer.cls in self.classes
        return node.layer.has_config and self.condition(node)

    def __str__(self) -> str:
        names = " | ".join(cls.__name__ for cls in self.classes)
        return f"({names})*" if self.many else names


def named(pattern: Any) -> Iterator[type[keras.Operation]]:
    """The classes that a pattern names anywhere, as far as can be seen."""
    if isinstance(pattern, Link):
        yield from pattern.classes
    elif isinstance(pattern, Mapping):
        yield from named(tuple(pattern.values()))
    elif isinstance(pattern, tuple):
        for each in pattern:
            yield from named(each)
    elif is_dataclass(pattern):
        yield from named(tuple(getattr(pattern, each.name) for each in fields(pattern)))


@dataclass(frozen=True)
class Chain:
    """Calls of the given classes, each reading the one before and nothing else."""

    links: Mapping[str, Link]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.links)

    @property
    def anchors(self) -> Classes:
        return tuple(self.links.values())[-1].classes

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        found: dict[str, Captured] = {}
        at: Node | None = node
        for name, link in reversed(list(self.links.items())):
            if link.many:
                several: list[Node] = []
                while at is not None and link.fits(at):
                    several.insert(0, at)
                    at = _producer(graph, at)
                found[name] = tuple(several)
                continue
            if at is None or not link.fits(at):
                return None
            found[name] = at
            if len(found) < len(self.links):
                at = _producer(graph, at)
        return Match(dict(reversed(found.items())))

    def __str__(self) -> str:
        return " -> ".join(map(str, self.links.values()))


def _producer(graph: Graph, node: Node) -> Node | None:
    """The call that makes the only tensor that a call reads."""
    return graph.producer(node.refs[0]) if len(node.refs) == 1 else None


@dataclass(frozen=True)
class Branches:
    """A call that merges tensors, and the calls of given classes that make these.

    Attributes:
        every: whether each of the tensors must come from such a call.
    """

    branches: tuple[str, Link]
    into: tuple[str, Link]
    every: bool

    @property
    def names(self) -> tuple[str, ...]:
        return (self.branches[0], self.into[0])

    @property
    def anchors(self) -> Classes:
        return self.into[1].classes

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        if not self.into[1].fits(node):
            return None
        makers = [graph.producer(ref) for ref in node.refs]
        found = tuple(maker for maker in makers if self.branches[1].fits(maker))
        if not found or (self.every and len(found) < len(makers)):
            return None
        return Match({self.branches[0]: found, self.into[0]: node})

    def __str__(self) -> str:
        return f"[{self.branches[1]}, ...] -> {self.into[1]}"


@dataclass(frozen=True)
class Readers:
    """The calls of given classes that read one tensor, behind the chain of calls that computes it.

    The last of the links is that of the readers. Without a chain there are two of them at least,
    and what computes the tensor may be anything, and stays.
    """

    links: Mapping[str, Link]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.links)

    @property
    def _last(self) -> tuple[str, Link]:
        """The capture of the readers, and what fits there."""
        return list(self.links.items())[-1]

    @property
    def anchors(self) -> Classes:
        return self._last[1].classes

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match whose last reader is `node`, or None."""
        chain = Chain(self.links).match(graph, node) if len(node.refs) == 1 else None
        if chain is None:
            return None
        readers = graph.readers(node.refs[0].node)
        # From the end, so that of many readers each but the last looks at few.
        if next(each for each in reversed(readers) if self.fits(each, node)) is not node:
            return None
        found = tuple(each for each in readers if self.fits(each, node))
        if len(self.links) == 1 and len(found) < 2:
            return None
        name, _ = self._last
        return Match({**chain.captures, name: found}, ends=name)

    def fits(self, reader: Node, node: Node) -> bool:
        """Whether a call may stand beside another one: it reads the same tensor, once."""
        return self._last[1].fits(reader) and reader.refs == node.refs

    def __str__(self) -> str:
        *chain, last = self.links.values()
        return " -> ".join([*map(str, chain), f"[{last}, ...]"])


@dataclass(frozen=True)
class Provided:
    """A pattern of which only those matches count for which a condition holds.

    Attributes:
        condition: takes the graph and the match. What it does not hold for is not reported.
    """

    pattern: Pattern
    condition: Callable[[Graph, Match], bool]

    @property
    def names(self) -> tuple[str, ...]:
        return self.pattern.names

    @property
    def anchors(self) -> Classes:
        return self.pattern.anchors

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        match = self.pattern.match(graph, node)
        return match if match is not None and self.condition(graph, match) else None

    def __str__(self) -> str:
        return str(self.pattern)


OneOrMore = type[keras.Operation] | tuple[type[keras.Operation], ...] | Link


def chain(**links: OneOrMore) -> Chain:
    """A pattern: one call after the other, `name=Class` or `name=(Class, OtherClass)`.

    `name=where(Class, condition)` asks for more than the class; `name=many(Class, OtherClass)`
    stands for any number of calls.

    Raises:
        RuleDefinitionError: there is no link, a link is not a Keras layer class, or the last one is
            `many`.
    """
    return Chain(_links("chain", links))


def where(
    classes: type[keras.Operation] | tuple[type[keras.Operation], ...],
    condition: Callable[[Node], bool],
) -> Link:
    """A link of a pattern: a call of one of the classes of which a condition holds.

    What does not fit is no match, and the report does not mention it. What a user would expect to
    be rewritten should match, and be declined with a reason.
    """
    return Link(classes if isinstance(classes, tuple) else (classes,), condition)


def many(*classes: type[keras.Operation]) -> Link:
    """A link of a `chain` that stands for any number of calls of the classes, also none.

    The longest row of such calls is taken.
    """
    return Link(classes, many=True)


def branches(*, every: bool = False, **links: OneOrMore) -> Branches:
    """A pattern: `branches(convs=Conv2D, add=Add)`, a call and the calls whose outputs it merges.

    Args:
        every: whether each of the merged tensors must come from a call of the given classes.

    Raises:
        RuleDefinitionError: these are not two links, or a link is not a Keras layer class.
    """
    if len(links) != 2:
        raise RuleDefinitionError("branches() needs two links: branches(convs=Conv2D, add=Add)")
    first, second = ((name, _link(f"branches({name}=...)", link)) for name, link in links.items())
    return Branches(first, second, every)


def readers(**links: OneOrMore) -> Readers:
    """A pattern: calls that stand side by side, for they read the same tensor.

    `readers(convs=Conv2D)` are all calls of the class that read one tensor, two at least;
    `readers(norm=LayerNormalization, dense=Dense)` are a call, and all calls of the other class
    that read it. More links before the last one are a chain, as in `chain`. The rule returns one
    result for each of the readers.

    Raises:
        RuleDefinitionError: there is no link, a link is not a Keras layer class, or the last one is
            `many`.
    """
    return Readers(_links("readers", links))


def _links(pattern: str, links: Mapping[str, OneOrMore]) -> dict[str, Link]:
    if not links:
        raise RuleDefinitionError(f"{pattern}() needs at least one link: {pattern}(conv=Conv2D)")
    normalized = {name: _link(f"{pattern}({name}=...)", link) for name, link in links.items()}
    if list(normalized.values())[-1].many:
        raise RuleDefinitionError(f"the last link of {pattern}() is one call, not many()")
    return normalized


def _link(where: str, given: OneOrMore) -> Link:
    if isinstance(given, Link):
        link = given
    else:
        link = Link(given if isinstance(given, tuple) else (given,))
    for cls in link.classes:
        if not (isinstance(cls, type) and issubclass(cls, keras.Operation)):
            raise RuleDefinitionError(f"{where} is not a Keras layer class: {cls!r}")
    return link
