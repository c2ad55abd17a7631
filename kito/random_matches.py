"""Random Keras models that contain what a pattern matches: `kito.testing.validate` draws them.

Calls of the classes in the pattern are made one after the other, each on what the one before gave,
and named as the pattern names them. Around them may stand another layer, and an inner tensor may be
an output of the model.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
from hypothesis.strategies import DrawFn
from keras import layers

from kito.definition import Chain, Layer, Node, Pattern, Ref, where
from kito.definition import Tensor as KnownTensor
from kito.graph.guards import MERGES
from kito.graph.keras_internals import sublayers
from kito.graph.lift import lift
from kito.graph.pattern import Branches, Link, Readers
from kito.random_class_layers import Class, Made, Maker
from kito.random_layers import (
    CHANNELS,
    Tensor,
    activation,
    affine,
    dense,
    noise,
    rarely,
)
from kito.random_models import POLICIES, SIZES, Tensors
from kito.testing import randomize

# How often a call is drawn anew that does not meet the condition of its link, and a model in which
# the pattern does not match.
ATTEMPTS = 10
# Channels enough for a rule that treats wide tensors in another way.
WIDE = 24
AROUND = (activation, affine, dense, noise)
# How the statistics of a normalization may be told from any: what some rules ask for.
STATISTICS = ("any", "no shift", "positive", "no shift, positive", "the same for all channels")

Part = Chain | Branches | Readers


class NoLayerError(LookupError):
    """It is not known how a layer of some class is drawn."""


@dataclass(frozen=True, repr=False)
class Plan:
    """What models are drawn for.

    Attributes:
        pattern: has a match in each of them.
        makers: how a layer of each class is drawn.
        draw_match: gives the last tensors of a match.
        errors: has what Keras said of the latest call that it could not make.
    """

    pattern: Pattern
    makers: Mapping[Class, Maker]
    draw_match: Callable[[Sketch, Any], Tensors]
    errors: list[Exception] = field(default_factory=list)


@st.composite
def matches(draw: DrawFn, plan: Plan) -> keras.Model:
    """Built models with random weights that contain a match."""
    policy, state = keras.config.dtype_policy(), random.getstate()
    keras.config.set_dtype_policy(draw(st.sampled_from(POLICIES)))
    try:
        for attempt in range(ATTEMPTS):
            sketch = Sketch(draw, plan, axis=1 if is_channels_first() else -1)
            model = built(sketch)
            if has_match(model, plan.pattern):
                break
            plan.errors.clear()
            hypothesis.assume(attempt < ATTEMPTS - 1)
        randomize(model)
        for one, other in sketch.tied:
            if [w.shape for w in one.weights] == [w.shape for w in other.weights]:
                other.set_weights(one.get_weights())
        for layer in sublayers(model):
            if isinstance(layer, layers.BatchNormalization):
                give_statistics(layer, draw(st.sampled_from(STATISTICS)))
        return model
    finally:
        keras.config.set_dtype_policy(policy)
        random.setstate(state)  # Keras draws seeds of initializers, which hypothesis warns of


def is_channels_first() -> bool:
    """Whether images have their channels first, unless a layer says otherwise."""
    return bool(keras.config.image_data_format() == "channels_first")


def built(sketch: Sketch) -> keras.Model:
    """A model with a match, mostly with a layer behind it, and rarely with an output inside."""
    draw = sketch.draw
    outputs = sketch.plan.draw_match(sketch, sketch.plan.pattern)
    if draw(st.integers(0, 2)):
        outputs = [sketch.around(output) for output in outputs]
    if sketch.inner and rarely(draw, 12):
        outputs.append(draw(st.sampled_from(sketch.inner)))
    return sketch.tried(lambda: keras.Model(sketch.inputs, outputs, name="model"))


def has_match(model: keras.Model, pattern: Pattern) -> bool:
    """Whether the pattern matches somewhere."""
    graph = lift(model)
    return any(
        node.layer.cls in pattern.anchors and pattern.match(graph, node) is not None
        for node in graph
    )


def give_statistics(norm: layers.BatchNormalization, kind: str) -> None:
    """Let the weights of a normalization meet a condition."""
    for variable in norm.variables:
        value = keras.ops.convert_to_tensor(variable)
        if "no shift" in kind and variable.name in ("moving_mean", "beta"):
            value = keras.ops.zeros_like(value)
        if "positive" in kind and variable.name == "gamma":
            value = keras.ops.abs(value)
        if kind == "the same for all channels":
            value = keras.ops.ones_like(value) * value[0]
        variable.assign(value)


@dataclass
class Sketch:
    """A model that is being drawn.

    Attributes:
        axis: along which the latest call has its channels, 1 or -1.
        latest: the class and the layer of the latest call.
        inputs: of the model.
        inner: the tensors that calls of the match read from each other.
        tied: pairs of layers that get the same weights.
    """

    draw: DrawFn
    plan: Plan
    axis: int
    latest: tuple[Class, Made] | None = None
    inputs: Tensors = field(default_factory=list)
    inner: Tensors = field(default_factory=list)
    tied: list[tuple[Any, Any]] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)

    def start(self, classes: Iterable[Class]) -> Tensor:
        """A tensor for the first call: an input, sometimes behind another layer."""
        known = self.known(classes)
        ranks = dict.fromkeys(rank for cls in known for rank in self.plan.makers[cls].ranks)
        rank = self.draw(st.sampled_from([*ranks]))
        # Three sizes that are not known would be 64 * 64 * 64 elements when the model runs.
        sizes = st.sampled_from(SIZES if rank == 3 else (*SIZES, None))
        shape: list[int | None] = [self.draw(sizes) for _ in range(rank)]
        channels = WIDE if rarely(self.draw, 12) else self.draw(st.sampled_from(CHANNELS))
        shape.insert(0 if self.axis == 1 else rank, channels)
        batch = self.draw(st.sampled_from((None, 2, 3, 1)))
        # Of integers Keras makes float32 numbers, also in a float64 layer.
        integers = keras.config.dtype_policy().name == "float32" and rarely(self.draw, 8)
        x = self.input((batch, *shape), "int32" if integers else None)
        if rank == 1 and rarely(self.draw, 12):
            x = layers.Masking(0.0, name=self.named("other"))(x)
        return self.around(x) if rarely(self.draw, 5) else x

    def known(self, classes: Iterable[Class]) -> list[Class]:
        """The classes of which layers can be drawn.

        Raises:
            NoLayerError: there is none.
        """
        classes = list(classes)
        known = [cls for cls in classes if cls in self.plan.makers]
        if not known:
            names = ", ".join(cls.__name__ for cls in classes)
            raise NoLayerError(
                f"there is no strategy for layers of {names}: give one, as in `layers="
                f"{{{classes[0].__name__}: hypothesis.strategies.builds({classes[0].__name__})}}`"
            )
        return known

    def input(self, shape: tuple[int | None, ...], dtype: str | None) -> Tensor:
        """One more input of the model."""
        name = f"x_{len(self.inputs)}" if self.inputs else "x"
        self.inputs.append(keras.Input(batch_shape=shape, dtype=dtype, name=name))
        return self.inputs[-1]

    def around(self, x: Tensor) -> Tensor:
        """What some layer makes of a tensor."""
        make = self.draw(st.sampled_from(AROUND))
        layer = self.tried(lambda: make(self.draw, x))
        layer.name = self.named("other")
        return self.tried(lambda: layer(x))

    def tried(self, call: Callable[[], Any]) -> Any:
        """What the call gives; a model that Keras can't build is no example."""
        try:
            return call()
        except Exception as error:
            self.plan.errors[:] = [error]
            hypothesis.reject()

    def named(self, name: str) -> str:
        """A name that no layer has yet."""
        self.names[name] += 1
        return name if self.names[name] == 1 else f"{name}_{self.names[name]}"

    def made(self, cls: Class, name: str, x: Tensor) -> Made:
        """A layer of a class, rarely with a dtype policy of its own, or with softmax, which is the
        activation that looks at all channels.
        """
        layer = self.tried(lambda: self.plan.makers[cls].make(self.draw, cls, x, self.axis))
        if isinstance(layer, keras.Layer):
            changes = {}
            if keras.backend.is_float_dtype(x.dtype) and rarely(self.draw, 12):
                changes["dtype"] = self.draw(st.sampled_from(POLICIES))
            if hasattr(layer, "activation") and rarely(self.draw, 12):
                changes["activation"] = "softmax"
            if changes:
                layer = self.tried(lambda: configured(layer, **changes))
            layer.name = name
        return layer

    def called(self, layer: Made, x: Tensor | Tensors) -> Tensor:
        """What a layer gives for one tensor, or for several that it merges."""
        result = self.tried(lambda: layer(x))
        if data_format := getattr(layer, "data_format", None):
            self.axis = 1 if data_format == "channels_first" else -1
        return result

    def link(self, name: str, link: Link, x: Tensor, others: Tensors | None = None) -> Tensor:
        """What a call gives that fits a link of a pattern.

        Args:
            others: tensors that are merged with `x`.
        """
        fitting = [cls for cls in self.known(link.classes) if self.plan.makers[cls].takes(x)]
        if not fitting:
            hypothesis.reject()
        name, axis = self.named(name), self.axis
        for attempt in range(ATTEMPTS):
            self.axis = axis
            cls = self.draw(st.sampled_from(fitting))
            layer = self.made(cls, name, x)
            result = self.called(layer, x if others is None else [x, *others])
            self.latest = (cls, layer)
            if link.condition is None or link.fits(self.node(layer, result)):
                break
            hypothesis.assume(attempt < ATTEMPTS - 1)
        return result

    def node(self, layer: Made, result: Tensor) -> Node:
        """The call of a layer that gave a tensor, as conditions see it."""
        if isinstance(layer, keras.Layer):
            output = KnownTensor(tuple(result.shape), str(result.dtype))
            return Node(1, Layer(type(layer), layer.name, layer), (Ref(0),), {}, (output,))
        graph = lift(keras.Model(self.inputs, result))
        return graph.producer(graph.output_refs[0])

    def row(self, chain: Chain, x: Tensor) -> Tensor:
        """A chain of calls; where many may stand, up to two do."""
        for name, link in chain.links.items():
            if self.names[name]:  # the pattern before this one ended with it
                continue
            for _ in range(self.draw(st.integers(0, 2)) if link.many else 1):
                self.inner.append(x)
                x = self.link(name, link, x)
        return x

    def branches(self, pattern: Branches, x: Tensor) -> Tensor:
        """Calls of one tensor, or of several, merged."""
        made = self.siblings(*pattern.branches, x, self.draw(st.integers(1, 3)))
        if not pattern.every and rarely(self.draw, 3):
            made.append(x)
        self.inner += made
        return self.link(*pattern.into, made[0], made[1:])

    def readers(self, pattern: Readers, x: Tensor) -> Tensors:
        """A chain of calls, and calls that read its last tensor."""
        *chain, readers = pattern.links.items()
        x = self.row(Chain(dict(chain)), x)
        least = 1 if chain else 2
        if chain:
            self.inner.append(x)
        return self.siblings(*readers, x, self.draw(st.integers(least, least + 1)))

    def siblings(
        self, name: str, link: Link, x: Tensor, count: int, *, tie: bool = False
    ) -> Tensors:
        """Calls of one tensor, rarely of another one, of layers that are mostly much alike, or one.

        Args:
            tie: whether layers that are alike mostly have the same weights.
        """
        axis = self.axis
        results = [self.link(name, link, x)]
        assert self.latest is not None
        cls, first = self.latest
        while len(results) < count:
            self.axis = axis
            read = x
            if rarely(self.draw, 8):
                read = self.input(tuple(x.shape), x.dtype)
            if rarely(self.draw, 4):
                results.append(self.link(name, link, read))
            elif isinstance(first, keras.Layer) and read is not x and self.draw(st.booleans()):
                results.append(self.called(first, read))
            elif isinstance(first, keras.Layer):
                layer = self.varied(cls, first, self.named(name), x)
                if tie and not rarely(self.draw, 4):
                    self.tied.append((first, layer))
                results.append(self.called(layer, read))
            else:  # an operation, on the same constant or another one
                same = self.draw(st.booleans())
                results.append(self.called(first if same else self.made(cls, name, x), read))
        return results

    def varied(self, cls: Class, layer: keras.Layer, name: str, x: Tensor) -> Any:
        """A layer like this one, in which at most two entries of the configuration are others."""
        mine, others = layer.get_config(), self.made(cls, name, x).get_config()
        differing = [each for each in mine if each != "name" and mine[each] != others[each]]
        changed = self.draw(st.sets(st.sampled_from(differing), max_size=2)) if differing else ()
        return self.tried(
            lambda: configured(layer, name=name, **{each: others[each] for each in changed})
        )


