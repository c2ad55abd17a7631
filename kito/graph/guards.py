"""What is asked of every match and of every result, whatever the rule: it need not ask itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras

from kito.definition import Decline, Match
from kito.graph.copying import goes_by_names, names_activations
from kito.graph.inference import supports_masking
from kito.graph.ir import Graph, Node, Ref
from kito.graph.keras_internals import (
    OTHER_WEIGHTS,
    casts_as_its_class,
    has_its_weights,
    patched_methods,
    sublayers,
)
from kito.graph.layer import Call, Layer
from kito.graph.site import Site

# Of so many layers a reason has the names.
NAMED = 3

# Layers that give integers for integers, so that what follows can't be moved past their rounding.
ROUNDING = (keras.layers.LayerNormalization, keras.layers.SpectralNormalization)

# Layers that make floats of integers, whatever they have.
CASTING = (keras.layers.Rescaling, keras.layers.Normalization)

# Layers that take several tensors, each as an argument.
ATTENTIONS = (keras.layers.GroupQueryAttention, keras.layers.MultiHeadAttention)

# Layers that take their tensors as one list.
MERGES = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)


def check_match(graph: Graph, match: Match) -> None:
    """What no rule may do, whatever it matches.

    Raises:
        Decline: with the reason.
    """
    inside = {node.id for node in match.nodes}
    if graph.training:
        raise Decline(f"the model '{graph.name}' around it is called with training=True")
    for node in match.nodes:
        # A rule for calls that stand side by side makes each of them anew, from all its arguments.
        several = match.ends is not None and node.layer.cls in ATTENTIONS
        _check_arguments(node, several)
        _check_layer(node)
    for node in match.nodes:
        if node in match.tails:
            continue
        if node.id in graph.output_ids:
            raise Decline(f"{node.layer.name} is an output of the model")
        readers = graph.readers(node.id)
        followers = [reader for reader in readers if reader.id in inside]
        others = [reader.layer for reader in readers if reader.id not in inside]
        if others:
            raise Decline(
                f"{node.layer.name} feeds {_named(others)} as well as {followers[0].layer.name}"
            )
        if match.ends is not None and set(followers) <= set(match.tails):
            continue  # the rule gives each of these what it reads
        if len({reader.id for reader in followers}) > 1:
            names = _named([reader.layer for reader in followers])
            raise Decline(f"{node.layer.name} feeds {names}")
        if sum(ref.node == node.id for reader in followers for ref in reader.refs) > 1:
            raise Decline(f"{followers[0].layer.name} reads {node.layer.name} more than once")


def _named(layers: Sequence[Layer]) -> str:
    """The names of layers; of many, the first ones and the number of the others."""
    names = list(dict.fromkeys(layer.name for layer in layers[:NAMED]))
    others = len(layers) - NAMED
    return " and ".join([*names, f"{others:,} others"] if others > 0 else names)


def _check_arguments(node: Node, several: bool) -> None:
    if node.kwargs.get("training"):
        raise Decline(f"{node.layer.name} is called with training=True")
    if several or not issubclass(node.layer.cls, keras.Layer):
        return  # an operation of keras.ops: what it is given is all that there is of it
    extra = [
        name for name, value in node.kwargs.items() if value is not None and value is not False
    ]
    one = len(node.args) == 1 and (node.args[0] in node.refs or node.layer.cls in MERGES)
    if extra or not one:
        raise Decline(f"{node.layer.name} is called with more than one tensor: {_call(node)}")


def _call(node: Node) -> str:
    arguments = ["tensor" if isinstance(arg, Ref) else type(arg).__name__ for arg in node.args]
    return ", ".join([*arguments, *(f"{name}=..." for name in node.kwargs)])


def _check_layer(node: Node) -> None:
    source = node.layer.source
    for part in sublayers(source) if isinstance(source, keras.Layer) else ():
        if mode := getattr(part, "quantization_mode", None):
            raise Decline(f"{part.name} is quantized ({mode})")
        for method in patched_methods(part):
            raise Decline(f"{part.name} has a `{method}` of its own, not that of its class")
        if not casts_as_its_class(part):
            raise Decline(f"{part.name} has autocast={part.autocast}, which no configuration has")
        if goes_by_names(part.dtype_policy):
            raise Decline(f"{part.name} has a dtype policy that goes by its name")
        if not has_its_weights(part):
            raise Decline(f"{part.name} {OTHER_WEIGHTS}")
        if not names_activations(part):
            raise Decline(f"{part.name} has an activation that its configuration can't carry")


def check_result(site: Site) -> None:
    """Whether what a rule returned can stand where the match stands.

    Raises:
        Decline: a mask would get lost, or appear, or the tensor would be another one.
    """
    graph, match = site.graph, site.match
    for tail, result in site.pairs:
        if isinstance(result, Ref):
            tensor = graph.tensor(result)
            if (tensor.shape, tensor.dtype) != (tail.output.shape, tail.output.dtype):
                raise Decline(
                    f"{tail.layer.name} turns {tensor.shape} {tensor.dtype} into "
                    f"{tail.output.shape} {tail.output.dtype}"
                )
    inside = {node.id for node in match.nodes}
    given = {ref for node in match.nodes for ref in node.refs if ref.node not in inside}
    for call in site.calls:
        _check_integers(site, call)
    if graph.masked or any(graph.tensor(ref).masked for ref in given):
        _check_mask(site)


def _check_mask(site: Site) -> None:
    """Whether a mask comes out of what a rule returned as it came out of the match.

    Raises:
        Decline: it does not, or what is masked would get another value.
    """
    graph, nodes = site.graph, site.match.nodes
    hidden = graph.masked  # where it ends can't be seen then
    passes = {} if hidden else {node.layer.cls: node.output.masked for node in nodes}
    sources = {node.layer.cls: node.layer.source for node in nodes}

    def pass_on(layer: Layer) -> bool:
        if layer.cls not in passes:
            return supports_masking(layer)
        # No configuration has it that somebody set it on the layer.
        was_set = layer.is_new and getattr(sources[layer.cls], "supports_masking", False)
        return passes[layer.cls] and (not was_set or supports_masking(layer))

    def all_pass(layers: Iterable[Layer]) -> bool:
        return all(map(pass_on, layers))

    # It gives zero where all that it reads is masked.
    multiplies = any(layer.is_new and layer.cls is keras.layers.Multiply for layer in site.layers)
    for tail, result in site.pairs:
        before = all_pass(node.layer for node in nodes) if hidden else tail.output.masked
        after = all_pass(site.layers)
        if isinstance(result, Ref):
            after = hidden or graph.tensor(result).masked
        if after != before or multiplies:
            raise Decline(
                f"a mask runs through {site.match.head.layer.name}, and the rewrite would change it"
            )


def _check_integers(site: Site, call: Call) -> None:
    """Integers and booleans are not cast to what a layer computes in: each class does with them as
    it likes, and some can't take them.
    """
    known = {
        (cls, ref)
        for node in site.match.nodes
        if node.layer.cls not in ROUNDING
        for ref in node.refs
        for cls in _classes(node)
    }
    for ref in keras.tree.flatten((call.args, call.kwargs)):
        if isinstance(ref, Ref) and (call.layer.cls, ref) not in known:
            dtype = site.graph.tensor(ref).dtype
            if _is_sparse(site.graph, ref):
                raise Decline(f"{site.match.head.layer.name} reads a sparse tensor")
            if not keras.backend.is_float_dtype(dtype):
                raise Decline(f"{site.match.head.layer.name} reads {dtype}")
            if _may_be_integers(site.graph, ref):
                raise Decline(f"{site.match.head.layer.name} reads what may be integers")


def _is_sparse(graph: Graph, ref: Ref) -> bool:
    """Whether a tensor may be sparse: what layers give is not, unless they only hand it on.

    Keras does not know: after arithmetic it says of each tensor that it may be.
    """
    inputs = [graph.producer(each).layer.source for each in keras.tree.flatten(graph.inputs)]
    if not any(getattr(each, "sparse", False) for each in inputs):
        return False
    node = graph.producer(ref)
    if isinstance(node.layer.source, keras.Layer) and node.layer.source.weights:
        return False
    return getattr(node.layer.source, "sparse", False) or any(
        _is_sparse(graph, each) for each in node.refs
    )


def _may_be_integers(graph: Graph, ref: Ref) -> bool:
    """Whether a tensor may have integers: Keras infers floats of each layer, but layers without
    weights hand integers on.
    """
    if not keras.backend.is_float_dtype(graph.tensor(ref).dtype):
        return True
    if all(
        keras.backend.is_float_dtype(graph.tensor(each).dtype)
        for each in keras.tree.flatten(graph.inputs)
    ):
        return False
    node = graph.producer(ref)
    if not issubclass(node.layer.cls, keras.Layer):  # of these Keras knows
        return any(
            keras.backend.is_float_dtype(graph.tensor(each).dtype) and _may_be_integers(graph, each)
            for each in node.refs
        )
    casts = node.layer.cls in CASTING or (node.layer.parameters and node.layer.cls not in ROUNDING)
    # Integers that are joined with floats, or added to some, become floats.
    some = all if node.layer.cls in MERGES else any
    return not casts and some(_may_be_integers(graph, each) for each in node.refs)


def _classes(node: Node) -> set[type]:
    wrapper = issubclass(node.layer.cls, keras.layers.Wrapper)
    return {node.layer.cls, node.wrapped.cls} if wrapper else {node.layer.cls}
