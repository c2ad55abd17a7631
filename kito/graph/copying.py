"""A second layer like the first: structure, weights and whatever else its class saves.

Keras copies a layer through its configuration, which for layers that people write may say too
little. A copy is therefore compared with the original, and refused if it is not the same.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from types import CodeType, MethodType
from types import FunctionType as Function
from typing import Any

import keras
import numpy as np

from kito.graph.activation_names import activation_name
from kito.graph.keras_internals import (
    ACTIVATIONS,
    OTHER_WEIGHTS,
    arguments_of_calls,
    called,
    complete_config,
    has_its_weights,
    infers,
    is_users,
    layers_in,
    no_initializers,
    own_attributes,
    patched_methods,
    shared_objects,
    states_between_batches,
    sublayers,
)
from kito.graph.layer import to_numpy
from kito.graph.untracked import attributes, made_of, parts_and_variables

# What is compared by its value.
PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), type, Enum, np.generic, CodeType),
    *(set, frozenset, range, slice, date, time, timedelta, re.Pattern, Decimal, Fraction),
)
SETTINGS = (bool, int, float, str, type(None))
# What says where a layer stands, and not what it does.
NOT_SETTINGS = {"_name", "name", "_path", "_parent_path", "_called", "_lock", "_trainable", "built"}
# How one of Keras' own layers computes in few bits, which a class around it may not write down.
QUANTIZATION = ("quantization_config", "inputs_quantizer")
# Entries of a configuration that are compared, or copied, by themselves.
COPIED = ("dtype", *QUANTIZATION)
# What a layer may be made with, and its configuration names.
OBJECTS = keras.Initializer, keras.Regularizer, keras.constraints.Constraint, Function
# Layers of Keras' own around a layer that they are given.
WRAPPERS = (keras.layers.TimeDistributed, keras.layers.SpectralNormalization)
# What a `compile` of a class' own leaves in attributes: it is called again.
COMPILED_WITH = (keras.Loss, keras.Metric, keras.Optimizer)
# How deep objects in the attributes of a layer are compared.
LEVELS = 3


class CannotCopyError(Exception):
    """Keras can't make a second layer of a configuration."""


def can_copy(layer: keras.Layer) -> bool:
    """Whether Keras makes a second layer of the configuration at all."""
    try:
        copy_structure(layer)
    except Exception:
        return False
    return True


def can_load(operation: keras.Operation) -> bool:
    """Whether Keras would load what it saves of a layer, in a process that knows its class."""
    cls = type(operation)
    if not isinstance(operation, keras.Layer):
        return _can_save(operation)
    if cls is not keras.layers.Lambda and cls.__module__.startswith("keras.src."):
        return names_activations(operation) and _loads_parts(operation)
    registered = keras.saving.get_registered_name(cls)
    # Of a Lambda Keras asks for its function only.
    known = cls is keras.layers.Lambda or keras.saving.get_registered_object(registered) is cls
    # From these packages Keras imports also what is not registered.
    return (known or cls.__module__.startswith("keras_hub.")) and _can_rebuild(operation)


def _loads_parts(layer: keras.Layer) -> bool:
    """Whether Keras loads what one of its own layers is made with, and the layers inside it."""
    return all(map(_can_load_object, made_with(layer))) and all(map(can_load, layers_in(layer)))


def _can_load_object(value: Any) -> bool:
    with contextlib.suppress(Exception):  # whatever the class raises
        saved = json.dumps(keras.saving.serialize_keras_object(value))
        return type(keras.saving.deserialize_keras_object(json.loads(saved))) is type(value)
    return False


def made_with(layer: keras.Layer) -> list[Any]:
    """The initializers and so on, of users' classes, and functions, that a layer keeps."""
    return [each for each in vars(layer).values() if isinstance(each, OBJECTS) and is_users(each)]


def _can_save(operation: keras.Operation) -> bool:
    """Whether Keras can write down an operation of `keras.ops`: with tensors in it, it can't."""
    try:
        json.dumps(keras.saving.serialize_keras_object(operation))
    except Exception:
        return False
    return True


