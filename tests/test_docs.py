"""The documentation: every rule has its page, and every example in it runs."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace

import keras
import outside
import pytest
import recipes
from click.testing import CliRunner

from kito import plugins
from kito.cli import main
from kito.definition import TARGETS
from kito.graph import guards, hazards, rewrite
from kito.reasons import reasons
from tests.written import declines

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INDEX = DOCS / "recipes" / "index.md"
RECIPES = sorted(page for page in INDEX.parent.glob("*.md") if page != INDEX)
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in DOCS.rglob("*.md") if DOCS / "_build" not in page.parents),
]

FENCE = re.compile(r"^```(?P<language>\S*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
ON_TENSORFLOW = ("docs/many-images.md",)
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
    assert {page.stem for page in RECIPES} == built_in_rules()


@pytest.mark.parametrize("page", RECIPES, ids=name)
def test_recipe_has_all_its_parts(page):
    lines = page.read_text().splitlines()
    assert lines[0] == f"# {page.stem}"
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings == list(HEADINGS)


def test_readme_lists_every_recipe():
    text = (ROOT / "README.md").read_text()
    assert not [page.stem for page in RECIPES if f"docs/recipes/{page.name})" not in text]


def test_index_of_the_recipes_lists_each_once():
    assert sorted(recipes.listed(INDEX.read_text())) == [page.stem for page in RECIPES]


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
    if name(page) in ON_TENSORFLOW and keras.backend.backend() != "tensorflow":
        pytest.skip("its engine takes models from TensorFlow")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    if name(page) == "README.md":
        namespace["model"] = any_model()
    for block in blocks(page):
        if block.language == "python":
            # Empty lines in front, so that an error points to the line of the page.
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(page), "exec"), namespace)


def test_what_is_kept_has_every_reason_of_all_rules():
    text = (DOCS / "what-is-kept.md").read_text()
    sources = [Path(module.__file__).read_text() for module in (guards, hazards, rewrite)]
    written = [reason for source in sources for reason in declines(source)]
    assert len(written) > 15
    assert [
        reason for reason in written if max(reason.split("*"), key=len).strip() not in text
    ] == []


def commands(page: Path) -> list[list[str]]:
    """The lines of a page that a reader types and that call kito, each as its words."""
    lines = [
        line for block in blocks(page) if block.language == "sh" for line in block.code.split("\n")
    ]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("kito ")]
    shell = (">", "||")
    return [[*takewhile(lambda word: word not in shell, line[1:])] for line in words]


WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_and_their_options_are_there(page):
    for command, *arguments in commands(page):
        main.commands[command].make_context(command, arguments)


@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/howto/not-fused.md"])
def test_commands_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    any_model().save("model.keras")
    found = commands(ROOT / page)
    assert found
    for words in found:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.stderr


NOTEBOOKS = [page for page in sorted(DOCS.rglob("*.ipynb")) if DOCS / "_build" not in page.parents]


def cells(notebook: Path, kind: str) -> list[dict[str, object]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebook_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    # Jupyter brings this along. The build of the site runs the notebook in Jupyter itself.
    display = SimpleNamespace(SVG=lambda path: shown.append(Path(path).read_text()))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    namespace: dict[str, object] = {"__name__": notebook.stem}
    for cell in cells(notebook, "code"):
        exec(compile("".join(cell["source"]), str(notebook), "exec"), namespace)
    assert all("<svg" in picture for picture in shown)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebook_is_kept_without_what_it_printed(notebook):
    assert not [cell for cell in cells(notebook, "code") if cell["outputs"]]
    assert not [cell for cell in cells(notebook, "code") if cell["execution_count"]]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_links_of_notebook_lead_somewhere(notebook):
    text = "\n".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
    targets = {found["target"].removeprefix("path:") for found in LINK.finditer(text)}
    assert targets
    assert not {target for target in targets if not leads_somewhere(notebook, target)}


def test_every_recipe_has_examples():
    assert set(RECIPES) < set(WITH_EXAMPLES)


@pytest.mark.parametrize("page", RECIPES, ids=name)
def test_recipe_is_completed_from_its_rule(page):
    text = recipes.completed(page.stem, page.read_text(), DOCS)
    rule = plugins.registry()[page.stem].rule
    default = re.findall(r"\{bdg-success\}`(\w+)`", text)
    others = re.findall(r"\{bdg-secondary-line\}`(\w+)`", text)
    assert default == [target for target in TARGETS if rule.is_default(target)]
    assert sorted(default + others) == sorted(TARGETS)
    assert text.count("<svg ") == text.count("</svg>") == 1
    for reason in reasons(rule.function):
        assert f"\n- {reason}\n" in text
    [source] = re.findall(r"\{literalinclude\} (\S+)", text)
    assert f"def {rule.function.__name__}(" in (page.parent / source).read_text()


def test_a_pattern_is_written_in_short():
    assert recipes.pattern("Conv1D | Conv2D | Conv3D | Dense -> ReLU") == (
        "`Conv1D, 2D, 3D` or `Dense` → `ReLU`"
    )
    steps = ["Conv1DTranspose | Conv2DTranspose", "(Dropout | Conv1D)*", "a call", "Activation" * 9]
    assert recipes.pattern(" -> ".join(steps)) == (
        "`Conv1D, 2DTranspose`<br>→ any number of `Dropout` or `Conv1D`<br>→ a call<br>→ "
        f"`{steps[-1]}`"
    )


# A default on every target, on some, and on none.
@pytest.mark.parametrize("rule", ["conv_batchnorm", "silu", "parallel_siblings"])
def test_what_a_recipe_says_of_its_use_runs(rule):
    [code] = [
        found for found in FENCE.finditer(recipes.facts(rule)) if found["language"] == "python"
    ]
    exec(code["code"], {"model": any_model()})


def test_index_of_the_recipes_has_each_in_a_family_and_under_each_target():
    text = recipes.index(INDEX.read_text())
    for page in RECIPES:
        assert text.count(f"[{page.stem}]({page.name})") == 1 + len(TARGETS)


def test_the_page_of_the_command_has_each_command_and_option():
    text = (DOCS / "command-line.md").read_text()
    options = {
        max(parameter.opts, key=len)
        for command in main.commands.values()
        for parameter in command.params
        if parameter.param_type_name == "option"
    }
    wanted = {f"kito {command}" for command in main.commands} | options
    assert not {each for each in wanted if not re.search(rf"`{each}\b", text)}


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


def test_a_picture_outside_is_shown_and_another_file_is_given():
    page = DOCS / "faster.md"
    picture, file = "[a](../benchmarks/results/bars.svg)", "[a](../benchmarks/bench.py)"
    assert outside.relinked(f"!{picture}", page, DOCS) == "![a](/../benchmarks/results/bars.svg)"
    assert outside.relinked(picture, page, DOCS) == "[a](path:/../benchmarks/results/bars.svg)"
    assert outside.relinked(file, page, DOCS) == "[a](path:/../benchmarks/bench.py)"


def test_links_to_files_outside_lead_to_the_pages_that_they_became():
    text = "[a](../benchmarks/results/rules.md#here) [b](../noxfile.py) `c[d](e)` [f](start.md)"
    assert outside.relinked(text, DOCS / "faster.md", DOCS) == (
        "[a](/measured/rules.md#here) [b](path:/../noxfile.py) `c[d](e)` [f](/start.md)"
    )


def test_the_citation_is_of_this_version():
    [version] = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version == metadata.version("kito")


FIGURES = ("networks.csv", "memory.csv")


def test_the_page_of_the_conversion_is_made_of_its_rows():
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "conversion.py"))
    written = (ROOT / "benchmarks" / "results" / "conversion.md").read_text()
    rows = (benchmark["read"](ROOT / "benchmarks" / "results" / name) for name in FIGURES)
    assert written == benchmark["page"](*rows)
