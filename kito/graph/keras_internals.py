"""All that kito needs of Keras and Keras does not export. Nothing else touches private names."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import ProxyTypes

import keras
from keras.src.applications.convnext import LayerScale as LayerScale
from keras.src.applications.convnext import StochasticDepth as StochasticDepth
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope as in_stateless_scope
from keras.src.layers.layer import CallContext
from keras.src.models import functional as functional_models
from keras.src.models.functional import Functional as Functional
from keras.src.ops import core as core_operations
from keras.src.ops import math as math_operations
from keras.src.ops import nn as nn_operations
from keras.src.ops import numpy as numpy_operations
from keras.src.ops.node import KerasHistory
from keras.src.tree import register_tree_node_class as register_tree_node_class

from kito.graph.activation_names import activation_name

# keras.ops.add and so on, and +, -, *, / of symbolic tensors.
AddOperation = numpy_operations.Add
ConcatenateOperation = numpy_operations.Concatenate
DivideOperation = numpy_operations.Divide
MeanOperation = numpy_operations.Mean
MultiplyOperation = numpy_operations.Multiply
SubtractOperation = numpy_operations.Subtract
TransposeOperation = numpy_operations.Transpose
TrueDivideOperation = numpy_operations.TrueDivide
ErfOperation = math_operations.Erf
ReshapeOperation = numpy_operations.Reshape
SplitOperation = numpy_operations.Split

# Operations of keras.ops that people write in models, each a function of its arguments alone.
DETERMINISTIC_OPERATIONS: tuple[type[keras.Operation], ...] = (
    core_operations.Cast,
    math_operations.Erf,
    math_operations.Rsqrt,
    nn_operations.Elu,
    nn_operations.Gelu,
    nn_operations.LeakyRelu,
    nn_operations.Relu,
    nn_operations.Relu6,
    nn_operations.Sigmoid,
    nn_operations.Silu,
    nn_operations.Softmax,
    nn_operations.Softplus,
    numpy_operations.Absolute,
    numpy_operations.Add,
    numpy_operations.BroadcastTo,
    numpy_operations.Clip,
    numpy_operations.Concatenate,
    numpy_operations.Cos,
    numpy_operations.Divide,
    numpy_operations.Einsum,
    numpy_operations.Exp,
    numpy_operations.ExpandDims,
    numpy_operations.GetItem,
    numpy_operations.Log,
    numpy_operations.Matmul,
    numpy_operations.Max,
    numpy_operations.Maximum,
    numpy_operations.Mean,
    numpy_operations.Min,
    numpy_operations.Minimum,
    numpy_operations.Multiply,
    numpy_operations.Negative,
    numpy_operations.Pad,
    numpy_operations.Power,
    numpy_operations.Repeat,
    numpy_operations.Reshape,
    numpy_operations.Sin,
    numpy_operations.Sqrt,
    numpy_operations.Square,
    numpy_operations.Squeeze,
    numpy_operations.Stack,
    numpy_operations.Subtract,
    numpy_operations.Sum,
    numpy_operations.Swapaxes,
    numpy_operations.Tanh,
    numpy_operations.Tile,
    numpy_operations.Transpose,
    numpy_operations.TrueDivide,
)

# Where a layer keeps the functions that it applies.
ACTIVATIONS = ("activation", "recurrent_activation")

# Operations that change nothing but the shape.
RESHAPING_OPERATIONS: tuple[type[keras.Operation], ...] = (
    numpy_operations.ExpandDims,
    numpy_operations.GetItem,
    numpy_operations.Reshape,
    numpy_operations.Squeeze,
    numpy_operations.Transpose,
)

# Operations that compare numbers, such as words with the one that stands for none.
COMPARING_OPERATIONS: tuple[type[keras.Operation], ...] = (
    numpy_operations.Equal,
    numpy_operations.NotEqual,
)

# Operations that read nothing but the shape and the dtype.
UNREADING_OPERATIONS: tuple[type[keras.Operation], ...] = (
    numpy_operations.OnesLike,
    numpy_operations.ZerosLike,
)

# How deep Keras goes for each call of a chain, and some more.
FRAMES_A_CALL = 2


# The models there refuse strings when they are called, and do no more.
TASKS = "keras_hub.src.utils.pipeline_model"


def is_graph_class(cls: type[Any]) -> bool:
    """Whether running a model of the class is running its graph: `call` is not overridden."""
    return (
        issubclass(cls, keras.Layer)
        and (
            (issubclass(cls, keras.Sequential) and cls.call is keras.Sequential.call)
            or (issubclass(cls, Functional) and cls.call is Functional.call)
        )
        and (cls.__call__ is keras.Layer.__call__ or cls.__call__.__module__.startswith(TASKS))
    )


def is_graph_model(model: keras.Operation) -> bool:
    """Whether running the model is running its graph, and the graph is there."""
    unbuilt = isinstance(model, keras.Sequential) and model._functional is None
    return is_graph_class(type(model)) and not unbuilt and not patched_methods(model)


def structures(model: keras.Model) -> tuple[Any, Any]:
    """The model's inputs and outputs, nested as it takes and returns them, as KerasTensors.

    Those of a subclassed model are what it was built with, with a batch of any size.
    """
    if has_inputs(model):
        functional = _functional(model)
        return functional._inputs_struct, functional._outputs_struct
    inputs = input_structure(model)
    return inputs, model.compute_output_spec(inputs)


def input_structure(model: keras.Model) -> Any:
    """The model's inputs, as `structures` has them."""
    if has_inputs(model):
        return _functional(model)._inputs_struct
    return keras.tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape[1:]), model.input_dtype),
        plain(model.get_build_config()["input_shape"]),
    )


