"""Finding rules: built-in, of plugins, by name; and what goes wrong."""

from importlib import metadata

import keras
import pytest
from keras import layers
from keras.layers import BatchNormalization

import kito
from kito import discovery, plugins
from kito.engines.keras import KerasEngine
from kito.hookspecs import HOOKS
from kito.rules.dense import dense_batchnorm
from kito.testing import check_rewrites

EXAMPLE = "example_subsampling_conv"
HOOKS_DIFFER = "broken-plugin 0.1 is left out: its hooks are not those of kito "
REMEDY = "Install versions of kito and broken-plugin that go together"


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

    def __init__(self, name, plugin, distribution="broken-plugin", version="0.1", requires=None):
        self.name, self.plugin, self.value = name, plugin, f"{name}:value"
        about = {"name": distribution, "version": version, "requires": requires}
        self.dist = type("Distribution", (), about)

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


def rule_named(name):
    return kito.rule(kito.chain(conv=layers.Conv2D), name=name)(lambda conv: conv.evolve())


def engine_named(name):
    engine = KerasEngine()
    engine.name = name
    return engine


def engine_plugin(*engines):
    class Plugin:
        @kito.hookimpl
        def register_engines(self):
            return engines

    return Plugin()


def install(monkeypatch, *points, into="kito"):
    real = {group: list(metadata.entry_points(group=group)) for group in HOOKS}
    real[into] += points
    monkeypatch.setattr(metadata, "entry_points", lambda group: real[group])


def installed_kito(monkeypatch, version):
    """The version of kito that plugins meet; the installed one is made for another."""
    monkeypatch.setenv("KITO_NO_PLUGINS", "kito-example")
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "kito" else real(name))


def test_the_built_in_rules_come_through_the_entry_point():
    registered = plugins.registry()["conv_batchnorm"]
    assert registered.origin == f"kito {metadata.version('kito')}"


def test_a_plugin_that_is_installed_is_found():
    # examples/kito-example, which `nox -s tests` installs
    registered = plugins.registry()[EXAMPLE]
    assert registered.origin == f"kito-example {metadata.version('kito-example')}"
    assert registered.rule not in plugins.select(None)


def test_a_rule_that_is_not_default_is_used_when_asked_for():
    row = [layers.MaxPooling2D(1, strides=2), layers.Conv2D(3, 1)]
    check_rewrites(keras.Sequential([keras.Input((9, 9, 2)), *row]), [EXAMPLE], times=1)


def test_a_name_that_switches_nothing_off_is_told(monkeypatch, fresh):
    monkeypatch.setenv("KITO_NO_PLUGINS", "kito-exmaple")
    with pytest.warns(UserWarning, match=r"has 'kito-exmaple', .*Did you mean 'kito-example'\?"):
        assert EXAMPLE in plugins.registry()


def test_a_plugin_that_can_not_be_imported_is_named_and_the_rest_works(monkeypatch, fresh):
    install(monkeypatch, Point("bad", ImportError("no module named 'nowhere'")))
    with pytest.warns(UserWarning, match=r"'bad' of broken-plugin 0.1 is left out: ImportError"):
        assert "conv_batchnorm" in plugins.registry()


def test_a_plugin_whose_hook_has_other_parameters_is_named(monkeypatch, fresh):
    class Plugin:
        @kito.hookimpl
        def register_rules(self, something_else):
            return []

    install(monkeypatch, Point("bad", Plugin()))
    with pytest.warns(UserWarning, match=f"{HOOKS_DIFFER}.*something_else.*{REMEDY}"):
        assert "conv_batchnorm" in plugins.registry()


def test_a_plugin_with_an_unknown_hook_is_left_out_as_a_whole(monkeypatch, fresh):
    class Plugin:
        @kito.hookimpl
        def register_rules(self):
            return [rule_named("other")]

        @kito.hookimpl
        def register_ruels(self):
            return []

    install(monkeypatch, Point("bad", Plugin()))
    with pytest.warns(UserWarning, match=f"{HOOKS_DIFFER}.*'register_ruels'.*{REMEDY}"):
        assert "other" not in plugins.registry()


def test_a_plugin_may_have_a_hook_that_only_newer_versions_of_kito_have(monkeypatch, fresh):
    class Plugin:
        @kito.hookimpl
        def register_rules(self):
            return [rule_named("other")]

        @kito.hookimpl(optionalhook=True)
        def register_targets(self):
            return []

    install(monkeypatch, Point("good", Plugin()))
    assert "other" in plugins.registry()


@pytest.mark.parametrize("brings", [object(), engine_plugin()])
def test_a_plugin_without_the_hook_of_its_group_is_named(monkeypatch, fresh, brings):
    install(monkeypatch, Point("bad", brings))
    with pytest.warns(UserWarning, match=r"it has no function register_rules that is marked with"):
        assert "conv_batchnorm" in plugins.registry()


def test_a_plugin_whose_hook_fails_is_named_and_the_rest_works(monkeypatch, fresh):
    class Plugin:
        @kito.hookimpl
        def register_rules(self):
            raise OSError("no table of rules")

    install(monkeypatch, Point("bad", Plugin()))
    with pytest.warns(UserWarning, match="broken-plugin 0.1 is left out: OSError: no table of"):
        assert "conv_batchnorm" in plugins.registry()


# versions


