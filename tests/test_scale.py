"""Time and memory grow with the model, and no faster; nothing of a model is kept."""

import gc
import runpy
import sys
import weakref
from collections import Counter
from pathlib import Path

import keras
import pytest
from keras import layers

import kito
from kito.files import load_model
from kito.graph.change import CallRecord, Change, GraphChange
from kito.graph.ir import Graph
from kito.graph.keras_internals import recursion

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = str(Path(kito.__file__).parent)
MODELS = runpy.run_path(str(ROOT / "benchmarks" / "large_models.py"))


def calls_of(function, *args):
    """How many functions are called by code of kito; unlike seconds, the same each time."""
    counts = Counter()

    def count(frame, event, _):
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(PACKAGE):
            counts[event] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function(*args)
    finally:
        sys.setprofile(before)
    return counts.total()


def everything(model, folder):
    report = kito.Report()
    kito.optimize(model, report=report)
    report.to_json()
    str(report)
    report.draw(folder / "model.json")


@pytest.mark.parametrize("kind", ["chain", "residual", "wide", "shared", "outputs", "nested"])
def test_work_grows_with_the_model(kind, tmp_path):
    sizes = {"nested": (3, 12), "outputs": (12, 48)}.get(kind, (40, 160))
    small, large = (MODELS[kind](size) for size in sizes)
    everything(small, tmp_path)  # what is done once does not count
    few, many = (calls_of(everything, model, tmp_path) for model in (small, large))
    assert many < 4.4 * few


def test_each_call_in_composites_inside_composites_runs_as_often(monkeypatch):
    calls, call = Counter(), layers.BatchNormalization.call

    def counted(layer, *args, **kwargs):
        calls[depth] += 1
        return call(layer, *args, **kwargs)

    models = {depth: MODELS["composite"](depth) for depth in (3, 12)}
    monkeypatch.setattr(layers.BatchNormalization, "call", counted)
    for depth, model in models.items():
        report = kito.explain(model)
        assert len(report.applied) == depth
    assert calls[12] == 4 * calls[3]


def test_work_grows_with_the_names_that_rules_need(tmp_path):
    x = keras.Input((4, 4, 2))
    models = []
    for number in (20, 80):
        branches = [layers.Activation("silu")(x * (n + 1.5)) for n in range(number)]
        models.append(keras.Model(x, layers.Concatenate()(branches)))
    few, many = (calls_of(kito.explain, model, ["silu"]) for model in models)
    assert many < 4.4 * few


def test_a_reason_names_few_of_many_readers():
    x = keras.Input((4,))
    trunk = layers.Dense(3, name="trunk")(x)
    bn = layers.BatchNormalization(name="bn")(trunk)
    others = [layers.Dense(n + 1, name=f"head_{n}")(trunk) for n in range(6)]
    [declined] = kito.explain(keras.Model(x, [bn, *others]), ["dense_batchnorm"]).declined
    assert declined.reason.startswith("trunk feeds head_")
    assert declined.reason.endswith(" and 3 others as well as bn")


def test_graphs_that_are_called_twice_by_each_other_are_counted_once_each():
    def call(number, inside):
        products = 0 if inside else 1
        return CallRecord(
            number, number, "x", "Dense", (), "float32", 0, products, False, (), inside
        )

    def graph(level):
        inside = ("inner",) * (level + 1) if level < 60 else None
        calls = (call(0, inside), call(1, inside))
        return GraphChange(("inner",) * level, calls, calls, ())

    change = Change("model", tuple(map(graph, range(61))))
    assert change.multiply_adds == (2**61, 2**61)


@pytest.fixture
def shallow_stack():
    """A stack that is as deep as Keras needs it, and little more."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    yield
    sys.setrecursionlimit(limit)


def test_models_are_longer_than_the_stack_is_deep(tmp_path, shallow_stack):
    x = inputs = keras.Input((4,))
    for number in range(450):
        x = layers.Activation(("relu", "tanh")[number % 2])(x)
    with recursion(450):
        model = keras.Model(inputs, x)
    with pytest.raises(RecursionError):
        keras.models.clone_model(model)
    fast = kito.optimize(model)
    assert len(fast.layers) == len(model.layers)
    assert sys.getrecursionlimit() == 400
    fast.save(tmp_path / "model.keras")
    assert len(load_model(tmp_path / "model.keras").layers) == len(model.layers)


def test_nothing_of_a_model_is_kept():
    kinds = [MODELS[name] for name in ("residual", "wide", "shared", "nested", "composite")]
    alive = weakref.WeakSet()
    for turn in range(30):
        model = kinds[turn % len(kinds)](7 if turn % len(kinds) < 3 else 2)
        report = kito.Report()
        alive.update((model, kito.optimize(model, verify=turn < 2, report=report)))
        alive.add(report.change)
    assert len(alive) > 0
    del model, report
    gc.collect()
    assert not list(alive)
    # By its type: what is deprecated in other packages warns if it is asked for its class.
    assert not [each for each in gc.get_objects() if issubclass(type(each), Graph)]


def test_a_rewrite_that_fails_keeps_nothing():
    def fail(bn):
        raise ValueError("broken")

    broken = kito.rule(kito.chain(bn=layers.BatchNormalization), name="broken")(fail)
    alive = weakref.WeakSet()
    for _ in range(3):
        model = MODELS["chain"](6)
        alive.update((model, kito.optimize(model, [broken])))
    del model
    gc.collect()
    assert not list(alive)


def test_pages_are_made_of_the_rows(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    for name in ("scale", "soak"):
        script = runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"))
        assert script["PAGE"].read_text() == script["page"](script["read"](script["TABLE"]))
    script = runpy.run_path(str(ROOT / "benchmarks" / "conversion.py"))
    rows = (script["read"](script[name]) for name in ("TIMES", "MEMORY"))
    assert script["PAGE"].read_text() == script["page"](*rows)
    readme = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))
    text = readme["README"].read_text()
    assert readme["quoted"](text) == text