def has_inputs(model: keras.Model) -> bool:
    """Whether a model has a graph of its own, with inputs, whatever its `call` does with that."""
    return hasattr(_functional(model), "_inputs_struct")


def plain(structure: Any) -> Any:
    """The structure in Python's own containers, where Keras has its tracked ones."""
    if isinstance(structure, dict):
        return {key: plain(value) for key, value in structure.items()}
    if isinstance(structure, tuple):
        return tuple(map(plain, structure))
    if isinstance(structure, list):
        return list(map(plain, structure))
    return structure


def _functional(model: keras.Model) -> Any:
    return model._functional if isinstance(model, keras.Sequential) else model


def entry(shape: Sequence[int | None], dtype: str) -> keras.KerasTensor:
    """A symbolic tensor that a `keras.Function` may start at.

    No layer makes it, as one does what `keras.Input` gives: that takes a third of the time in which
    a block is recorded.
    """
    tensor = keras.KerasTensor(shape, dtype)
    tensor._keras_history = KerasHistory(operation=None, node_index=0, tensor_index=0)
    return tensor


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What a model was compiled with; of a class that says it itself, as Keras would load it."""
    if type(model).get_compile_config is keras.Model.get_compile_config:
        arguments: dict[str, Any] = model._compile_config.config
    else:
        arguments = keras.saving.deserialize_keras_object(model.get_compile_config())
    return arguments


def calls_in_order(model: keras.Model) -> list[Any]:
    """The calls that a model makes (keras.src.ops.node.Node), inputs first, if layers made them."""
    by_depth = _functional(model)._nodes_by_depth
    return [call for depth in sorted(by_depth, reverse=True) for call in by_depth[depth]]


def keras_mask(tensor: Any) -> Any:
    """The mask that Keras attached to a symbolic tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def settings(operation: keras.Operation) -> dict[str, Any]:
    """What an operation that is no layer was made with, such as the bounds of `ops.clip`."""
    return {
        name: value
        for name, value in vars(operation).items()
        if name != "name" and not name.startswith("_")
    }


