"""Timing a model in all that can run it."""

import json
from contextlib import nullcontext
from statistics import median

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

from kito import bench
from kito.bench import BY_HAND, PREDICTOR, measure
from kito.cli import main
from kito.testing import randomize
from kito.turns import in_turns
from kito.ways import KERAS, PREDICT, Way

pytestmark = pytest.mark.filterwarnings("ignore:.*np.object:FutureWarning")


def network():
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs)))
    return randomize(keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))))


@pytest.fixture(scope="module")
def measured():
    return measure(network(), (1, 3), seconds=0.01)


def test_every_way_has_a_row_for_each_batch_size(measured):
    keys = [(each.way, each.optimized, each.batch_size) for each in measured.timings]
    assert len(set(keys)) == len(keys)
    ways = {(way, optimized) for way, optimized, _ in keys}
    assert {(KERAS, False), (KERAS, True), (PREDICT, False), (PREDICTOR, True)} <= ways
    assert {(way, optimized) for way, optimized, size in keys if size == 3} == ways


def test_what_ran_gave_the_answers_of_keras_and_the_rest_has_a_reason(measured):
    for each in measured.timings:
        if each.seconds:
            assert len(each.seconds) >= bench.LEAST
            low, high = each.quartiles
            assert low <= each.median <= high
            if each.exact:
                assert each.difference < 1e-4
                assert each.mean_difference <= each.difference
        else:
            assert each.reason


def test_the_predictor_is_one_of_kitos_engines(measured):
    for each in measured.timings:
        assert (each.chosen is not None) == (each.way in (PREDICTOR, BY_HAND))
        if each.chosen:
            same = [t for t in measured.timings if (t.way, t.optimized) == (each.chosen, True)]
            assert same


def test_what_is_compared_takes_more_turns(measured):
    for size in (1, 3):
        these = {(e.way, e.optimized): e for e in measured.timings if e.batch_size == size}
        most = max(len(each.seconds) for each in these.values())
        sources = [e for e in these.values() if e.exact and not e.optimized and e.seconds]
        fastest = min(sources, key=lambda each: median(each.seconds[: bench.LEAST]))
        compared = [these[KERAS, False], these[PREDICTOR, True], these[BY_HAND, True], fastest]
        assert {len(each.seconds) for each in compared} == {most}
        assert min(len(each.seconds) for each in these.values() if each.seconds) < most


def test_what_a_way_does_first_is_surrounded():
    seen = []

    def around(way, step):
        seen.append((way.name, way.optimized, step))
        return nullcontext()

    timings = measure(network(), (2,), seconds=0.01, around=around).timings
    ran = {(each.way, each.optimized) for each in timings if each.seconds and not each.chosen}
    assert {(name, optimized) for name, optimized, step in seen if step == "run"} >= ran


def test_the_tables_have_the_fastest_first(measured):
    for table, size in zip(measured.tables(), (1, 3), strict=True):
        assert table.title == f"batches of {size}"
        times = [float(row[2]) for row in table.rows if row[2]]
        assert times == sorted(times)
    assert measured.to_dict()["timings"][0]["way"] == KERAS


def test_what_fails_or_is_hopeless_is_left_out_of_the_larger_batches(monkeypatch):
    model = network()
    calls = []

    def fail():
        raise ValueError("no such operation\nand more")

    def slow():
        def run(inputs):
            calls.append(len(inputs))
            for _ in range(3 * bench.HOPELESS):
                answer = model.predict_on_batch(inputs)
            return answer

        return run

    real = bench.ways

    def with_two_more(*arguments):
        found = [way for way in real(*arguments) if way.name == KERAS]
        return [*found, Way("broken", False, True, fail), Way("slow", False, True, slow)]

    monkeypatch.setattr(bench, "ways", with_two_more)
    found = {(t.way, t.optimized, t.batch_size): t for t in measure(model, (1, 2)).timings}
    assert found["broken", False, 1].reason == "ValueError: no such operation"
    assert found["slow", False, 1].seconds
    assert "times as long as Keras on batches of 1" in found["slow", False, 2].reason
    assert set(calls) == {1}


def test_a_wrong_answer_shows(monkeypatch):
    model = network()

    def wrong():
        return lambda inputs: np.zeros_like(model.predict_on_batch(inputs))

    real = bench.ways
    monkeypatch.setattr(
        bench,
        "ways",
        lambda *arguments: [
            *(way for way in real(*arguments) if way.name == KERAS),
            Way("wrong", False, True, wrong),
        ],
    )
    [timing] = [t for t in measure(model, (2,), seconds=0.01).timings if t.way == "wrong"]
    assert timing.difference == pytest.approx(1.0)


def test_what_runs_before_changes_and_is_the_same_each_time():
    def order_of(turns):
        order = []
        runs = {name: lambda n=name: order.append(n) for name in "abcd"}
        times = in_turns(runs, 0, least=turns)
        assert {name: len(each) for name, each in times.items()} == dict.fromkeys("abcd", turns)
        return order

    order = order_of(20)
    turns = [order[start : start + 4] for start in range(0, len(order), 4)]
    assert turns[0] == [*"abcd"]  # not timed
    assert all(sorted(turn) == [*"abcd"] for turn in turns)
    assert {turn[turn.index("b") - 1] for turn in turns if turn[0] != "b"} == {*"acd"}
    assert order_of(20) == order


def test_the_pages_are_made_of_the_rows():
    import bench_pages
    import readme
    from rows import read

    rows = read(bench_pages.TABLE)
    assert bench_pages.PAGE.read_text() == bench_pages.page(rows)
    conversions = read(bench_pages.CONVERSIONS)
    assert bench_pages.ORIGINAL_PAGE.read_text() == bench_pages.original_page(rows, conversions)
    assert readme.quoted(readme.README.read_text()) == readme.README.read_text()


def test_the_command_prints_one_document(tmp_path):
    path = tmp_path / "model.keras"
    network().save(path)
    arguments = ["bench", str(path), "--batch-size", "2", "--seconds", "0.01", "--json"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["source"] == str(path)
    assert {each["batch_size"] for each in document["timings"]} == {2}
    assert not document["weakness"]