def configured(layer: Any, **changes: Any) -> Any:
    """A layer with the configuration of another one, apart from some entries."""
    return type(layer).from_config(layer.get_config() | changes)


# --- what a pattern matches: (sketch, pattern) -> the last tensors --------------------------------


def any_match(sketch: Sketch, pattern: Pattern) -> Tensors:
    """A match of any pattern, as far as can be seen what that is.

    A pattern of one's own is drawn by the patterns that are its fields, one after the other, or
    else by its anchors.
    """
    parts = parts_of(pattern)
    results = [sketch.start(first_classes(parts[0]))]
    for part in parts:
        if isinstance(part, Chain):
            results = [sketch.row(part, results[-1])]
        elif isinstance(part, Branches):
            results = [sketch.branches(part, results[-1])]
        else:
            results = sketch.readers(part, results[-1])
    return results


def parts_of(pattern: Any) -> list[Part]:
    """The patterns that a pattern is made of."""
    return _parts_in(pattern) or [Chain({pattern.names[-1]: Link(tuple(pattern.anchors))})]


def _parts_in(value: Any) -> list[Part]:
    if isinstance(value, Part):
        return [value]
    if not is_dataclass(value):
        return []
    return [part for each in fields(value) for part in _parts_in(getattr(value, each.name))]


