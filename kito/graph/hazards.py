"""What a backend or a runtime computes wrongly: a rewrite must not lead a right model there.

OpenVINO 2026.4 takes a ZeroPadding2D into the layer behind it, and forgets that this pads by itself
(`padding="same"`). So a layer that does must not come to stand behind a ZeroPadding2D.

TensorFlow 2.21 on a CPU fuses a convolution, its bias, the addition of another tensor and an
activation into one operation. With a leaky ReLU that operation takes 0.2 for the slope, whatever
the slope is; with mish it fails. Without a bias nothing is fused. So a convolution must not get a
bias there, where it had none, and nothing that stands between the three must go.

Keras 3.15 on PyTorch gives float32 for the product of float64 matrices. A bias, or a layer behind
it, makes float64 of that. So a Dense layer must not come to give its product to what another layer
gave float64 to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import keras
from keras import activations, layers

from kito.definition import Decline, Match, Result
from kito.graph.ir import Graph, Node, Ref
from kito.graph.keras_internals import AddOperation
from kito.graph.layer import Call, Layer, Output, call_of

FUSED = (layers.Conv2D, layers.Conv3D, layers.SeparableConv2D)
ADDITIONS = (layers.Add, AddOperation)
SLOPE = 0.2
# What OpenVINO takes a padding into, and the entry that has the size of the window.
WINDOWS = {
    layers.AveragePooling2D: "pool_size",
    layers.Conv2D: "kernel_size",
    layers.DepthwiseConv2D: "kernel_size",
    layers.SeparableConv2D: "kernel_size",
}
# At inference these return what they are given, so the convolution meets the addition behind them.
TRANSPARENT = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)

# A call and the graph that it stands in; what reads it may stand in the graph around that.
Place = tuple[Graph, Node]
Readers = Callable[[Graph, Node], Iterable[Place]]


def check_hazards(graph: Graph, match: Match, tail: Node, result: Result, readers: Readers) -> None:
    """Whether a result would be computed wrongly in the place of a match's tail.

    Args:
        readers: the calls that read a call, across the borders of nested models.

    Raises:
        Decline: with the reason.
    """
    _check_fusion(graph, tail, result, readers)
    _check_dtype(graph, tail, result)
    _check_padding(graph, match, result)


def _check_padding(graph: Graph, match: Match, result: Result) -> None:
    """Whether OpenVINO would forget a padding of the result.

    Raises:
        Decline: a layer that pads would stand behind a ZeroPadding2D, where none did.
    """
    if isinstance(result, Ref) or any(_pads_twice(graph, node) for node in match.nodes):
        return
    for call in call_of(result).order:
        if _pads_twice(graph, call):
            raise Decline(
                f"{call.layer.name} pads, and would stand behind a ZeroPadding2D: OpenVINO would "
                "forget one of the paddings"
            )


def _pads_twice(graph: Graph, call: Node | Call) -> bool:
    window = WINDOWS.get(call.layer.cls)
    if window is None or call.layer.config["padding"] != "same":
        return False
    size = call.layer.config[window]
    if size in (1, (1, 1), [1, 1]):
        return False
    return next(_sources(graph, call)).layer.cls is layers.ZeroPadding2D


def _check_dtype(graph: Graph, tail: Node, result: Result) -> None:
    """Whether Keras on PyTorch would give float32 for float64.

    Raises:
        Decline: a Dense layer would, where none did.
    """
    if keras.backend.backend() != "torch" or tail.output.dtype != "float64":
        return
    last = graph.producer(result) if isinstance(result, Ref) else call_of(result)
    if _is_product(last.layer) and not _is_product(tail.layer):
        raise Decline(
            f"without {tail.layer.name}, {last.layer.name} would give float32: Keras on PyTorch "
            "does for the product of float64 matrices"
        )


def _is_product(layer: Layer) -> bool:
    return layer.cls is layers.Dense and not layer.config["use_bias"]


def _check_fusion(graph: Graph, tail: Node, result: Result, readers: Readers) -> None:
    """Whether TensorFlow would compute something else with the result in the place of `tail`.

    Args:
        result: what a rule asks for.
        readers: gives the calls that read an output of a call.

    Raises:
        Decline: a convolution with a bias would feed an addition that feeds such an activation.
    """
    place = (graph, tail)
    if isinstance(result, Ref):
        if _is_transparent(tail.layer):
            return  # they meet already
        last = _acting(graph, graph.producer(result))
    else:
        last = _acting(graph, call_of(result))
        for call in call_of(result).order:
            for source in _sources(graph, call):
                if _adds_to_fused(graph, source):
                    _check_activation(source, call)
    if _adds_to_fused(graph, last):
        for _, activation in _behind(place, readers):
            _check_activation(last, activation)
    if _is_fused(last.layer):
        for add in _behind(place, readers):
            if add[1].layer.cls in ADDITIONS:
                for _, activation in _behind(add, readers):
                    _check_activation(add[1], activation)


def _is_transparent(layer: Layer) -> bool:
    if layer.cls is layers.Activation:
        return getattr(layer.source, "activation", None) is activations.linear
    return layer.cls in TRANSPARENT


def _is_fused(layer: Layer) -> bool:
    return layer.cls in FUSED and bool(layer.config["use_bias"])


def _adds_to_fused(graph: Graph, add: Node | Call) -> bool:
    """Whether a call adds something to what a convolution with a bias computes."""
    return add.layer.cls in ADDITIONS and any(
        _is_fused(source.layer) for source in _sources(graph, add)
    )


def _check_activation(add: Node | Call, activation: Node | Call) -> None:
    if activation.layer.shapes:
        return  # it multiplies first
    source = activation.layer.source
    names = f"{add.layer.name} would add to a convolution and feed {activation.layer.name}, which"
    slope = getattr(source, "negative_slope", None)
    if slope and slope != SLOPE:
        raise Decline(
            f"{names} is a leaky ReLU: TensorFlow would fuse these and compute with the slope "
            f"{SLOPE}, not {slope}"
        )
    if getattr(source, "activation", None) is activations.mish:
        raise Decline(
            f"{names} is mish: TensorFlow would fuse these into an operation that it does not have"
        )


def _sources(graph: Graph, call: Node | Call) -> Iterator[Node | Call]:
    """The calls whose results a call reads, past those that return what they are given."""
    for leaf in keras.tree.flatten((call.args, call.kwargs)):
        if isinstance(leaf, Ref):
            yield _acting(graph, graph.producer(leaf))
        elif isinstance(leaf, Call | Output):
            yield _acting(graph, call_of(leaf))


def _acting(graph: Graph, call: Node | Call) -> Node | Call:
    """A call, or what it returns the result of."""
    return next(_sources(graph, call)) if _is_transparent(call.layer) else call


def _behind(place: Place, readers: Readers) -> Iterable[Place]:
    """The calls that read the result of a call, past those that return what they are given."""
    for graph, reader in readers(*place):
        if _is_transparent(reader.layer):
            yield from _behind((graph, reader), readers)
        else:
            yield graph, reader