def _can_rebuild(layer: keras.Layer) -> bool:
    """Whether Keras makes and builds the layer of what a file says of it: there, shapes are lists,
    which a `build` that gets tuples of the layer around it need not expect.
    """
    try:
        [copy] = _of_configurations([layer])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its call builds the rest
            build(copy, json.loads(json.dumps(layer.get_build_config())))
        if len(copy.variables) < len(layer.variables) and any(
            is_users(type(part)) and infers(part) for part in sublayers(layer)
        ):
            # Its call would build the rest, but Keras does not run the call of such a layer.
            args, kwargs = keras.tree.map_structure(_unconnected, arguments_of_calls(layer)[0])
            copy(*args, **kwargs)
            return len(copy.variables) == len(layer.variables)
    except Exception:
        return False
    return True


def _unconnected(leaf: Any) -> Any:
    """A symbolic tensor like another one, that no call made."""
    symbolic = isinstance(leaf, keras.KerasTensor)
    return keras.KerasTensor(leaf.shape, leaf.dtype) if symbolic else leaf


def names_activations(layer: keras.Layer) -> bool:
    """Whether the functions that a layer applies are those which its configuration names.

    Keras writes a function's name only; it may not find a function of that name, or find its own.
    And it forgets the weights of a layer that is used as a function.
    """
    by_keras = not is_users(type(layer))  # in others a layer is one that they hold
    return all(_is_named(vars(layer).get(name), by_keras) for name in ACTIVATIONS)


def _same_activations(one: keras.Layer, other: keras.Layer) -> bool:
    """Whether two layers apply the same functions: a composite may hand them to what it holds."""
    pairs = [(vars(one).get(name), vars(other).get(name)) for name in ACTIVATIONS]
    return all(old is new or (isinstance(old, Function) and _equal(old, new)) for old, new in pairs)


def _is_named(activation: Any, by_keras: bool) -> bool:
    if isinstance(activation, keras.Layer):
        loads = not by_keras or type(_loaded(activation)) is type(activation)
        return loads and not activation.weights
    if not isinstance(activation, Function):
        return not callable(activation) or isinstance(_loaded(activation), type(activation))
    name = activation.__name__
    if name == "<lambda>":
        return False
    # What TensorFlow names otherwise, `complete_config` has under Keras' name.
    if getattr(keras.activations, name, None) is activation or activation_name(activation):
        return True
    found = _loaded(activation)
    # What TensorFlow has of the same name, such as tf.nn.relu, Keras saves as its own function.
    return found is not None and (
        _equal(found, activation) or activation.__module__.startswith("tensorflow.")
    )


def _loaded(activation: Any) -> Any:
    """The function, or object, that Keras finds for what it saves of one; None if it finds none."""
    try:
        return keras.activations.get(keras.activations.serialize(activation))
    except Exception:  # whatever the class raises
        return None


def copy_structure(layer: keras.Layer) -> keras.Layer:
    """A second layer of the same configuration, not yet built."""
    [copy] = copy_structures([layer])
    return copy


