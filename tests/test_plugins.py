"""Finding rules: built-in, of plugins, by name; and what goes wrong."""

from importlib import metadata

import keras
import pytest
from keras.layers import BatchNormalization, Dense

import kito
from kito import discovery, plugins
from kito.rules.dense import dense_batchnorm
from kito.testing import check_declines, check_rewrites


@pytest.fixture
def fresh():
    """Plugins are looked for again, in this test and after it."""
    caches = (discovery.manager, plugins.registry)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


class Point:
    """An entry point that gives `plugin`, or raises it."""

    def __init__(self, name, plugin, distribution="broken-plugin", version="0.1"):
        self.name, self.plugin, self.value = name, plugin, f"{name}:value"
        self.dist = type("Distribution", (), {"name": distribution, "version": version})

    def load(self):
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


def plugin(*rules):
    class Plugin:
        @kito.hookimpl
        def register_rules(self):
            return rules

    return Plugin()


def install(monkeypatch, *points):
    real = list(metadata.entry_points(group="kito"))
    monkeypatch.setattr(metadata, "entry_points", lambda group: [*real, *points])


def test_the_built_in_rules_come_through_the_entry_point():
    registered = plugins.registry()["conv_batchnorm"]
    assert registered.origin == f"kito {metadata.version('kito')}"


def test_a_plugin_that_is_installed_is_found():
    # tests/example_plugin, which `nox -s tests` installs
    registered = plugins.registry()["example_dense_dense"]
    assert registered.origin == "kito-example-plugin 1.2.3"
    assert registered.rule not in plugins.select(None)


def test_a_rule_that_is_not_default_is_used_when_asked_for():
    def model_of(activation, units):
        first = Dense(units, activation=activation)
        return keras.Sequential([keras.Input((8,)), first, Dense(8)])

    check_rewrites(model_of(None, 8), ["example_dense_dense"], times=1)
    check_declines(model_of("relu", 8), ["example_dense_dense"], reason="has an activation")
    check_declines(model_of(None, 2), ["example_dense_dense"], reason="larger than its factors")


def test_a_plugin_that_can_not_be_imported_is_named_and_the_rest_works(monkeypatch, fresh):
    install(monkeypatch, Point("bad", ImportError("no module named 'nowhere'")))
    with pytest.warns(UserWarning, match=r"'bad' of broken-plugin 0.1 is left out: ImportError"):
        assert "conv_batchnorm" in plugins.registry()


def test_a_plugin_with_an_unknown_hook_is_named(monkeypatch, fresh):
    class Plugin:
        @kito.hookimpl
        def register_rules(self, something_else):
            return []

    install(monkeypatch, Point("bad", Plugin()))
    with pytest.warns(UserWarning, match="broken-plugin 0.1 is left out"):
        assert "conv_batchnorm" in plugins.registry()


@pytest.mark.parametrize("name", ["broken", "broken-plugin", "other, broken"])
def test_a_plugin_can_be_switched_off(monkeypatch, fresh, name):
    install(monkeypatch, Point("broken", ImportError("it would warn")))
    monkeypatch.setenv("KITO_NO_PLUGINS", name)
    assert "conv_batchnorm" in plugins.registry()


def test_the_built_in_rules_can_be_switched_off_too(monkeypatch, fresh):
    monkeypatch.setenv("KITO_NO_PLUGINS", "builtin")
    assert "conv_batchnorm" not in plugins.registry()
    assert "example_dense_dense" in plugins.registry()


def test_two_rules_of_one_name_are_an_error_that_names_both(monkeypatch, fresh):
    install(monkeypatch, Point("other", plugin(dense_batchnorm), "other-plugin", "2.0"))
    with pytest.raises(kito.PluginError, match=r"kito .* and other-plugin 2.0 both have a rule"):
        plugins.registry()


def test_a_plugin_that_registers_something_else_is_named(monkeypatch, fresh):
    install(monkeypatch, Point("odd", plugin("conv_batchnorm"), "odd-plugin", "3"))
    with pytest.raises(kito.PluginError, match="odd-plugin 3 registers 'conv_batchnorm'"):
        plugins.registry()


def test_the_order_of_plugins_does_not_matter(monkeypatch, fresh):
    before = [rule.name for rule in plugins.select(None)]
    real = list(metadata.entry_points(group="kito"))
    monkeypatch.setattr(metadata, "entry_points", lambda group: real[::-1])
    discovery.manager.cache_clear()
    plugins.registry.cache_clear()
    assert [rule.name for rule in plugins.select(None)] == before


def test_rules_are_given_as_names_rules_or_both():
    mixed = plugins.select(["conv_batchnorm", dense_batchnorm])
    assert [rule.name for rule in mixed] == ["conv_batchnorm", "dense_batchnorm"]
    assert plugins.select("dense_batchnorm") == [dense_batchnorm]
    assert plugins.select([]) == []


def test_an_unknown_rule_suggests_the_nearest():
    with pytest.raises(kito.UnknownRuleError, match="Did you mean 'conv_batchnorm'"):
        plugins.select(["conv_batchnrom"])
    with pytest.raises(kito.UnknownRuleError, match="There are: affine_affine, "):
        plugins.select(["zzz"])
    with pytest.raises(kito.UnknownRuleError, match="neither a rule nor the name of one"):
        plugins.select([BatchNormalization])


def test_two_given_rules_of_one_name_are_an_error():
    twin = kito.rule(dense_batchnorm.pattern, name="dense_batchnorm")(lambda dense, bn: dense.layer)
    with pytest.raises(kito.PluginError, match="two of the given rules have the name"):
        plugins.select([dense_batchnorm, twin])


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
def test_the_rule_of_the_example_plugin(biases):
    row = [Dense(n, use_bias=bias) for n, bias in zip((6, 3), biases, strict=True)]
    check_rewrites(keras.Sequential([keras.Input((4,)), *row]), ["example_dense_dense"], times=1)
