"""What a backend or a runtime computes wrongly: a rewrite must not lead a right model there.

OpenVINO 2026.4 takes a ZeroPadding2D into the layer behind it, and forgets that this pads by itself
(`padding="same"`). So a layer that does must not come to stand behind a ZeroPadding2D.

TensorFlow 2.21 on a CPU fuses a convolution, its bias, the addition of another tensor and an
activation into one operation. With a leaky ReLU that operation takes 0.2 for the slope, whatever
the slope is; with mish it fails. Without a bias nothing is fused. So a convolution must not get a
bias there, where it had none, or had a normalization in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from keras import activations, layers

from kito.definition import Decline, Match, Result
from kito.graph.ir import Call, Graph, Layer, Node, Output, Ref
from kito.graph.keras_internals import AddOperation

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


def check_padding(graph: Graph, match: Match, result: Result) -> None:
    """Whether OpenVINO would forget a padding of the result.

    Raises:
        Decline: a layer that pads would stand behind a ZeroPadding2D, where none did.
    """
    if isinstance(result, Ref) or any(_pads_twice(graph, node) for node in match.nodes):
        return
    for call in (result.call if isinstance(result, Output) else result).order:
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
    source: Node | Call = call
    while source is call or source.layer.cls in TRANSPARENT:
        given = source.input if isinstance(source, Node) else source.args[0]
        if isinstance(given, Output):
            given = given.call
        source = graph.producer(given) if isinstance(given, Ref) else given
    return source.layer.cls is layers.ZeroPadding2D


def check_hazards(graph: Graph, tail: Node, result: Result, readers: Readers) -> None:
    """Whether TensorFlow would compute something else with the result in the place of `tail`.

    Args:
        result: what a rule asks for.
        readers: gives the calls that read an output of a call.

    Raises:
        Decline: a convolution with a bias would feed an addition that feeds such an activation.
    """
    place = (graph, tail)
    if isinstance(result, Ref):
        if _is_fused(graph.producer(result).layer):
            _check_additions_behind(place, readers)
        return
    last = result.call if isinstance(result, Output) else result
    for call in last.order:
        if not _is_fused(call.layer):
            continue
        if call is last:
            _check_additions_behind(place, readers)
        elif last.layer.cls in ADDITIONS:
            _check_addition(place, readers)


def _is_fused(layer: Layer) -> bool:
    return layer.cls in FUSED and bool(layer.config["use_bias"])


def _check_additions_behind(conv: Place, readers: Readers) -> None:
    for graph, add in _behind(conv, readers):
        if add.layer.cls in ADDITIONS:
            _check_addition((graph, add), readers)


def _check_addition(add: Place, readers: Readers) -> None:
    name = add[1].layer.name
    for _, activation in _behind(add, readers):
        source = activation.layer.source
        slope = getattr(source, "negative_slope", None)
        if slope and slope != SLOPE:
            raise Decline(
                f"{name} adds to it and {activation.layer.name} is a leaky ReLU: TensorFlow would "
                f"fuse these and compute with the slope {SLOPE}, not {slope}"
            )
        if getattr(source, "activation", None) is activations.mish:
            raise Decline(
                f"{name} adds to it and {activation.layer.name} is mish: TensorFlow would fuse "
                "these into an operation that it does not have"
            )


def _behind(place: Place, readers: Readers) -> Iterable[Place]:
    for graph, reader in readers(*place):
        if reader.layer.cls in TRANSPARENT:
            yield from _behind((graph, reader), readers)
        else:
            yield graph, reader
