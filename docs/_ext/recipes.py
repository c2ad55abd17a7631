"""What a recipe and its rule both say: made of the rule, and not written on the page.

A page under recipes/ gets the facts of its rule, a picture of its example before and after, all
reasons to decline, the measured effect and the source. In recipes/index.md each list of rules
becomes a table, and a table for each target is put at the end. The front page gets a picture of its
example too.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effects import NOISE, Effect, effects
from pictures import picture

from kito import catalogue, plugins
from kito.definition import TARGETS, Rule

if TYPE_CHECKING:  # the tests do without
    from sphinx.application import Sphinx

FOLDER = "recipes"
LISTED = re.compile(r"^(?:- \[(\w+)\]\(\1\.md\)\n)+", re.MULTILINE)
# A class, or classes that differ in the number of their dimensions.
CLASSES = re.compile(
    r"\b(?P<name>[A-Z]\w*)1D(?P<rest>\w*)(?P<more>(?: \| (?P=name)[23]D(?P=rest))+)|\b[A-Z]\w+"
)
LONG = 120  # of a pattern: longer ones have a line for each step
EXAMPLE, USE = "Before and after", "Use it, or leave it out"
LEGEND = f"""
A figure says how many times faster some blocks of a network are with the rule than without it:
above 1 is a gain, and it has a colour if it is more than {NOISE:.0%} off. It is bold where the rule
is a default for the target.
"""


def completed(name: str, text: str, docs: Path) -> str:
    """The page of a rule with what is made of the rule."""
    what = f"The model of the example for {name}"
    text = with_picture(text, what, section(text, EXAMPLE), [name])
    text = text.replace(heading("The algebra"), f"\n{facts(name)}{heading('The algebra')}", 1)
    text = text.replace(heading("Effect"), f"\n{reasons(name)}{heading('Effect')}", 1)
    return f"{text}\n{measured(name)}\n{source(plugins.registry()[name].rule, docs)}"


def heading(title: str) -> str:
    """The line of a section's heading, with the empty line before it."""
    return f"\n## {title}\n"


def section(text: str, title: str) -> str:
    """What stands under a heading."""
    return text.partition(heading(title))[2].partition("\n## ")[0]


def facts(name: str) -> str:
    """Pattern, targets and use of a rule, as `kito rule` has them."""
    known = catalogue.one_rule(name)
    others = [target for target in TARGETS if target not in known["default"]]
    rows = {
        "Matches": pattern(known["pattern"]),
        "Used by default": badges(known["default"], "success"),
        "Only if named": badges(others, "secondary-line"),
    }
    table = "\n".join(f"* - {left}\n  - {right}" for left, right in rows.items() if right)
    return f"""\
:::{{list-table}}
:stub-columns: 1
:class: facts

{table}
:::

::::{{dropdown}} {USE}
{section(catalogue.page(known), USE)}
::::
"""


def reasons(name: str) -> str:
    """All reasons for which a rule declines, as `kito rule` has them."""
    listed = "\n".join(f"- {why}" for why in catalogue.one_rule(name)["declines"])
    if not listed:
        return ""
    return f"""\
:::{{dropdown}} All reasons of this rule, as a report words them
{listed}

Names and figures of your model stand where the code is. [The reasons of all
rules](../what-is-kept.md) come before; of those that several rules have, there are
[examples](../shared-reasons.md).
:::
"""


def pattern(text: str) -> str:
    """What a rule matches: each class marked as code, those of 1, 2 and 3 dimensions together."""
    text = re.sub(r"\(([^)]*)\)\*", r"any number of \1", CLASSES.sub(marked, text))
    arrow = " → " if len(text) < LONG else "<br>→ "
    return text.replace(" -> ", arrow).replace(" | ", " or ")


def marked(found: re.Match[str]) -> str:
    """A class, or several that differ in the number of their dimensions, as code."""
    if not found["more"]:
        return f"`{found[0]}`"
    dimensions = ", ".join(["1D", *re.findall(r"\dD", found["more"])])
    return f"`{found['name']}{dimensions}{found['rest']}`"


def badges(names: list[str], kind: str) -> str:
    """Names as labels of a kind that sphinx-design knows."""
    return " ".join(f"{{bdg-{kind}}}`{name}`" for name in names)


