"""The reasons for which a rule may decline, read from its code."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from kito.definition import Decline

CODE = re.compile("`[^`]*`")


def reasons(function: Callable[..., Any]) -> list[str]:
    """What a rule's function, and the functions of its package that it uses, decline with.

    Returns:
        The messages, with the code of what is put in between backticks. What a method declines
        with, or a message that another function gives, is not among them; nothing is where the
        source is not at hand.
    """
    if not isinstance(function, FunctionType):
        return []
    found = dict.fromkeys(_reasons(function, set()))
    return [each for each in found if CODE.sub("", each)]


def _reasons(function: FunctionType, seen: set[FunctionType]) -> Iterator[str]:
    if function in seen:
        return
    seen.add(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return  # defined at a prompt, or within an expression
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute | ast.Call):
            continue
        if isinstance(node, ast.Call):
            if _value(node.func, function) is Decline:
                yield _text(node.args[0], function)
            continue
        for each in _functions(_value(node, function)):
            if _package(each) == _package(function):
                yield from _reasons(each, seen)


def _value(node: ast.expr, function: FunctionType) -> object:
    """What a global name, or a name in a module, stands for; None for anything else."""
    if isinstance(node, ast.Name):
        return function.__globals__.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, function)
        return getattr(owner, node.attr, None) if isinstance(owner, ModuleType) else None
    return None


def _functions(value: object) -> list[FunctionType]:
    """The functions that a name stands for: itself, or those of a table."""
    found = value.values() if isinstance(value, Mapping) else [value]
    return [each for each in found if isinstance(each, FunctionType)]


def _package(function: FunctionType) -> str:
    return function.__module__.split(".")[0]


def _text(message: ast.expr, function: FunctionType) -> str:
    """A string as it is written, with the code of what is put in, or a constant's value."""
    if isinstance(message, ast.JoinedStr):
        return "".join(_text(part, function) for part in message.values)
    if isinstance(message, ast.Constant):
        return str(message.value)
    if isinstance(message, ast.FormattedValue):
        message = message.value
    value = _value(message, function)
    if isinstance(value, int | float | str):
        return str(value)
    return f"`{ast.unparse(message).removesuffix('.name')}`"
