"""What is public is enough: for the built-in rules, and for the template of a plugin."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import kito

ROOT = Path(__file__).resolve().parent.parent
RULES = sorted(Path(kito.__file__).parent.glob("rules/*.py"))
REFERENCE = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
PUBLIC = ("kito.definition", "kito.operations")
TEMPLATE = ROOT / "examples" / "kito-example" / "src" / "kito_example" / "subsampling.py"
MOST_LINES = 30


def imports(file: Path) -> list[tuple[str, str]]:
    """What a file imports: modules, each with a name out of it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found += [(node.module or ".", each.name) for each in node.names]
        elif isinstance(node, ast.Import):
            found += [(each.name, "") for each in node.names]
    return found


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.stem)
def test_a_built_in_rule_imports_what_is_public(file):
    for module, name in imports(file):
        assert not module.startswith("keras.src")
        if module.split(".")[0] == "kito" and not module.startswith("kito.rules"):
            assert module in PUBLIC, f"{file.name} imports {name} from {module}"
            assert name in importlib.import_module(module).__all__


def test_there_are_files_to_look_at():
    assert len(RULES) > 10
    assert any(module in PUBLIC for file in RULES for module, _ in imports(file))


@pytest.mark.parametrize("name", importlib.import_module("kito.definition").__all__)
def test_what_a_rule_may_import_is_in_the_reference(name):
    assert re.search(rf"^\.\. auto\w+:: (kito\.(definition\.)?)?{name}$", REFERENCE, re.MULTILINE)


def test_the_operations_are_in_the_reference():
    operations = importlib.import_module("kito.operations")
    assert ".. automodule:: kito.operations\n" in REFERENCE
    assert not [name for name in operations.__all__ if name not in operations.__doc__]


def test_the_template_imports_from_kito_only():
    assert {module for module, _ in imports(TEMPLATE)} == {"kito", "keras.layers"}


def test_a_rule_with_its_registration_is_short():
    text = TEMPLATE.read_text()
    docstring, *code = ast.parse(text).body
    assert isinstance(docstring, ast.Expr)
    assert len(text.splitlines()[code[0].lineno - 1 :]) <= MOST_LINES