def measured(name: str) -> str:
    """The measured effect of a rule, a row for each target."""
    rule = plugins.registry()[name].rule
    found = [each for each in effects() if each.rule == name]
    if not found:
        return ""
    networks = " and ".join(sorted({each.network for each in found}))
    rows = "\n".join(
        f"| {each.target} | {'yes' if rule.is_default(each.target) else 'no'} | {each.fired} "
        f"| {each.before} | {each.after} | {each.cell()} |"
        for each in sorted(found, key=lambda each: TARGETS.index(each.target))
    )
    return f"""\
Measured on some blocks of {networks}, all other default rules being in both models:

| target | default | fires | without it, ms | with it, ms | times faster |
|:--|:--|--:|--:|--:|--:|
{rows}

[All rules, what was measured and on what machine](../measured/rules.md), and
[whole networks](../measured/speed.md).
"""


def source(rule: Rule, docs: Path) -> str:
    """The source of a rule: the file that it stands in, with its own lines marked."""
    file = Path(inspect.getsourcefile(rule.function) or "")
    lines, first = inspect.getsourcelines(rule.function)
    root = Path(inspect.getsourcefile(plugins) or "").parent.parent
    return f"""\
## Source

```{{literalinclude}} {os.path.relpath(file, docs / FOLDER)}
:language: python
:caption: {file.relative_to(root)}
:lineno-match:
:emphasize-lines: {first}-{first + len(lines) - 1}
```
"""


def index(text: str) -> str:
    """The index with tables: those of its lists, and one for each target."""
    pages = "\n".join(listed(text))
    contents = f"```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    introduction, *families = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    tables = LISTED.sub(lambda found: family(listed(found[0])), "".join(families))
    return "\n".join((introduction, LEGEND, tables, by_target(), contents))


def listed(text: str) -> list[str]:
    """The names of the rules that a list of the index has."""
    return re.findall(r"^- \[(\w+)\]", text, re.MULTILINE)


def family(names: list[str]) -> str:
    """A table of some rules, with the effect on each target."""
    known = {(each.rule, each.target): each for each in effects()}
    lines = [f"| rule | {' | '.join(TARGETS)} |", f"|:--|{'--:|' * len(TARGETS)}"]
    for name in names:
        rule = plugins.registry()[name].rule
        cells = [cell(rule, target, known.get((name, target))) for target in TARGETS]
        lines.append(f"| [{name}]({name}.md)<br>{rule.summary} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(rule: Rule, target: str, effect: Effect | None) -> str:
    """What a table says of a rule on a target: bold where it is a default."""
    text = effect.cell() if effect else "–"  # noqa: RUF001 (a dash)
    return f"**{text}**" if rule.is_default(target) else text


def by_target() -> str:
    """For each target a table of the rules, the one that gains most first."""
    tabs = "\n".join(f":::{{tab-item}} {target}\n{of_target(target)}\n:::" for target in TARGETS)
    return f"## By target\n\n::::{{tab-set}}\n{tabs}\n::::\n"


def of_target(target: str) -> str:
    """A table of the rules on a target."""
    found = sorted((each for each in effects() if each.target == target), key=Effect.order)
    lines = ["| rule | times faster | default |", "|:--|--:|:--|"]
    for each in found:
        default = plugins.registry()[each.rule].rule.is_default(target)
        lines.append(
            f"| [{each.rule}]({each.rule}.md) | {each.cell()} | {'yes' if default else 'no'} |"
        )
    return "\n".join(lines)


def front(text: str) -> str:
    """The front page, with a picture of its example."""
    return with_picture(text, "The model of this example", text)


def with_picture(text: str, what: str, example: str, rules: Sequence[str] | None = None) -> str:
    """A page with the picture of an example under the heading that is there for it."""
    drawn = picture(example, what, rules)
    return text.replace(heading(EXAMPLE), f"{heading(EXAMPLE)}\n{drawn}", 1)


def on_page(app: Sphinx, docname: str, text: list[str]) -> None:
    """Complete the front page and the pages of the recipes."""
    folder, _, name = docname.partition("/")
    if docname == "index":
        text[0] = front(text[0])
    elif folder == FOLDER:
        text[0] = index(text[0]) if name == "index" else completed(name, text[0], Path(app.srcdir))


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("source-read", on_page)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