def first_classes(part: Part) -> tuple[Class, ...]:
    """The classes of the call that comes first."""
    if isinstance(part, Branches):
        return part.branches[1].classes
    return next(iter(part.links.values())).classes


def twins(sketch: Sketch, pattern: Pattern) -> Tensors:
    """Calls of one tensor that are alike or the same, each read by another layer."""
    classes = tuple(cls for cls in pattern.anchors if cls not in MERGES)
    link = Link(tuple(sketch.known(classes)))
    results = sketch.siblings("call", link, sketch.start(link.classes), 2, tie=True)
    return [
        layers.Rescaling(scale, name=sketch.named("reader"))(x)
        for scale, x in zip((2.0, 3.0), results, strict=True)
    ]


def added_branches(sketch: Sketch, pattern: Pattern) -> Tensors:
    """Convolutions of one tensor, a normalization of it and the tensor itself, added."""
    convs = where(
        (
            layers.Conv2D,
            layers.Conv1D,
            layers.DepthwiseConv2D,
            layers.DepthwiseConv1D,
            layers.Conv3D,
        ),
        lambda conv: conv.layer.source.activation is keras.activations.linear,
    )
    x = sketch.start(convs.classes)
    axis = sketch.axis
    made = sketch.siblings("conv", convs, x, sketch.draw(st.integers(1, 3)))
    if sketch.draw(st.booleans()):
        sketch.axis = axis
        made.append(sketch.link("bn", Link((layers.BatchNormalization,)), x))
    if sketch.draw(st.booleans()):
        made.append(x)
    sketch.inner += made
    return [sketch.link("add", Link(tuple(pattern.anchors)), made[0], made[1:])]


