"""The reasons for which a rule may decline, read from its code."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any

from kito.definition import Decline

CODE = re.compile("`[^`]*`")
SELF = re.compile(r"\bself\b")


def reasons(function: Callable[..., Any]) -> list[str]:
    """What a rule's function, and the functions of its package that it uses, decline with.

    Returns:
        The messages, with the code of what is put in between backticks. A message that is put
        together in another way than by an f-string is not among them; nothing is where the source
        is not at hand.
    """
    if not isinstance(function, FunctionType):
        return []
    found = dict.fromkeys(_reasons(_Called(function, ()), set()))
    return [each for each in found if CODE.sub("", each).strip()]


@dataclass(frozen=True)
class _Called:
    """A function, and its arguments that are texts: pairs of a parameter's name and the text."""

    function: FunctionType
    texts: tuple[tuple[str, str], ...]

    @cached_property
    def code(self) -> list[ast.stmt | ast.expr]:
        """Its statements and expressions as they stand; none where the source is not at hand."""
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(self.function)))
        except (OSError, SyntaxError):
            return []  # defined at a prompt, or within an expression
        code = [node for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr)]
        return sorted(code, key=lambda node: (node.lineno, node.col_offset))

    def value(self, node: ast.expr) -> object:
        """What a name, or a name in a module, stands for; None for anything else."""
        if isinstance(node, ast.Name):
            return dict(self.texts).get(node.id, self.function.__globals__.get(node.id))
        if isinstance(node, ast.Attribute):
            owner = self.value(node.value)
            return getattr(owner, node.attr, None) if isinstance(owner, ModuleType) else None
        return None

    def functions(self, node: ast.Name | ast.Attribute) -> list[FunctionType]:
        """The functions of its package that a name stands for: itself, or those of a table.

        An attribute of what is not known before it runs stands for the methods of that name.
        """
        value = self.value(node)
        found = [*value.values()] if isinstance(value, Mapping) else [value]
        if value is None and isinstance(node, ast.Attribute):
            found = [vars(cls).get(node.attr) for cls in self._classes()]
        return [each for each in found if isinstance(each, FunctionType) and self._is_near(each)]

    def _classes(self) -> list[type]:
        """The classes in its module, and in those of the functions that its module names."""
        near = [each for each in self.function.__globals__.values() if self._is_near(each)]
        functions = [self.function, *(each for each in near if isinstance(each, FunctionType))]
        named = {id(each): each for one in functions for each in one.__globals__.values()}
        return [each for each in named.values() if isinstance(each, type) and self._is_near(each)]

    def _is_near(self, thing: object) -> bool:
        """Whether a function or a class is of the same package."""
        packages = [str(getattr(each, "__module__", "")) for each in (thing, self.function)]
        return packages[0].split(".")[0] == packages[1].split(".")[0]

    def called(self, function: FunctionType, call: ast.Call | None) -> _Called:
        """A function as it is called here."""
        given = map(_constant, call.args if call else ())
        names = [name for name in inspect.signature(function).parameters if name != "self"]
        pairs = zip(names, given, strict=False)
        return _Called(function, tuple((name, text) for name, text in pairs if text is not None))

    def messages(self, message: ast.expr) -> Iterator[str]:
        """What is said: one text, or those that a function of the package returns."""
        assigned = {name: value for node in self.code for name, value in _assigned(node)}
        if isinstance(message, ast.Name):
            message = assigned.get(message.id, message)
        if isinstance(message, ast.Call) and isinstance(message.func, ast.Name | ast.Attribute):
            for function in self.functions(message.func):
                giver = self.called(function, message)
                for node in giver.code:
                    if isinstance(node, ast.Return) and node.value and not _is_none(node.value):
                        yield giver.text(node.value)
        else:
            yield self.text(message)

    def text(self, message: ast.expr) -> str:
        """A string as it is written, with the code of what is put in, or a constant's value."""
        if isinstance(message, ast.JoinedStr):
            return "".join(map(self.text, message.values))
        if isinstance(message, ast.Constant):
            return str(message.value)
        if isinstance(message, ast.FormattedValue):
            message = message.value
        value = self.value(message)
        if isinstance(value, int | float | str):
            return str(value)
        code = ast.unparse(message).removesuffix(".name")
        # A method's class says more than `self`.
        owner = self.function.__qualname__.split(".")[-2:][0].lower()
        return f"`{SELF.sub(owner, code)}`"


def _reasons(called: _Called, seen: set[_Called]) -> Iterator[str]:
    if called in seen:
        return
    seen.add(called)
    calls = {id(node.func): node for node in called.code if isinstance(node, ast.Call)}
    for node in called.code:
        if isinstance(node, ast.Call) and called.value(node.func) is Decline:
            yield from called.messages(node.args[0])
        elif isinstance(node, ast.Name | ast.Attribute):
            for each in called.functions(node):
                yield from _reasons(called.called(each, calls.get(id(node))), seen)


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The names that a statement or expression gives to a value."""
    if isinstance(node, ast.NamedExpr):
        yield node.target.id, node.value
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value


def _constant(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
