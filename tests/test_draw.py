"""Pictures of reports: what is in them, how they fold, and the command that draws them."""

import json
import os
import pathlib
import re
import sys
from collections import Counter
from xml.etree import ElementTree

import keras
import pytest
from click.testing import CliRunner
from keras import layers

import kito
from kito.cli import main
from kito.drawing.folding import folded, unfolded
from kito.drawing.picture import kinds_of
from kito.drawing.sheet import DECLINED, GONE, INSIDE, KEPT, NEW
from kito.drawing.units import units

SVG = "{http://www.w3.org/2000/svg}"
TOOLTIP = "{http://www.w3.org/1999/xlink}title"


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def small(**names):
    """A fold, a decline, a removal, and a branch."""
    inputs = keras.Input((8, 8, 4), name="picture")
    x = layers.Conv2D(4, 3, padding="same", name=names.get("conv", "conv"))(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Dropout(0.1, name="dropout")(x)
    x = layers.Add(name="add")([x, inputs])
    x = layers.Conv2D(4, 3, activation="tanh", name="late")(x)
    x = layers.BatchNormalization(name="bn_late")(x)
    return keras.Model(inputs, x, name="small")


def block(x, channels=4):
    y = layers.Conv2D(channels, 3, padding="same")(x)
    y = layers.BatchNormalization()(y)
    y = layers.ReLU()(y)
    y = layers.Dropout(0.1)(y)
    y = layers.Conv2D(channels, 3, padding="same", activation="tanh")(y)
    return layers.Add()([x, y])


def drawn(report, **options):
    report.draw("picture.svg", **options)
    return ElementTree.parse("picture.svg").getroot()


def boxes(picture):
    """The tooltip and the fill of each box that has one."""
    found = []
    for group in picture.iter(f"{SVG}a"):
        for path in group.iter(f"{SVG}path"):
            if path.get("fill") not in (None, "none"):
                found.append((group.get(TOOLTIP), path.get("fill")))
    return found


def boxes_of(picture, name):
    """The fills of the boxes of the calls of a layer, in the order in which they are drawn."""
    fills = {}
    for tooltip, fill in boxes(picture):
        first = tooltip.split("\n", 1)[0].split(" ", 1)
        if first[-1] == name:
            fills.setdefault(name, []).append(fill)
    return fills.get(name, [])


def text(picture):
    """What is written, a line each; Graphviz keeps two spaces apart with a special one."""
    return "\n".join(each.text or "" for each in picture.iter(f"{SVG}text")).replace("\xa0", " ")


def test_what_changed_is_marked():
    picture = drawn(kito.explain(small(), ["conv_batchnorm", "identities"]))
    assert boxes_of(picture, "picture") == [KEPT.fill, KEPT.fill]
    assert boxes_of(picture, "conv") == [GONE.fill]
    assert boxes_of(picture, "bn") == [GONE.fill, NEW.fill]
    assert boxes_of(picture, "dropout") == [GONE.fill]
    assert boxes_of(picture, "add") == [KEPT.fill, KEPT.fill]
    assert boxes_of(picture, "bn_late") == [DECLINED.fill, DECLINED.fill]
    reasons = [tooltip for tooltip, fill in boxes(picture) if "bn_late" in tooltip]
    assert any("late applies its activation (tanh) before bn_late" in each for each in reasons)
    shown = text(picture)
    assert "6 calls before, 4 after (33% fewer)" in shown
    for part in ("conv_batchnorm", "identities", "not conv_batchnorm", "8×8×4", "before", "after"):
        assert part in shown


def test_the_headline_has_the_parameters_of_both_models():
    model, report = small(), kito.Report()
    fast = kito.optimize(model, report=report)
    counts = f"{model.count_params():,} parameters before, {fast.count_params():,} after"
    assert counts in text(drawn(report))


def test_edges_are_those_of_each_side():
    picture = drawn(kito.explain(small(), ["conv_batchnorm", "identities"]))
    arrows = sum(each.get("class") == "edge" for each in picture.iter(f"{SVG}g"))
    # Before: picture, conv+bn, dropout, add, late, bn_late, with an edge around the first branch.
    # After: the same, but for dropout two lines, before its place and through it.
    assert arrows == 6 + 7


def test_nothing_to_rewrite():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    fills = {fill for tooltip, fill in boxes(drawn(kito.explain(model)))}
    assert fills == {KEPT.fill}


def test_optimize_draws_what_explain_draws():
    report = kito.Report()
    kito.optimize(small(), report=report)
    report.draw("optimized.svg")
    kito.explain(small()).draw("explained.svg")
    optimized, explained = pathlib.Path("optimized.svg"), pathlib.Path("explained.svg")
    assert optimized.read_bytes() == explained.read_bytes()
    assert "change" not in report.to_dict()


def test_a_rewrite_that_is_not_a_row_of_calls():
    inputs = keras.Input((8, 8, 3))
    convs = [layers.Conv2D(4, 3, padding="same", name=name)(inputs) for name in ("left", "right")]
    model = keras.Model(inputs, layers.Add(name="sum")(convs))
    picture = drawn(kito.explain(model, ["parallel_branches"]))
    assert boxes_of(picture, "left") == [GONE.fill]
    assert boxes_of(picture, "right") == [GONE.fill]
    assert boxes_of(picture, "sum") == [GONE.fill, NEW.fill]


def test_a_rewrite_inside_which_a_call_is_read_twice():
    """A stack of calls need not be a chain: silu(x) becomes x * sigmoid(x)."""
    inputs = keras.Input((8,))
    x = layers.Dense(4, name="dense")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    model = keras.Model(inputs, layers.Activation("silu", name="act")(x))
    report = kito.explain(model, ["dense_batchnorm", "silu", "linear_activation"])
    graph = report.change.graphs[0]
    _, unit = units(graph, report, report.change.touched)
    assert [call.name for call in unit.before] == ["dense", "bn", "act"]
    assert [call.kind for call in unit.after] == ["Dense", "Activation", "Multiply"]


def test_a_layer_that_moves_is_no_new_one():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.AveragePooling2D(2, name="pool")(x)
    model = keras.Model(inputs, layers.BatchNormalization(name="bn")(x))
    picture = drawn(kito.explain(model))
    [(before, _), (after, _)] = [each for each in boxes(picture) if "Pooling" in each[0]]
    assert "linear_moves_batchnorm" in before
    assert "linear_moves_batchnorm" in after
    assert boxes_of(picture, "conv")[0] == GONE.fill


@pytest.mark.parametrize("name", ["a<b&c>", "<b>", "a&lt;b", 'say "x"', "äöü 漢"])
def test_names_are_shown_as_they_are(name):
    picture = drawn(kito.explain(small(conv=name), ["conv_batchnorm"]))
    assert boxes_of(picture, name) == [GONE.fill]
    assert f"{name}  8×8×4" in text(picture)


@pytest.mark.parametrize(
    ("name", "shown"), [("bell\x07", "bell�"), ("back\\Nslash", "back∖Nslash")]
)
def test_characters_that_can_not_be_drawn(name, shown):
    picture = drawn(kito.explain(small(conv=name), ["conv_batchnorm"]))
    assert boxes_of(picture, shown) == [GONE.fill]


def test_long_names_are_shortened_in_the_box():
    name = "a_name_" * 20
    picture = drawn(kito.explain(small(conv=name), ["conv_batchnorm"]))
    assert boxes_of(picture, name) == [GONE.fill]
    assert all(len(line) < 60 for line in text(picture).splitlines() if "a_name_" in line)


def test_a_picture_is_the_same_in_another_run():
    kito.explain(small()).draw("one.svg")
    kito.explain(small()).draw("two.svg")
    assert pathlib.Path("one.svg").read_bytes() == pathlib.Path("two.svg").read_bytes()


def test_png():
    report = kito.explain(small())
    report.draw("picture.PNG")
    assert pathlib.Path("picture.PNG").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_nested_graphs_are_drawn_once():
    inputs = x = keras.Input((8, 8, 3))
    for name in ("one", "two"):
        inner = keras.Input((8, 8, 3))
        y = layers.Conv2D(3, 3, padding="same", name=f"{name}_conv")(inner)
        y = layers.BatchNormalization(name=f"{name}_bn")(y)
        x = keras.Model(inner, y, name=name)(x)
    inner = keras.Input((8, 8, 3))
    x = keras.Model(inner, layers.ReLU(name="calm_relu")(inner), name="calm")(x)
    report = kito.explain(keras.Model(inputs, x))
    picture = drawn(report)
    assert boxes_of(picture, "one") == boxes_of(picture, "two") == [INSIDE.fill, INSIDE.fill]
    assert boxes_of(picture, "calm") == [KEPT.fill, KEPT.fill]
    assert boxes_of(picture, "one_conv") == [GONE.fill]
    assert boxes_of(picture, "two_conv") == boxes_of(picture, "calm_relu") == []
    assert "inside one and 1 more like it" in text(picture)

    everything = drawn(report, everything=True)
    assert boxes_of(everything, "two_conv") == [GONE.fill]
    assert boxes_of(everything, "calm_relu") == [KEPT.fill, KEPT.fill]
    assert "more like it" not in text(everything)


def repeated(*runs):
    """Blocks in runs, with a pooling behind each run."""
    inputs = x = keras.Input((64, 64, 4))
    for times in runs:
        for _ in range(times):
            x = block(x)
        x = layers.MaxPooling2D(2, 1)(x)
    return keras.Model(inputs, x)


def folding_of(model, rules=None):
    report = kito.explain(model, rules)
    [graph] = report.change.graphs
    parts = units(graph, report, report.change.touched)
    return parts, folded(parts, kinds_of({(): parts}))


def test_repeated_blocks_are_drawn_once():
    parts, folding = folding_of(repeated(3, 5, 2))
    again = [item for item in folding.items if item.is_again]
    assert [item.times for item in again] == [5, 2]
    assert len(folding.frames) == 1
    [first] = folding.frames.values()
    assert {folding.items[number].times for number in first} == {3}
    # Every unit is shown by one item, whatever is folded.
    assert sorted(folding.item_of) == list(range(len(parts)))
    calls = Counter(len(parts[unit].before) for unit in folding.item_of)
    assert sum(size * times for size, times in calls.items()) == 1 + 10 * 6 + 3

    shown = text(drawn(kito.explain(repeated(3, 5, 2))))
    assert "block 1 ×3" in shown
    assert "block 1 again ×5" in shown
    assert "30 calls" in shown  # before; one block has six of them


def test_blocks_that_are_rewritten_otherwise_are_not_the_same():
    inputs = x = keras.Input((32, 32, 4))
    for index in range(8):
        y = layers.Conv2D(4, 3, padding="same", activation="tanh" if index == 4 else None)(x)
        y = layers.BatchNormalization()(y)
        y = layers.ReLU()(y)
        y = layers.Conv2D(4, 3, padding="same", activation="tanh")(y)
        x = layers.Add()([x, y])
        x = layers.MaxPooling2D(2, 1, padding="same")(x)
    _, folding = folding_of(keras.Model(inputs, x), ["conv_batchnorm", "linear_activation"])
    assert [item.times for item in folding.items if item.is_again] == [3]
    [first] = folding.frames.values()
    assert {folding.items[number].times for number in first} == {4}


def test_unchanged_stretches_become_one_box():
    inputs = x = keras.Input((8,))
    for index in range(30):
        x = layers.Dense(8, activation="tanh", name=f"dense_{index}")(x)
    x = layers.BatchNormalization(name="bn")(layers.Dense(8, name="last")(x))
    report = kito.explain(keras.Model(inputs, x))
    shown = text(drawn(report))
    assert "29 calls unchanged" in shown  # all but the input, and what the fold reads
    assert shown.count("dense_") < 10
    assert text(drawn(report, everything=True)).count("dense_") >= 58


def test_a_thousand_layers_are_readable_and_all_can_be_drawn():
    report = kito.explain(repeated(*[8] * 21))
    picture = drawn(report)
    assert report.change.calls[0] > 1000
    assert len(boxes(picture)) < 120
    parts = units(report.change.graphs[0], report, report.change.touched)
    assert len(unfolded(parts).items) == len(parts)


def test_model_explorer():
    inputs = keras.Input((8, 8, 4))
    inner = small()
    report = kito.explain(keras.Model(inputs, inner(inputs), name="outer"), ["conv_batchnorm"])
    report.draw("graph.json")
    document = json.loads(pathlib.Path("graph.json").read_text())
    assert document["label"] == "outer"
    graphs = {graph["id"]: graph["nodes"] for graph in document["graphs"]}
    assert list(graphs) == ["before", "after", "before/small", "after/small"]
    for nodes in graphs.values():
        ids = [node["id"] for node in nodes]
        assert len({*ids}) == len(ids)
        assert {e["sourceNodeId"] for node in nodes for e in node["incomingEdges"]} <= {*ids}
        assert all({*node.get("subgraphIds", ())} <= {*graphs} for node in nodes)
    before, after = (
        {
            {each["key"]: each["value"] for each in node["attrs"]}["name"]: node
            for node in graphs[f"{side}/small"]
        }
        for side in ("before", "after")
    )
    assert before.keys() - after.keys() == {"conv"}
    assert before["bn"]["id"] == after["bn"]["id"]
    assert after["bn"]["label"] == "Conv2D"
    assert after["bn"]["style"]["backgroundColor"] == NEW.fill
    assert {"key": "rule", "value": "conv_batchnorm"} in after["bn"]["attrs"]
    assert [e["targetNodeInputId"] for e in after["add"]["incomingEdges"]] == ["0", "1"]


def test_bad_files():
    report = kito.explain(small())
    with pytest.raises(kito.InputError, match=r"'picture.gif' is not named `.svg`, `.png`"):
        report.draw("picture.gif")
    with pytest.raises(kito.InputError, match="can't be written: No such file"):
        report.draw("missing/picture.svg")
    with pytest.raises(kito.InputError, match=r"no model to draw.*kito.explain"):
        kito.Report().draw("picture.svg")
    assert os.listdir() == []


def test_without_pygraphviz(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(kito.InputError, match=r"pip install 'kito\[draw\]'"):
        kito.explain(small()).draw("picture.svg")


def run(*arguments):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
class TestCommand:
    @pytest.fixture(autouse=True)
    def saved(self):
        small().save("m.keras")

    def test_draws_next_to_where_it_runs(self):
        result = run("draw", "m.keras")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == "m.svg is written: m.keras before and after.\n"
        assert "conv_batchnorm" in text(ElementTree.parse("m.svg").getroot())

    def test_options(self):
        result = run("draw", "m.keras", "-o", "p.svg", "--rules", "identities", "--all", "--json")
        document = json.loads(result.stdout)
        assert document["output"] == "p.svg"
        assert [each["rule"] for each in document["report"]["applied"]] == ["identities"]
        shown = text(ElementTree.parse("p.svg").getroot())
        assert "identities" in shown
        assert "conv_batchnorm" not in shown

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["m.keras", "-o", "m.gif"], "'m.gif' is not named"),
            (["m.keras", "-o", "there.svg"], "'there.svg' exists.* --force"),
            (["m.keras", "-o", "no/m.svg"], "of 'no/m.svg' does not exist. Create it"),
            (["none.keras"], "'none.keras' does not exist"),
            (["m.keras", "--target", "tpu"], "no target 'tpu'"),
        ],
    )
    def test_refuses(self, arguments, expected):
        pathlib.Path("there.svg").write_text("old")
        before = sorted(os.listdir())
        result = run("draw", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert re.match(f"Error: .*{expected}", result.stderr)
        assert result.stderr.count("\n") == 1
        assert sorted(os.listdir()) == before
        assert pathlib.Path("there.svg").read_text() == "old"

    def test_force(self):
        pathlib.Path("there.svg").write_text("old")
        assert run("draw", "m.keras", "-o", "there.svg", "--force").exit_code == 0
        assert pathlib.Path("there.svg").read_text() != "old"
