"""The measurement of each built-in rule: each has a network on which it fires."""

import runpy
from pathlib import Path

import pytest

import kito
from kito import plugins
from kito.rules import register_rules
from kito.testing import randomize

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SUBJECTS = runpy.run_path(str(BENCHMARKS / "subjects.py"))["SUBJECTS"]


@pytest.fixture
def benchmark():
    """The names of benchmarks/rules.py."""
    return runpy.run_path(str(BENCHMARKS / "rules.py"))


def test_every_built_in_rule_has_a_subject_and_every_subject_a_rule():
    assert set(SUBJECTS) == {rule.name for rule in register_rules()}


@pytest.mark.parametrize("rule", sorted(SUBJECTS))
def test_the_rule_fires_on_its_subject(rule):
    model = randomize(SUBJECTS[rule].build(size=16))
    rules = {each.name for each in plugins.select(None, "tensorflow")} | {rule}
    assert kito.explain(model, sorted(rules)).folded.get(rule)


def test_the_page_is_made_of_the_rows(benchmark):
    rows = benchmark["read"](benchmark["TABLE"])
    assert benchmark["PAGE"].read_text() == benchmark["page"](rows)


def test_the_page_of_other_tools_is_made_of_the_rows():
    peers = runpy.run_path(str(BENCHMARKS / "peers.py"))
    rows = peers["read"](peers["TABLE"])
    assert peers["PAGE"].read_text() == peers["page"](rows)


def test_a_cell_says_what_came_out_and_whether_the_rule_is_a_default(benchmark):
    cell = benchmark["cell"]
    row = {"outcome": "measured", "ratio": "1.234"}
    assert cell("silu", "tensorflow", row) == "**1.23**"
    assert cell("silu", "onnx", row) == "1.23"
    assert cell("gelu", "onnx", {"outcome": "only with it"}) == "**only with it**"
    assert cell("silu", "jax", None) == "-"


@pytest.mark.parametrize("rule", ["silu", "squeeze_dense"])
def test_two_models_differ_in_the_rule_alone(benchmark, rule):
    without, with_it = benchmark["without_and_with"](rule, "tensorflow")
    assert set(with_it) - set(without) == {rule}
    assert set(with_it) == {each.name for each in plugins.select(None, "tensorflow")} | {rule}


def test_what_a_runtime_does_not_run_has_a_reason(benchmark, monkeypatch):
    def fail(model, size):
        raise RuntimeError(f"{BENCHMARKS}/model.onnx can't be loaded\nfor reasons")

    model = SUBJECTS["linear_linear"].build(size=16)
    batch = benchmark["batch_for"](model, 1)
    monkeypatch.setitem(benchmark["RUNTIMES"], "onnx", fail)
    started = benchmark["started"]
    assert started(model, "onnx", batch) == "RuntimeError: model.onnx can't be loaded"
    monkeypatch.setitem(benchmark["RUNTIMES"], "onnx", lambda model, size: model.predict_on_batch)
    assert started(model, "onnx", batch)(batch).shape == (1, 16, 16, 16)
    monkeypatch.setitem(
        benchmark["RUNTIMES"], "onnx", lambda model, size: lambda batch: batch[:, 1:]
    )
    assert started(model, "onnx", batch) == (
        "the runtime gives (1, 15, 16, 16), Keras gives (1, 16, 16, 16)"
    )
    monkeypatch.setitem(benchmark["RUNTIMES"], "onnx", lambda model, size: lambda batch: batch)
    assert started(model, "onnx", batch) == "the runtime gives other answers than Keras"