def copy_structures(layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    """Second layers of the same configurations, not yet built. What the layers have in common is
    one layer in the copies too, where it would be one in what Keras loads.
    """
    try:
        return _of_configurations(layers)
    except Exception:
        # Classes that nobody registered: those inside the layers are known all the same.
        parts = [part for layer in layers for part in sublayers(layer)]
        objects = (each for part in parts for each in (part, *made_with(part)))
        kinds = [type(each) for each in objects if not isinstance(each, Function)]
        with keras.saving.custom_object_scope({kind.__name__: kind for kind in kinds}):
            return _of_configurations(layers)


def _of_configurations(layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    copies = []
    with shared_objects():
        # All at first: that something is seen twice is noted where it was seen first.
        configs = [complete_config(layer) for layer in layers]
        for layer, config in zip(layers, configs, strict=True):
            with policy_of(layer):
                copies.append(type(layer).from_config(config))
    for layer, copy in zip(layers, copies, strict=True):
        # SpatialDropout leaves the policy out of its configuration, layers without a `get_config`
        # of their own leave out the name.
        if not goes_by_names(layer.dtype_policy):
            # Not the property: that would put it among those of a policy that goes by names.
            copy._dtype_policy = layer.dtype_policy
        copy.name = layer.name
        copy.autocast, copy.supports_masking = layer.autocast, layer.supports_masking
    return copies


def copy_layer(layer: keras.Layer) -> keras.Layer:
    """A second layer that is built and has the state of the first.

    Raises:
        Exception: whatever the class raises, or Keras.
        CannotCopyError: the copy would be another layer.
    """
    copy = copy_structure(layer)
    build(copy, layer.get_build_config())
    copy_state(layer, copy)
    return copy


def copy_model(model: keras.Model) -> keras.Model:
    """A second model of the class, that is built and has the state of the first.

    Unlike a layer, a model is copied too if its constructor takes no `name`, `trainable` and
    `dtype`, as most do not, though Keras says them of a class without a `get_config` of its own;
    if Keras can't call it to build it, but builds what is inside; and if its copy does not yet have
    what its first call puts into attributes of its own.

    Raises: what `copy_layer` raises.
    """
    with contextlib.suppress(Exception):
        return copy_layer(model)
    # Its layers may have its policy, or not have got it.
    policies = policy_of, contextlib.nullcontext
    error: Exception = CannotCopyError()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Keras can't call it
        ways = itertools.product((False, True), policies, (_build_inside, _build_like))
        for is_new, policy, build_as in ways:
            try:
                copy = _made_anew(model, policy(model))
                build_as(model, copy)
                copy_state(model, copy, is_new=is_new)
            except Exception as raised:
                error = raised
            else:
                return copy
    raise error


def _made_anew(model: keras.Model, policy: contextlib.AbstractContextManager[None]) -> keras.Model:
    """What the class makes of its configuration.

    Of a model without a `get_config` of its own, Keras says what the constructor need not take, and
    of what it takes only the defaults. Most constructors keep that in an attribute of the name, or
    of that with an underscore.
    """
    if type(model).get_config is keras.Model.get_config:
        taken = inspect.signature(type(model)).parameters
        config = {
            name: _anew(getattr(model, kept))
            for name in taken
            for kept in (f"_{name}", name)  # the latter, if it has both
            if hasattr(model, kept) and not hasattr(type(model), kept)
        }
        if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
            config["dtype"] = model.dtype_policy
    else:
        config = complete_config(model)
    with policy:
        copy = type(model).from_config(config)
    copy.name = model.name
    return copy


def _anew(value: Any) -> Any:
    """An argument like one that a model keeps.

    Raises:
        CannotCopyError: it may be something that both would share.
    """
    if isinstance(value, list | tuple):
        several = map(_anew, value)
        return tuple(several) if isinstance(value, tuple) else list(several)
    if isinstance(value, keras.Layer):
        return copy_structure(value)
    if not (isinstance(value, PLAIN) or (isinstance(value, Function) and not value.__closure__)):
        raise CannotCopyError(f"it is made of a {type(value).__name__}")
    return value


def _build_inside(source: keras.Layer, copy: keras.Layer) -> None:
    """Build the layers inside a copy, each before those that it makes then, and the copy itself."""
    for old, new in zip(layers_in(source), layers_in(copy), strict=True):
        _build_like(old, new)
        _build_inside(old, new)
    _build_like(source, copy)


def _build_like(source: keras.Layer, copy: keras.Layer) -> None:
    """Build a copy of what the source was built of."""
    build(copy, source.get_build_config())


def copy_and_call(
    layer: keras.Layer,
    args: Any,
    kwargs: Any,
    name: str | None = None,
    output: keras.KerasTensor | None = None,
) -> tuple[keras.Layer, Any]:
    """A second layer that has the state of the first and is built by its first call, and what that
    gives.

    Args:
        output: what it gives, if that is known.

    Raises: what `copy_layer` raises.
    """
    copy = copy_structure(layer)
    copy.name = name or layer.name
    with no_initializers(copy), policy_of(layer), known_output(layer, copy, output):
        outputs = called(copy, args, kwargs)
    copy_state(layer, copy)
    return copy, outputs


@contextlib.contextmanager
def known_output(
    source: keras.Layer, copy: keras.Layer, output: keras.KerasTensor | None
) -> Iterator[None]:
    """Spare Keras the `call` of a user's copy on symbolic tensors, to infer what is known of it,
    unless that has something to build.
    """

    def infer(*args: Any, **kwargs: Any) -> Any:
        built, wanted = ([part.built for part in sublayers(each)] for each in (copy, source))
        _, variables = parts_and_variables(source)
        listed = len(variables) == len(source.variables)
        known = copy.variables if listed else parts_and_variables(copy)[1]
        if built != wanted or len(known) < len(variables):
            return type(copy).compute_output_spec(copy, *args, **kwargs)
        return output

    if output is None or infers(copy) or not is_users(type(copy)):
        yield
        return
    vars(copy)["compute_output_spec"] = infer
    try:
        yield
    finally:
        del vars(copy)["compute_output_spec"]


def copy_together(
    calls: Mapping[keras.Layer, tuple[Any, Any]],
) -> dict[keras.Layer, keras.Layer]:
    """Second layers of those that have parts in common, and of all these parts.

    Args:
        calls: the arguments of a call of each.

    Raises:
        Exception: what `copy_layer` raises.
        CannotCopyError: the copies have less in common.
    """
    found: dict[keras.Layer, keras.Layer] = {}
    for (layer, (args, kwargs)), copy in zip(calls.items(), copy_structures([*calls]), strict=True):
        with no_initializers(copy), policy_of(layer):
            copy(*args, **kwargs)
        copy_state(layer, copy)
        for old, new in zip(sublayers(layer), sublayers(copy), strict=True):
            if found.setdefault(old, new) is not new and old.weights:
                raise CannotCopyError(f"its configuration makes a second {old.name}")
    return found


def build(layer: keras.Layer, config: Any) -> None:
    """Build a layer of what `get_build_config` gives, as Keras does when it loads one."""
    if config and not layer.built:
        with no_initializers(layer), policy_of(layer):
            layer.build_from_config(config)
        layer.built = True


@contextlib.contextmanager
def policy_of(layer: keras.Layer) -> Iterator[None]:
    """Let layers that a layer makes for itself have the policy that it has; a wrapper makes none,
    but what it holds may.
    """
    while type(layer) in WRAPPERS:
        layer = layer.layer
    policy = layer.dtype_policy
    if goes_by_names(policy):  # Keras can't have that for all
        policy = policy.default_policy
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def goes_by_names(policy: keras.DTypePolicy) -> bool:
    """Whether a policy is another one for each layer, by its name."""
    return isinstance(policy, keras.dtype_policies.DTypePolicyMap)


def copy_state(source: keras.Layer, copy: keras.Layer, *, is_new: bool = False) -> None:
    """Give a copy the source's weights, and whatever else its class saves.

    Args:
        is_new: whether the copy may lack what a first call puts into attributes of its own.

    Raises:
        CannotCopyError: the copy was built differently.
    """
    parts, variables = parts_and_variables(source)
    new_parts, new_variables = parts_and_variables(copy)
    if len(parts) != len(new_parts):
        raise CannotCopyError("its configuration makes other layers")
    if untracked := list(zip(parts, new_parts, strict=True))[len(sublayers(source)) :]:
        for old_part, new_part in untracked:
            _build_like(old_part, new_part)
        _, new_variables = parts_and_variables(copy)
    _copy_values(variables, new_variables)
    for old_part, new_part in zip(parts, new_parts, strict=True):
        # The outer ones come first, and set it in what they hold.
        new_part.trainable = old_part.trainable
        if not has_its_weights(old_part):
            raise CannotCopyError(f"{old_part.name} {OTHER_WEIGHTS}")
        for method in patched_methods(old_part):
            raise CannotCopyError(
                f"{old_part.name} has a `{method}` of its own, not that of its class"
            )
        _copy_policy(old_part, new_part)
        if not (names_activations(old_part) or _same_activations(old_part, new_part)):
            raise CannotCopyError(f"its configuration lacks the activation of {old_part.name}")
        if lost := [
            name
            for name in own_attributes(old_part)
            if _differs(name, old_part, new_part) and not (is_new and _is_unset(name, new_part))
        ]:
            raise CannotCopyError(f"its configuration does not carry {', '.join(lost)}")
        if old_part is not source and not _same_configuration(old_part, new_part):
            raise CannotCopyError(f"its configuration makes another {type(old_part).__name__}")
        _copy_settings(old_part, new_part)
        if _overrides(old_part, "load_assets"):
            with tempfile.TemporaryDirectory() as folder:
                old_part.save_assets(folder)
                new_part.load_assets(folder)
        # What Normalization computes of its weights. Discretization has none, and would lose here
        # what its configuration carried.
        if old_part.variables and hasattr(new_part, "finalize_state"):
            new_part.finalize_state()
        # Normalization goes by what it had when it was adapted, built or loaded, whatever was
        # assigned to its weights since.
        if type(old_part) is keras.layers.Normalization:
            new_part.mean, new_part.variance = old_part.mean, old_part.variance


def _copy_values(
    variables: Sequence[keras.Variable], new_variables: Sequence[keras.Variable]
) -> None:
    """Give the variables of a copy the values of the source's.

    Raises:
        CannotCopyError: they are others.
    """
    pairs = list(zip(variables, new_variables, strict=False))
    if len(variables) != len(new_variables) or any(
        old.shape != new.shape or old.dtype != new.dtype for old, new in pairs
    ):
        raise CannotCopyError("its configuration builds other weights")
    for old, new in pairs:
        # A copy: on JAX, `predict` gives the memory of a model's variables away while it runs.
        new.assign(keras.ops.copy(old))


def _copy_policy(source: keras.Layer, copy: keras.Layer) -> None:
    """Give a copy the policy of the source in the place of one that goes by names, as it has if its
    class writes down those of all its layers: with that Keras can't save it.

    Raises:
        CannotCopyError: it has another policy.
    """
    old, new = source.dtype_policy, copy.dtype_policy
    if by_names := goes_by_names(new) and not goes_by_names(old):
        new = new[copy.path] if copy.path else new.default_policy  # as Keras goes by it
    if not _same_policy(old, new):
        raise CannotCopyError(f"its configuration gives {copy.name} another dtype policy")
    if by_names:  # its own, for to write it down takes its name away
        copy._dtype_policy = deepcopy(old)


def _same_policy(one: keras.DTypePolicy, other: keras.DTypePolicy) -> bool:
    """Whether two policies are equal; those that go by names can't be compared by Keras."""
    config: bool = one.get_config() == other.get_config()
    return type(one) is type(other) and config


def _copy_settings(source: keras.Layer, copy: keras.Layer) -> None:
    """What one of Keras' own layers goes by and its configuration lacks, such as `lora_alpha`, and
    the states that it has between two calls.
    """
    if is_users(type(source)):
        return
    vars(copy).update({name: vars(source)[name] for name in QUANTIZATION if name in vars(source)})
    for name, value in vars(source).items():
        if name in NOT_SETTINGS or name.startswith("_self_"):  # those are TensorFlow's own
            continue
        old = vars(copy).get(name)
        if isinstance(value, SETTINGS) and isinstance(old, SETTINGS) and old != value:
            vars(copy)[name] = value
    pairs = zip(states_between_batches(source), states_between_batches(copy), strict=True)
    for state, new_state in pairs:
        new_state.assign(state)


def _differs(name: str, source: keras.Layer, copy: keras.Layer) -> bool:
    """Whether a copy has another value in an attribute, as far as values can be compared."""
    old, new = vars(source)[name], vars(copy).get(name)
    if any(map(_is_left_by_a_call, keras.tree.flatten((old, new)))):
        return False
    if isinstance(old, COMPILED_WITH) and isinstance(source, keras.Model):
        return False
    return name not in vars(copy) or not _all_equal(old, new, LEVELS)


def _is_unset(name: str, layer: keras.Layer) -> bool:
    """Whether an attribute of a layer's own has nothing yet."""
    value = vars(layer).get(name)
    nothing = value is None or (isinstance(value, list | tuple | dict) and not value)
    return nothing and name.startswith("_")


def _is_left_by_a_call(value: Any) -> bool:
    """Whether a value is a tensor without values: the attribute had it from a symbolic call, and
    gets another one in the next.
    """
    if isinstance(value, PLAIN):
        return False
    if not keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        return isinstance(value, keras.KerasTensor)
    try:
        to_numpy(value)
    except Exception:
        return True
    return False


def _same_configuration(source: keras.Layer, copy: keras.Layer) -> bool:
    """Whether two of Keras' own layers, that a composite holds, have the same configuration."""
    if not type(source).__module__.startswith("keras.src.layers."):
        return True  # its attributes were compared
    if isinstance(source, keras.layers.InputLayer):
        return True  # of the shapes in the first call of what holds it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Keras can't load a lambda is not asked here
        old, new = (
            [
                (path, leaf)
                for path, leaf in keras.tree.flatten_with_path(complete_config(layer))
                if path[0] not in COPIED and not any(map(_is_incidental, path))
            ]
            for layer in (source, copy)
        )
    return len(old) == len(new) and all(
        path == other_path and _equal(leaf, other)
        for (path, leaf), (other_path, other) in zip(old, new, strict=True)
    )


def _is_incidental(key: Any) -> bool:
    """Whether an entry of a configuration says nothing about what the layer computes."""
    return key in ("name", "build_config", "shared_object_id") or str(key).endswith("_initializer")


def _equal(one: Any, other: Any, depth: int = LEVELS) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, PLAIN):  # first, for it is most of what is compared
        return bool(one == other)
    if isinstance(one, np.ndarray) or keras.ops.is_tensor(one):
        return np.array_equal(to_numpy(one), to_numpy(other))
    if isinstance(one, Function | MethodType | partial):
        same = depth > 0 and _all_equal(made_of(one), made_of(other), depth - 1)
        return one is other or same
    if is_dataclass(one):
        return bool(one == other)
    # What Keras tracks in a layer is compared where that is.
    users = is_users(type(one)) and not isinstance(one, keras.Operation)
    looked_into = depth > 0 and (users or isinstance(one, keras.Loss))
    return not looked_into or _same_object(one, other, depth - 1)


def _same_object(one: Any, other: Any, depth: int) -> bool:
    """Whether two objects of a user's class are equal, or their attributes for some levels."""
    if any("__eq__" in vars(cls) for cls in type(one).__mro__[:-1]):
        with contextlib.suppress(Exception):  # of arrays, or weights, in them
            return bool(one == other)
    old, new = map(attributes, (one, other))
    if old.keys() != new.keys():
        return False
    return all(_all_equal(value, new[name], depth) for name, value in old.items())


def _all_equal(one: Any, other: Any, depth: int) -> bool:
    """Whether the leaves of two structures are equal, and stand in the same places."""
    if not (keras.tree.is_nested(one) or keras.tree.is_nested(other)):
        return _equal(one, other, depth)
    leaves, others = map(keras.tree.flatten_with_path, (one, other))
    return len(leaves) == len(others) and all(
        path == other_path and _equal(a, b, depth)
        for (path, a), (other_path, b) in zip(leaves, others, strict=True)
    )


def _overrides(layer: keras.Layer, method: str) -> bool:
    return getattr(type(layer), method, None) is not getattr(keras.Layer, method, None)