@pytest.mark.parametrize("group", HOOKS)
def test_a_plugin_for_another_version_of_kito_is_left_out(monkeypatch, fresh, group):
    made = plugin(rule_named("new")) if group == "kito" else engine_plugin(engine_named("new"))
    newer = Point("newer", made, "newer-plugin", "3.0", ["keras>=3.14", "Kito<0.8,>=0.7"])
    install(monkeypatch, newer, into=group)
    installed_kito(monkeypatch, "0.6.2")
    with pytest.warns(UserWarning, match="is left out") as warned:
        found = plugins.registry() if group == "kito" else discovery.engines()
    assert "new" not in found
    [message] = {str(each.message) for each in warned}
    assert "'newer' of newer-plugin 3.0 is left out: it is made for kito<0.8,>=0.7" in message
    assert "and this is kito 0.6.2" in message
    assert "Install versions of kito and newer-plugin that go together" in message


@pytest.mark.parametrize(
    "requires",
    [
        None,
        ["keras>=99"],
        ["kito"],
        ["Kito>=0.6,<0.8"],
        ["kito[testing]>=99; extra == 'test'"],
        ["kito>=99; python_version < '3.0'"],
    ],
)
@pytest.mark.parametrize("version", ["0.7.1", "0.7.2.dev3"])
def test_a_plugin_for_this_version_of_kito_is_used(monkeypatch, fresh, requires, version):
    new = Point("new", plugin(rule_named("new")), "new-plugin", "3.0", requires)
    install(monkeypatch, new)
    installed_kito(monkeypatch, version)
    assert plugins.registry()["new"].origin == "new-plugin 3.0"


# switching off


@pytest.mark.parametrize(
    "name", ["broken", "broken-plugin", "Broken_Plugin", "kito-example, broken"]
)
def test_a_plugin_can_be_switched_off(monkeypatch, fresh, name):
    install(monkeypatch, Point("broken", ImportError("it would warn")))
    monkeypatch.setenv("KITO_NO_PLUGINS", name)
    assert "conv_batchnorm" in plugins.registry()


def test_the_built_in_rules_can_be_switched_off_too(monkeypatch, fresh):
    monkeypatch.setenv("KITO_NO_PLUGINS", "builtin")
    assert "conv_batchnorm" not in plugins.registry()
    assert EXAMPLE in plugins.registry()


# names


def test_a_plugin_may_have_several_entry_points(monkeypatch, fresh):
    points = [Point(name, plugin(rule_named(name)), "large-plugin", "2.0") for name in ("a", "b")]
    install(monkeypatch, *points)
    origins = {plugins.registry()[name].origin for name in ("a", "b")}
    assert origins == {"large-plugin 2.0"}


def test_a_plugin_that_shadows_a_built_in_rule_is_an_error(monkeypatch, fresh):
    install(monkeypatch, Point("other", plugin(dense_batchnorm), "other-plugin", "2.0"))
    with pytest.raises(kito.PluginError) as raised:
        plugins.registry()
    kito_version = f"kito {metadata.version('kito')}"
    assert str(raised.value) == (
        f"{kito_version} and other-plugin 2.0 both bring the rule 'dense_batchnorm'. Rename "
        "that of other-plugin, or switch the plugin off: KITO_NO_PLUGINS=other-plugin."
    )
    monkeypatch.setenv("KITO_NO_PLUGINS", "other-plugin")
    discovery.manager.cache_clear()
    assert plugins.registry()["dense_batchnorm"].origin == kito_version


@pytest.mark.parametrize("group", HOOKS)
def test_two_plugins_of_one_name_are_an_error_that_names_both(monkeypatch, fresh, group):
    make = (
        (lambda: plugin(rule_named("same")))
        if group == "kito"
        else (lambda: engine_plugin(engine_named("same")))
    )
    points = [Point(each, make(), f"{each}-plugin", "2.0") for each in ("one", "two")]
    install(monkeypatch, *points, into=group)
    with pytest.raises(kito.PluginError) as raised:
        plugins.registry() if group == "kito" else discovery.engines()
    what = "rule" if group == "kito" else "engine"
    assert str(raised.value) == (
        f"one-plugin 2.0 and two-plugin 2.0 both bring the {what} 'same'. Rename one of them, "
        "or switch the plugin off: KITO_NO_PLUGINS=one-plugin or KITO_NO_PLUGINS=two-plugin."
    )


def test_a_plugin_that_has_a_name_twice_is_an_error(monkeypatch, fresh):
    install(monkeypatch, Point("a", plugin(rule_named("same"), rule_named("same"))))
    with pytest.raises(kito.PluginError, match=r"broken-plugin 0.1 brings the rule 'same' twice"):
        plugins.registry()


def test_a_plugin_that_registers_something_else_is_named(monkeypatch, fresh):
    install(monkeypatch, Point("odd", plugin("conv_batchnorm"), "odd-plugin", "3"))
    named = r"odd-plugin 3 registers 'conv_batchnorm'.*=odd-plugin\."
    with pytest.raises(kito.PluginError, match=named):
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
    with pytest.raises(kito.UnknownRuleError, match="There are: add_batchnorm, affine_affine, "):
        plugins.select(["zzz"])
    with pytest.raises(kito.UnknownRuleError, match="neither a rule nor the name of one"):
        plugins.select([BatchNormalization])


def test_two_given_rules_of_one_name_are_an_error():
    twin = kito.rule(dense_batchnorm.pattern, name="dense_batchnorm")(lambda dense, bn: dense.layer)
    with pytest.raises(kito.PluginError, match="two of the given rules have the name"):
        plugins.select([dense_batchnorm, twin])
