"""What users see of the plugin: kito finds it, and the examples of its pages run."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from kito_example.subsampling import example_subsampling_conv

from kito.plugins import registry

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "recipes").glob("*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_kito_finds_the_rule():
    found = registry()["example_subsampling_conv"]
    assert found.rule is example_subsampling_conv
    assert found.origin == f"kito-example {metadata.version('kito-example')}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page):
    namespace = {}
    for example in EXAMPLE.findall(page.read_text()):
        exec(example, namespace)


def test_every_rule_has_a_page():
    rules = {name for name, each in registry().items() if each.origin.startswith("kito-example ")}
    assert {page.stem for page in PAGES[1:]} == rules
