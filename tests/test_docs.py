"""The documentation: every rule has its page, and every example in it runs."""

from __future__ import annotations

import re
import runpy
from dataclasses import dataclass
from pathlib import Path

import keras
import pytest

from kito import plugins

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "docs" / "recipes"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(?P<language>\S*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADINGS = (
    "The algebra",
    "Why it is faster",
    "Before and after",
    "When it declines",
    "Effect",
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line on which its first line of code is."""

    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            language=found["language"],
            code=found["code"],
            line=text.count("\n", 0, found.start("code")) + 1,
        )
        for found in FENCE.finditer(text)
    ]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def built_in_rules() -> set[str]:
    return {rule for rule, found in plugins.registry().items() if found.origin.startswith("kito ")}


def test_every_built_in_rule_has_a_page_and_every_page_a_rule():
    assert {page.stem for page in RECIPES.glob("*.md")} == built_in_rules()


@pytest.mark.parametrize("page", sorted(RECIPES.glob("*.md")), ids=name)
def test_recipe_has_all_its_parts(page):
    lines = page.read_text().splitlines()
    assert lines[0] == f"# {page.stem}"
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings == list(HEADINGS)


@pytest.mark.parametrize("index", [ROOT / "README.md", ROOT / "docs" / "index.md"], ids=name)
def test_index_lists_every_recipe(index):
    text = index.read_text()
    missing = [page.stem for page in RECIPES.glob("*.md") if f"recipes/{page.name})" not in text]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fence_is_closed_and_names_its_language(page):
    found = blocks(page)
    assert page.read_text().count("```") == 2 * len(found)
    plain = [block.line for block in found if not block.language]
    assert page.name == "CONTRIBUTING.md" or not plain


WITH_EXAMPLES = [page for page in PAGES if any(b.language == "python" for b in blocks(page))]


def any_model() -> keras.Model:
    """What the first example of the README, which is two lines long, calls `model`."""
    return keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    )


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    if name(page) == "README.md":
        namespace["model"] = any_model()
    for block in blocks(page):
        if block.language == "python":
            # Empty lines in front, so that an error points to the line of the page.
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(page), "exec"), namespace)


def test_all_pages_have_examples_but_those_that_need_none():
    assert {name(page) for page in PAGES if page not in WITH_EXAMPLES} == {
        "CONTRIBUTING.md",
        "docs/index.md",
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    prose = FENCE.sub("", page.read_text())
    targets = {found["target"] for found in LINK.finditer(prose)}
    local = {target for target in targets if not target.startswith(("https://", "mailto:"))}
    broken = {target for target in local if not leads_somewhere(page, target)}
    assert not broken


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not anchor or anchor in anchors(file))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


FIGURES = ("networks.csv", "memory.csv")


def test_the_page_of_the_conversion_is_made_of_its_rows():
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "conversion.py"))
    written = (ROOT / "benchmarks" / "results" / "conversion.md").read_text()
    rows = (benchmark["read"](ROOT / "benchmarks" / "results" / name) for name in FIGURES)
    assert written == benchmark["page"](*rows)
