"""Layers and weights that Keras does not list: copies have them too, or there are none."""

import weakref
from collections import deque
from functools import cached_property, partial
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops

import kito
from kito.graph.layer import to_numpy
from kito.graph.untracked import parts_and_variables
from kito.testing import check_equivalent, randomize

register = keras.saving.register_keras_serializable("test_untracked")


@register
class Cached(layers.Layer):
    """Keras saves what stands in a cached property, but does not list it."""

    @cached_property
    def conv(self):
        return layers.Conv2D(4, 3)

    @cached_property
    def bn(self):
        return layers.BatchNormalization()

    def build(self, shape):
        self.conv.build(shape)
        self.bn.build(self.conv.compute_output_shape(shape))

    def call(self, x):
        return self.bn(self.conv(x))

    def compute_output_shape(self, shape):
        return self.conv.compute_output_shape(shape)


def convolution():
    conv, bn = layers.Conv2D(4, 3), layers.BatchNormalization()
    return lambda x: ops.relu(bn(conv(x)))


@register
class Closed(layers.Layer):
    """What a function took along."""

    def __init__(self, **options):
        super().__init__(**options)
        self.function = convolution()

    def call(self, x):
        return self.function(x)


@register
class Partial(Closed):
    def __init__(self, **options):
        super().__init__(**options)
        self.function = partial(lambda conv, x: conv(x), layers.Conv2D(4, 3))


@register
class Bound(Closed):
    def __init__(self, **options):
        super().__init__(**options)
        self.function = layers.Conv2D(4, 3).__call__


class Slots:
    __slots__ = ("__conv",)

    def __init__(self):
        self.__conv = layers.Conv2D(4, 3)

    def __call__(self, x):
        return self.__conv(x)


class Named(list):
    """A list with attributes."""


@register
class Held(Closed):
    def __init__(self, **options):
        super().__init__(**options)
        self.holder = Slots()
        named = Named()
        named.conv = layers.Conv2D(4, 3)
        self.others = SimpleNamespace(
            queue=deque([layers.Conv2D(4, 3)]), keys={layers.Conv2D(4, 3): 1}, named=named
        )

    def call(self, x):
        (key,) = self.others.keys
        return self.holder(x) + self.others.queue[0](x) + key(x) + self.others.named.conv(x)


@register
class OfAFunction(Closed):
    def __init__(self, **options):
        super().__init__(**options)
        inputs = keras.Input((8, 8, 3))
        self.function = keras.Function(inputs, layers.Conv2D(4, 3)(inputs))


@register
class InAKerasLayer(Closed):
    def __init__(self, **options):
        super().__init__(**options)
        self.function = layers.Conv2D(3, 3)
        self.function.extra = layers.Conv2D(4, 3).__call__
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.function.extra(self.function(x)) * self.scale


@register
class Unlisted(Closed):
    """In a set, of which nobody knows which layer is which."""

    def __init__(self, **options):
        super().__init__(**options)
        self.holder = SimpleNamespace(layers={layers.Conv2D(4, 3), layers.Conv2D(4, 3)})

    def call(self, x):
        return sum(layer(x) for layer in self.holder.layers)


@register
class Weighted(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.holder = SimpleNamespace(scale=keras.Variable(np.ones(3, "float32")))

    def call(self, x):
        return x * self.holder.scale


@register
class Unknown(keras.Model):
    """One that is kept whole."""

    def __init__(self):
        super().__init__()
        self._function, self.conv = convolution(), layers.Conv2D(4, 1)
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.conv(self._function(x)) * self.scale


def all_parts(model):
    return parts_and_variables(model)[0]


def all_variables(model):
    return parts_and_variables(model)[1]


def data():
    return np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")


def with_weights(model):
    """Give a model, called once, weights that no copy has by itself."""
    model(data())
    for number, variable in enumerate(all_variables(model)):
        if keras.backend.is_float_dtype(variable.dtype):
            drawn = np.random.default_rng(number).uniform(0.5, 1.5, variable.shape)
            variable.assign(drawn.astype("float32"))
    return model


@pytest.mark.parametrize(
    "kind", [Cached, Closed, Partial, Bound, Weighted, Held, OfAFunction, InAKerasLayer]
)
def test_what_keras_does_not_list_is_copied_or_the_layer_is_shared(kind):
    inputs = keras.Input((8, 8, 3))
    model = with_weights(keras.Model(inputs, layers.Dense(2)(kind()(inputs))))
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    check_equivalent(model, fast)
    shared = {id(each) for each in all_variables(model)} & {*map(id, all_variables(fast))}
    assert bool(shared) == any("is shared with the source" in note for note in report.notes)
    assert not any("parameters more" in note for note in report.notes)


def test_layers_in_a_set_are_shared():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dense(2)(Unlisted()(inputs)))
    model(data())
    report = kito.Report()
    check_equivalent(model, kito.optimize(model, report=report))
    [note] = report.notes
    assert "can't copy it: it keeps layers or weights in a set" in note


def test_a_cached_property_is_copied_and_saved(tmp_path):
    inputs = keras.Input((8, 8, 3))
    model = with_weights(keras.Model(inputs, layers.Dense(2)(Cached()(inputs))))
    report = kito.Report()
    fast = kito.optimize(model, report=report)
    assert not report.notes
    fast.save(tmp_path / "fast.keras")
    check_equivalent(model, keras.models.load_model(tmp_path / "fast.keras"))


def test_a_model_that_is_kept_whole_has_them_too():
    model = with_weights(Unknown())
    fast = kito.optimize(model)
    assert type(fast) is Unknown
    np.testing.assert_array_equal(to_numpy(fast(data())), to_numpy(model(data())))


def test_they_are_found_once():
    layer = Closed()
    conv, bn = (cell.cell_contents for cell in layer.function.__closure__)
    layer.again = SimpleNamespace(one=[conv], other={"bn": bn, "self": layer})
    layer(data())
    assert {*all_parts(layer)} == {layer, conv, bn}
    assert len(all_parts(layer)) == 3
    assert {*map(id, all_variables(layer))} == {*map(id, conv.variables + bn.variables)}


def test_what_keras_lists_is_not_among_them():
    model = randomize(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.zeros((4, 4)), np.zeros((4, 3)), verbose=0)
    assert all_parts(model) == list(model._flatten_layers())
    assert len(all_variables(model)) == len(model.variables)


@keras.saving.register_keras_serializable("test_untracked")
class Pointing(layers.Layer):
    """Has a weak reference to a layer that it holds, which Keras takes for a second one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(3)
        self.same = weakref.proxy(self.dense)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) + self.same(x)


def test_a_weak_reference_is_no_second_layer():
    inputs = keras.Input((3,))
    folding = layers.BatchNormalization()(layers.Dense(3)(inputs))
    model = randomize(keras.Model(inputs, Pointing()(folding)))
    report = kito.Report()
    check_equivalent(model, kito.optimize(model, ["dense_batchnorm"], report=report))
    assert report.applied
    assert not report.notes