def attended(sketch: Sketch, pattern: Pattern) -> Tensors:
    """A normalized tensor that an attention reads, as some of its arguments."""
    draw = sketch.draw
    norm = Link((layers.LayerNormalization,))
    x = sketch.start(norm.classes)
    hypothesis.assume(len(x.shape) == 3 and sketch.axis == -1)
    read = sketch.link("norm", norm, x)
    sketch.inner.append(read)
    others = [read, read, sketch.input(tuple(x.shape), read.dtype)]
    options = {"use_bias": draw(st.integers(0, 3)) > 0, "use_gate": draw(st.booleans())}
    size, heads = draw(st.integers(1, 3)), draw(st.sampled_from((2, 4)))
    attention = draw(
        st.sampled_from(
            (
                lambda **kwargs: layers.MultiHeadAttention(heads, size, **kwargs),
                lambda **kwargs: layers.GroupQueryAttention(size, heads, 2, **kwargs),
            )
        )
    )(name=sketch.named("attention"), **options)
    query, value, key = (draw(st.sampled_from(others)) for _ in range(3))
    given = {"query": query, "value": value}
    if draw(st.booleans()):
        given["key"] = key
    outputs = [sketch.tried(lambda: attention(**given))]
    if draw(st.booleans()):
        outputs.append(sketch.link("linear", Link((layers.Dense,)), read))
    return outputs


# The built-in rules whose patterns do not say what they match.
DRAWN_BY_NAME: Mapping[str, Callable[[Sketch, Any], Tensors]] = {
    "duplicates": twins,
    "layer_normalization_attention": attended,
    "parallel_branches": added_branches,
}
