"""What `kito rules` and `kito rule NAME` show, and the reasons that are read from the code."""

import fnmatch
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from keras.layers import Conv2D

import kito
from kito import catalogue, chain, plugins, rule, rules
from kito.cli import main
from kito.definition import TARGETS
from kito.reasons import reasons
from tests.written import declines

LARGEST = 3


def run(*arguments):
    return CliRunner().invoke(main, arguments)


def check_size(conv):
    if conv.filters > LARGEST:
        raise kito.Decline(f"{conv.name} has more than {LARGEST} filters")


def check_twice(conv):
    check_size(conv)
    check_again(conv)


def check_again(conv):
    check_twice(conv)


TABLE = {Conv2D: check_twice}


class Size:
    """What a rule may ask by a method, with a text of its own."""

    def __init__(self, conv):
        self.name = conv.name

    def check(self, what):
        raise kito.Decline(f"{self.name} has no {what}, but {what.upper()}")


def no_reason(conv):
    if conv.use_bias:
        return "is not said, as nothing is declined with it"
    return None


@rule(chain(conv=Conv2D), default=("onnx", "jax"))
def with_helpers(conv):
    """Do nothing.

    But say so.
    """
    if conv.use_bias:
        raise kito.Decline("no: " + conv.name)
    if conv.groups > 1:
        raise kito.Decline(reason_of(conv, "groups"))
    if obstacle := reason_of(conv, "holes"):
        raise kito.Decline(obstacle)
    size = Size(conv)
    size.check("width")
    no_reason(conv)
    TABLE[conv.layer.cls](conv)
    return conv.layer


def reason_of(conv, what):
    if conv.strides:
        return f"{conv.name} has {what}"
    return None


def test_reasons_are_those_of_the_rule_and_of_what_it_calls():
    padding = plugins.registry()["padding_padding"].rule
    assert reasons(padding.function) == [
        "`first` pads other axes than `second`",
        "`second` turns `first.output.dtype` into `second.output.dtype`",
    ]


def test_a_reason_that_is_put_together_is_shown_as_code_or_not_at_all():
    assert reasons(with_helpers.function) == [
        "`conv` has groups",
        "`conv` has holes",
        "`size` has no width, but `what.upper()`",
        "`conv` has more than 3 filters",
    ]


def test_every_reason_of_the_built_in_rules_is_shown():
    shown = {
        reason
        for each in plugins.registry().values()
        for reason in reasons(each.rule.function)
        if each.origin.startswith("kito ")
    }
    sources = [*Path(rules.__file__).parent.glob("*.py")]
    written = [text for source in sources for text in declines(source.read_text())]
    assert len(written) > 50
    assert [text for text in written if not fnmatch.filter(shown, text)] == []


def test_tables_of_functions_and_functions_of_modules_are_looked_into():
    found = reasons(plugins.registry()["affine_linear"].rule.function)
    assert "`node` has the interpolation `interpolation`" in found
    found = reasons(plugins.registry()["layer_scale"].rule.function)
    assert "`einsum` has the equation `einsum.equation`, which kito can't read" in found


@pytest.mark.parametrize("name", plugins.registry())
def test_no_reason_is_empty_or_twice_there(name):
    found = reasons(plugins.registry()[name].rule.function)
    assert len(set(found)) == len(found)
    assert all(re.sub("`[^`]*`", "", reason).strip() for reason in found)


def test_without_source_there_are_no_reasons():
    namespace = {"Decline": kito.Decline}
    exec("def at_a_prompt(conv):\n    raise Decline('no')", namespace)
    assert reasons(namespace["at_a_prompt"]) == []
    assert reasons(print) == []


@pytest.mark.parametrize(
    ("default", "said"),
    [
        (True, "all targets"),
        (False, "none: name it"),
        (("onnx", "jax"), "jax, onnx"),
        ([target for target in TARGETS if target != "torch"], "not torch"),
    ],
)
def test_the_targets_of_a_rule_in_words(default, said):
    made = rule(chain(conv=Conv2D), default=default)(lambda conv: conv.layer)
    assert catalogue.default_of(made) == said


def test_the_list_names_each_rule_and_its_distribution():
    shown = run("rules").stdout
    origins = {each.origin for each in plugins.registry().values()}
    assert len(origins) > 1
    for text in ("conv_batchnorm", "example_subsampling_conv", "all targets", *origins):
        assert text in shown


def test_the_page_of_a_rule():
    shown = run("rule", "conv_batchnorm").stdout
    for text in (
        "Fold a BatchNormalization into the convolution before it.",
        "Conv1D | Conv2D | Conv3D -> BatchNormalization",
        "scale * (conv(x, kernel) + bias) + shift = conv(x, kernel * scale)",
        "after applies its activation (activation) before bn",
        plugins.registry()["conv_batchnorm"].origin,
        "without it",
        "--rules conv_batchnorm",
    ):
        assert text in shown
    assert "only if named" not in shown
    assert "KITO_NO_PLUGINS" not in shown


def test_the_page_of_a_rule_of_a_plugin_says_how_to_switch_it_off():
    shown = run("rule", "example_subsampling_conv").stdout
    assert "KITO_NO_PLUGINS=kito-example" in shown
    assert "only if named on tensorflow, jax, torch, onnx, openvino, litert" in shown
    assert "with the default rules" in shown
    assert "without it" not in shown


def test_the_page_has_all_of_the_docstring(monkeypatch):
    registered = {"with_helpers": plugins.Registered(with_helpers, "test 1.0")}
    monkeypatch.setattr(catalogue, "registry", lambda: registered)
    monkeypatch.setattr(plugins, "registry", lambda: registered)
    page = catalogue.page(catalogue.one_rule("with_helpers"))
    for text in ("Do nothing.\n\nBut say so.", "**default on** jax, onnx\n", "`conv` has more"):
        assert text in page
    assert "**only if named on** tensorflow, torch, openvino, litert\n" in page


def test_the_page_as_json():
    document = json.loads(run("rule", "gelu", "--json").stdout)
    [listed] = [
        each
        for each in json.loads(run("rules", "--json").stdout)["rules"]
        if each["name"] == "gelu"
    ]
    assert listed.items() <= document.items()
    assert document["default"] == ["onnx"]
    assert document["module"] == "kito.rules.gelu"
    assert document["pattern"] == str(plugins.registry()["gelu"].rule.pattern)
    assert "erf" in document["algebra"]


def test_a_rule_that_there_is_not():
    failed = run("rule", "conv_batchnrom")
    assert failed.exit_code == 2
    assert failed.stdout == ""
    assert "Did you mean 'conv_batchnorm'?" in failed.stderr