def arguments(call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call as they were given.

    Keras records the masks that it passes on by itself as if they had been given; it will pass
    them on by itself again.
    """
    args, kwargs = tuple(call.arguments.args), dict(call.arguments.kwargs)
    if args and kwargs.get("mask") is not None:
        own = keras.tree.map_structure(keras_mask, args[0])
        given = keras.tree.flatten(kwargs["mask"])
        if all(one is other for one, other in zip(given, keras.tree.flatten(own), strict=False)):
            del kwargs["mask"]
    takes = takes_training(type(call.operation).call) and not is_strict(call.operation)
    if not kwargs.get("training") and not takes:
        kwargs.pop("training", None)  # Layer.__call__ takes it from any caller, other ways do not
    return args, kwargs


def is_strict(operation: keras.Operation) -> bool:
    """Whether a class says itself what its outputs are, and does not take `training` for that:
    Keras can't call it with that on symbolic tensors.
    """
    infer = type(operation).compute_output_spec
    own = infer is not keras.Layer.compute_output_spec and is_users(type(operation))
    return own and not takes_training(infer)


@functools.lru_cache(maxsize=256)  # bounded: a program may define classes without end
def takes_training(call: Callable[..., Any]) -> bool:
    """Whether a `call` has the argument that tells training from inference."""
    return "training" in inspect.signature(call).parameters


def mark_called(model: keras.Model) -> None:
    """Let Keras export a model that has a graph, but has not been run yet."""
    model._called = True


def set_trainable_alone(model: keras.Model, value: bool) -> None:
    """Set a model's flag, and not that of each layer in it: some may be layers of another model."""
    model._trainable = value


def number_of_calls(operation: keras.Operation) -> int:
    """How many calls on symbolic tensors Keras has recorded of an operation."""
    return len(operation._inbound_nodes)


def arguments_of_calls(operation: keras.Operation) -> list[tuple[Any, Any]]:
    """The arguments of each call on symbolic tensors that Keras has recorded of an operation."""
    return [(each.arguments.args, each.arguments.kwargs) for each in operation._inbound_nodes]


def arguments_of_call(layer: keras.Layer) -> list[inspect.Parameter]:
    """What the call of a layer takes, but for what Keras gives it."""
    parameters = inspect.signature(layer.call).parameters.values()
    return [each for each in parameters if each.name not in ("training", "mask")]


def takes_several(parameter: inspect.Parameter) -> bool:
    """Whether it is the `*args` or `**kwargs` of a function."""
    return parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def tensors_of_calls(
    operation: keras.Operation,
) -> tuple[list[keras.KerasTensor], list[keras.KerasTensor]]:
    """What each call on symbolic tensors that Keras has recorded of an operation read first, and
    what it gave first.
    """
    calls = operation._inbound_nodes
    return [each.input_tensors[0] for each in calls], [each.output_tensors[0] for each in calls]


def called(operation: keras.Operation, args: Any, kwargs: Any) -> Any:
    """What a call on symbolic tensors gives, as the graph of a model has it: what a `__call__` of
    the class' own does besides stands there by itself.
    """
    if isinstance(operation, keras.Layer):
        return keras.Layer.__call__(operation, *args, **kwargs)
    return operation(*args, **kwargs)


# What Keras itself sets on each layer or compiled model, though its class has a method of that
# name; and what traces set for their time.
KEPT_ON_THE_OBJECT = {"build", "loss", "quantize", "compute_output_spec"}


def shell(operation: keras.Operation, cls: type[keras.Operation] | None = None) -> keras.Operation:
    """A second handle on an operation: same variables and state, no record of any call.

    Calling the handle leaves no trace in the model that the operation came from.

    Args:
        cls: a class above that of the operation, which the handle is of; None is its own.
    """
    # copy.copy would save and load the layer.
    handle = object.__new__(type(operation) if cls is None else cls)
    vars(handle).update(vars(operation), _inbound_nodes=[], _outbound_nodes=[])
    if isinstance(operation, keras.Layer):  # a call clears these
        vars(handle).update(_losses=[*operation._losses], _loss_ids={*operation._loss_ids})
    return handle


def complete_config(operation: keras.Operation) -> dict[str, Any]:
    """What `get_config` gives, and what Keras leaves out of it.

    Raises:
        NotImplementedError: the class has none.
    """
    cls = type(operation)
    try:
        config = dict(operation.get_config())
    except Exception as error:
        # Keras notes what `Identity` and `ELU` are made with, but can't note a policy; nor can it
        # note an activation that is no function.
        names = inspect.signature(cls).parameters.keys() - {"kwargs"}
        known = {name: getattr(operation, name) for name in names if hasattr(operation, name)}
        own = cls.__module__.startswith("keras.src.layers.")
        if not own or len(known) < len(names) or _holds_layer(known):
            raise NotImplementedError(f"{cls.__name__} has no configuration") from error
        config = known | {"name": operation.name, "dtype": operation.dtype_policy.name}
    for name in ACTIVATIONS:
        if cls.__module__.startswith("keras.src.") and (
            known_as := activation_name(vars(operation).get(name))
        ):
            config[name] = known_as
    # Keras 3.14 leaves it out.
    if hasattr(operation, "output_padding") and cls.__module__.startswith("keras.src."):
        config.setdefault("output_padding", operation.output_padding)
    return config


def _holds_layer(config: dict[str, Any]) -> bool:
    return any(isinstance(leaf, keras.Layer) for leaf in keras.tree.flatten(config))


def own_attributes(layer: keras.Layer) -> list[str]:
    """The Python attributes that a layer's class added to those of every layer.

    None for Keras' own classes, whose configurations are complete.
    """
    if type(layer).__module__.startswith("keras.src."):
        return []
    names = vars(layer).keys() - common_attributes(layer)
    if is_graph_class(type(layer)):  # what it computes is its graph
        names = {name for name in names if not name.startswith("_")}
    return sorted(
        name
        for name in names
        if not name.startswith("_self_")  # TensorFlow's own
        and not isinstance(vars(layer)[name], keras.callbacks.History)  # of `fit`
    )


def common_attributes(layer: keras.Layer) -> frozenset[str]:
    """What every layer, or every model of a kind, has for itself, or may get from Keras."""
    kinds = (Functional, keras.Sequential, keras.Model)
    return _attributes_of(next((kind for kind in kinds if isinstance(layer, kind)), keras.Layer))


@functools.cache
def _attributes_of(kind: type[keras.Layer]) -> frozenset[str]:
    # What Keras notes of a constructor with `*args` has no default.
    known = {"build", "quantize", "_auto_config_error_args"}
    if kind is keras.Layer:
        return frozenset(known.union(vars(keras.Layer())))
    # With names: Keras counts those that it makes itself.
    tensor = keras.Input((1,), name="tensor")
    chain = keras.Sequential([tensor, keras.layers.Identity(name="same")], name="chain")
    models = keras.Model(name="model"), chain, Functional(tensor, chain(tensor), name="graph")
    return frozenset(known.union(RUN, *(vars(each) for each in models if type(each) is kind)))


# What Keras sets on a model that it compiles or runs.
RUN = (
    *("optimizer", "output_names", "stop_evaluating", "stop_predicting", "stop_training"),
    *("_compile_config", "_compiled_trainable_state", "_eval_epoch_iterator", "_jax_state"),
)


def patched_methods(operation: keras.Operation) -> list[str]:
    """Methods that a user put on one layer, in the place of those of its class."""
    return sorted(
        name
        for name in vars(operation).keys() - KEPT_ON_THE_OBJECT
        if inspect.isfunction(getattr(type(operation), name, None))
    )


# Who wrote what these packages hold is not the user.
LIBRARIES = ("keras", "tensorflow", "jax", "jaxlib", "torch", "numpy", "builtins")


def is_users(what: Any) -> bool:
    """Whether a class or function is of the user's own code, or a package that builds on Keras."""
    return str(getattr(what, "__module__", "builtins")).split(".")[0] not in LIBRARIES


# Layers that by themselves do not cast what they get.
UNCAST = (
    keras.layers.Embedding,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)
# What Keras' layers compute with, besides what it calls by the same name without the underscore.
KERNELS = ("kernel", "_kernel", "depthwise_kernel", "pointwise_kernel", "_embeddings")
OTHER_WEIGHTS = "computes with other weights than those that it was built with"


def casts_as_its_class(layer: keras.Layer) -> bool:
    """Whether one of Keras' layers casts what it gets as others of its class do: `autocast=False`
    is not in its configuration. Of others nobody knows.
    """
    return is_users(type(layer)) or bool(layer.autocast) is (type(layer) not in UNCAST)


def has_its_weights(layer: keras.Layer) -> bool:
    """Whether one of Keras' layers computes with the weights that it was built with: somebody may
    have taken its bias away, or given it the kernel of another layer. Of others nobody knows.
    """
    if is_users(type(layer)):
        return True
    own = vars(layer)
    asks = own.get("use_bias") or (own.get("bias_axes") if "bias" in own else None)
    if layer.built and asks and "bias" in own and own["bias"] is None:
        return False
    held = [own[name] for name in KERNELS if own.get(name) is not None]
    return all(any(each is weight for weight in layer.weights) for each in held)


def states_between_batches(layer: keras.Layer) -> list[keras.Variable]:
    """The states of a recurrent layer that goes on from one batch to the next; none of others."""
    if not getattr(layer, "stateful", False):
        return []
    return [state for state in keras.tree.flatten(layer.states) if state is not None]


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layer and all layers inside it, in the order in which Keras tracks them."""
    # A weak reference stands for a layer that is held elsewhere.
    return [each for each in layer._flatten_layers() if type(each) not in ProxyTypes]


def layers_in(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that a layer holds itself, not those inside them."""
    held = layer._flatten_layers(include_self=False, recursive=False)
    return [each for each in held if type(each) not in ProxyTypes]


def infers(layer: keras.Layer) -> bool:
    """Whether a class says itself what it returns."""
    cls = type(layer)
    return (
        cls.compute_output_spec is not keras.Layer.compute_output_spec
        or cls.compute_output_shape is not keras.Layer.compute_output_shape
    )


def named_weights(layer: keras.Layer) -> dict[str, keras.Variable]:
    """The weights of a layer by name; where several have one, those of the layers inside have the
    name of these too, as in `query/kernel`.
    """
    counts = Counter(variable.name for variable in layer.weights)
    own = {id(each) for each in (*layer._trainable_variables, *layer._non_trainable_variables)}
    return {
        variable.name
        if counts[variable.name] == 1 or id(variable) in own
        else "/".join(variable.path.split("/")[-2:]): variable
        for variable in layer.weights
    }


def reads_several(layer: keras.Layer) -> bool:
    """Whether a layer is built for more than one tensor, as an attention is."""
    _, *shapes = inspect.signature(type(layer).build).parameters.values()
    return sum(each.default is inspect.Parameter.empty for each in shapes) > 1


@contextlib.contextmanager
def recursion(calls: int) -> Iterator[None]:
    """Let Keras build a model of so many calls: it walks up to the inputs by recursion."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + FRAMES_A_CALL * calls)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@contextlib.contextmanager
def no_initializers(layer: keras.Layer) -> Iterator[None]:
    """Let a layer be built without drawing the random numbers that are overwritten next.

    On large models the initializers are most of the time that building takes.
    """
    zeros = keras.initializers.Zeros()
    replaced = [
        (part, name, value)
        for part in sublayers(layer)
        if not is_users(type(part))  # which may compute with what it draws
        for name, value in vars(part).items()
        if isinstance(value, keras.Initializer)
    ]
    for part, name, _ in replaced:
        vars(part)[name] = zeros  # not setattr: the layer need not notice
    try:
        yield
    finally:
        for part, name, value in replaced:
            vars(part)[name] = value


@contextlib.contextmanager
def bounded_attempts(limit: int) -> Iterator[None]:
    """Let Keras try no more calls than this while it builds graphs from configurations.

    Keras 3.14 tries a call that raises an IndexError again for ever.

    Raises:
        ValueError: on one more.
    """
    attempts = 0
    deserialize_node = functional_models.deserialize_node

    def counted(*args: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts > limit:
            raise ValueError("a call of its graph can't be made")
        return deserialize_node(*args)

    functional_models.deserialize_node = counted
    try:
        yield
    finally:
        functional_models.deserialize_node = deserialize_node


@contextlib.contextmanager
def fresh_names() -> Iterator[None]:
    """Let the names that Keras gives layers start anew, and go on afterwards where they were."""
    with _global_attribute("object_name_uids", None):
        yield


@contextlib.contextmanager
def shared_objects() -> Iterator[None]:
    """Let what is serialized several times be one object when it is deserialized, as in a file."""
    with contextlib.ExitStack() as stack:
        for name in ("id_to_obj_map", "id_to_config_map"):
            stack.enter_context(_global_attribute(f"shared_objects/{name}", {}))
        yield


@contextlib.contextmanager
def _global_attribute(name: str, value: Any) -> Iterator[None]:
    """Give an entry of Keras' global state another value, and afterwards the one that it had."""
    before = global_state.get_global_attribute(name)
    global_state.set_global_attribute(name, value)
    try:
        yield
    finally:
        global_state.set_global_attribute(name, before)


# What layers, variables and classes of Keras are given for some time, they have for all threads: so
# one thread at a time reads a model.
READING = threading.RLock()


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Read a model, which is left as it is also by Keras: to write down a policy that goes by names
    it takes the names of those in it away.
    """
    with READING:
        get_config = keras.dtype_policies.DTypePolicyMap.get_config

        def get_config_only(policy: keras.dtype_policies.DTypePolicyMap) -> dict[str, Any]:
            before = [(each, dict(vars(each))) for each in policy.values()]
            try:
                return dict(get_config(policy))
            finally:
                for each, attributes in before:
                    vars(each).update(attributes)

        keras.dtype_policies.DTypePolicyMap.get_config = get_config_only
        try:
            yield
        finally:
            keras.dtype_policies.DTypePolicyMap.get_config = get_config


@contextlib.contextmanager
def numpy_defers() -> Iterator[None]:
    """Let `np.sqrt(2.0) * x` be a product of Keras for a symbolic `x`: numpy would ask for its
    values.
    """
    if "__array_ufunc__" in vars(keras.KerasTensor):  # it does already
        yield
        return
    keras.KerasTensor.__array_ufunc__ = None
    try:
        yield
    finally:
        del keras.KerasTensor.__array_ufunc__


@contextlib.contextmanager
def at_inference(layer: keras.Layer) -> Iterator[None]:
    """Let what a layer's `call` calls inherit `training=False` from it, as it does in `predict`.

    Some layers take themselves to be in training where nobody tells them.
    """
    context = CallContext(entry_layer=layer)
    context.set_value("training", False)
    with _global_attribute("current_call_ctx", context):
        yield
