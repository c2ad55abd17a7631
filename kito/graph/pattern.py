"""What rules match: calls that read each other, found from their last call upwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    captures: Mapping[str, Captured]
    context: frozenset[str] = frozenset()

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
class Many:
    """A link of a chain that stands for any number of calls, also none."""

    classes: Classes


@dataclass(frozen=True)
class Chain:
    """Calls of the given classes, each reading the one before and nothing else."""

    links: Mapping[str, Classes | Many]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.links)

    @property
    def anchors(self) -> Classes:
        last = tuple(self.links.values())[-1]
        assert not isinstance(last, Many)
        return last

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        found: dict[str, Captured] = {}
        at: Node | None = node
        for name, link in reversed(list(self.links.items())):
            several: list[Node] = []
            if isinstance(link, Many):
                while at is not None and at.layer.cls in link.classes:
                    several.insert(0, at)
                    at = _producer(graph, at)
                found[name] = tuple(several)
                continue
            # Exactly these classes: a subclass may compute something else.
            if at is None or at.layer.cls not in link:
                return None
            found[name] = at
            if len(found) < len(self.links):
                at = _producer(graph, at)
        return Match(dict(reversed(found.items())))

    def __str__(self) -> str:
        return " -> ".join(map(_described, self.links.values()))


def _producer(graph: Graph, node: Node) -> Node | None:
    """The call that makes the only tensor that a call reads."""
    return graph.producer(node.refs[0]) if len(node.refs) == 1 else None


def _described(link: Classes | Many) -> str:
    classes = link.classes if isinstance(link, Many) else link
    names = " | ".join(cls.__name__ for cls in classes)
    return f"({names})*" if isinstance(link, Many) else names


@dataclass(frozen=True)
class Branches:
    """A call that merges tensors, and the calls of given classes that make these.

    Attributes:
        every: whether each of the tensors must come from such a call.
    """

    branches: tuple[str, Classes]
    into: tuple[str, Classes]
    every: bool

    @property
    def names(self) -> tuple[str, ...]:
        return (self.branches[0], self.into[0])

    @property
    def anchors(self) -> Classes:
        return self.into[1]

    def match(self, graph: Graph, node: Node) -> Match | None:
        """The match that ends at `node`, or None."""
        if node.layer.cls not in self.into[1]:
            return None
        makers = [graph.producer(ref) for ref in node.refs]
        found = tuple(maker for maker in makers if maker.layer.cls in self.branches[1])
        if not found or (self.every and len(found) < len(makers)):
            return None
        return Match({self.branches[0]: found, self.into[0]: node})

    def __str__(self) -> str:
        return f"[{_described(self.branches[1])}, ...] -> {_described(self.into[1])}"


def chain(**links: type[keras.Operation] | tuple[type[keras.Operation], ...] | Many) -> Chain:
    """A pattern: one call after the other, `name=Class` or `name=(Class, OtherClass)`.

    With `name=many(Class, OtherClass)`, any number of calls of these classes stand there.

    Raises:
        RuleDefinitionError: there is no link, a link is not a Keras layer class, or the last one is
            `many`.
    """
    if not links:
        raise RuleDefinitionError("chain() needs at least one link: chain(conv=Conv2D)")
    normalized = {name: _link(f"chain({name}=...)", link) for name, link in links.items()}
    if isinstance(list(normalized.values())[-1], Many):
        raise RuleDefinitionError("the last link of a chain() is one call, not many()")
    return Chain(normalized)


def many(*classes: type[keras.Operation]) -> Many:
    """A link of a `chain` that stands for any number of calls of the classes, also none.

    The longest row of such calls is taken.
    """
    return Many(classes)


def branches(
    *, every: bool = False, **links: type[keras.Operation] | tuple[type[keras.Operation], ...]
) -> Branches:
    """A pattern: `branches(convs=Conv2D, add=Add)`, a call and the calls whose outputs it merges.

    Args:
        every: whether each of the merged tensors must come from a call of the given classes.

    Raises:
        RuleDefinitionError: these are not two links, or a link is not a Keras layer class.
    """
    if len(links) != 2:
        raise RuleDefinitionError("branches() needs two links: branches(convs=Conv2D, add=Add)")
    first, second = ((name, _link(f"branches({name}=...)", link)) for name, link in links.items())
    if isinstance(first[1], Many) or isinstance(second[1], Many):
        raise RuleDefinitionError("branches() knows no many()")
    return Branches((first[0], first[1]), (second[0], second[1]), every)


def _link(where: str, link: Any) -> Classes | Many:
    classes = link.classes if isinstance(link, Many) else link
    classes = classes if isinstance(classes, tuple) else (classes,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, keras.Operation)):
            raise RuleDefinitionError(f"{where} is not a Keras layer class: {cls!r}")
    return Many(classes) if isinstance(link, Many) else classes
