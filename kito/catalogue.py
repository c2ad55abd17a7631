"""The rules as the command shows them: a table of all, and a page of one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from kito.compatibility import KITO
from kito.definition import TARGETS, Rule
from kito.hookspecs import SWITCHED_OFF
from kito.plugins import Registered, registry, select
from kito.reasons import reasons
from kito.tables import Table

FOR_ALL = (
    "\nBefore that, kito checks what is the same for all rules: who reads the tensors in between, "
    "masks, quantization, `training=True`."
)


def all_rules() -> list[dict[str, Any]]:
    """What `kito rules --json` says of each rule: strings, and the list of its default targets."""
    return [_entry(name, each) for name, each in registry().items()]


def table() -> Table:
    """The rules that are registered, a row each."""
    rows = [
        (name, each.rule.summary, default_of(each.rule), each.origin)
        for name, each in registry().items()
    ]
    return Table("rules", ("name", "summary", "default on", "origin"), rows)


def default_of(rule: Rule) -> str:
    """For which targets a rule is used without being asked, in words."""
    default = [target for target in TARGETS if rule.is_default(target)]
    others = [target for target in TARGETS if target not in default]
    if not default:
        return "none: name it"
    if not others:
        return "all targets"
    return f"not {', '.join(others)}" if len(others) < len(default) else ", ".join(default)


def _entry(name: str, registered: Registered) -> dict[str, Any]:
    return {
        "name": name,
        "summary": registered.rule.summary,
        "default": [target for target in TARGETS if registered.rule.is_default(target)],
        "origin": registered.origin,
    }


def one_rule(name: str) -> dict[str, Any]:
    """What `kito rule --json` says of a rule: besides, what its code says of it.

    Raises:
        UnknownRuleError: there is none of that name.
    """
    [rule] = select([name])
    module = inspect.getmodule(rule.function)
    _, _, more = (inspect.getdoc(rule.function) or "").partition("\n")
    return {
        **_entry(name, registry()[name]),
        "pattern": str(rule.pattern),
        "description": more.strip(),
        "algebra": inspect.getdoc(module) or "",
        "declines": reasons(rule.function),
        "module": rule.function.__module__,
    }


def page(rule: Mapping[str, Any]) -> str:
    """The page of a rule as Markdown.

    Args:
        rule: what `one_rule` says of it.
    """
    sections = {
        "The algebra": rule["algebra"],
        "When it declines": "\n".join([*(f"- {why}" for why in rule["declines"]), FOR_ALL]),
        "Use it, or leave it out": _use(rule),
    }
    head = f"# {rule['name']}\n\n{rule['summary']}\n\n{rule['description']}\n\n{_facts(rule)}\n"
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items() if text)


def _facts(rule: Mapping[str, Any]) -> str:
    named = [target for target in TARGETS if target not in rule["default"]]
    facts = {
        "matches": f"`{rule['pattern']}`",
        "default on": ", ".join(rule["default"]),
        "only if named on": ", ".join(named),
        "from": f"{rule['origin']}, `{rule['module']}`",
    }
    return "\n".join(f"- **{fact}** {text}" for fact, text in facts.items() if text)


def _use(rule: Mapping[str, Any]) -> str:
    name, distribution = rule["name"], rule["origin"].split(" ")[0]
    added = f'[*plugins.select(None), "{name}"]'
    left_out = f'[rule for rule in plugins.select(None) if rule.name != "{name}"]'
    lines = ["```python", "import kito", "from kito import plugins", ""]
    lines += [f'kito.optimize(model, rules=["{name}"])  # this rule alone']
    if len(rule["default"]) < len(TARGETS):
        lines += [f"kito.optimize(model, rules={added})  # with the default rules"]
    if rule["default"]:
        lines += [f"kito.optimize(model, rules={left_out})  # without it"]
    lines += [
        "```",
        "",
        "```sh",
        f"kito optimize MODEL -o OUT.keras --rules {name}  # this rule alone",
    ]
    if distribution != KITO:
        switched_off = f"{SWITCHED_OFF}={distribution}"
        lines += [f"{switched_off} kito optimize MODEL -o OUT.keras  # without the plugin"]
    return "\n".join([*lines, "```"])
