"""What Keras calls an operation: a class, its configuration and its weights.

A rule makes new layers of those that it matched, and asks for a `Call` of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kito.graph.keras_internals import complete_config, is_users, named_weights, shell

if TYPE_CHECKING:
    from kito.graph.ir import Graph

# What training needs and inference does not: none of it says anything about rewritten weights.
TRAINING_ONLY = ("regularizer", "constraint")
# What a layer that has its weights computes does not depend on these.
NOT_BEHAVIOUR = ("_initializer", *TRAINING_ONLY)
# So many numbers of a weight tell it from most others.
SAMPLE = 16


@dataclass(frozen=True, eq=False)
class Call:
    """A call that a rule asks for: a layer and its arguments, which are tensors of the graph
    (`Ref`), other calls, outputs of these (`Output`), and constants.
    """

    layer: Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, index: int) -> Output:
        """One output of a call that has several."""
        return Output(self, index)

    @cached_property
    def order(self) -> tuple[Call, ...]:
        """This call and all calls that it needs, each once, in the order of computation."""
        found: dict[Call, None] = {}
        for leaf in keras.tree.flatten((self.args, self.kwargs)):
            if isinstance(leaf, Call | Output):
                found |= dict.fromkeys(call_of(leaf).order)
        return (*found, self)


@dataclass(frozen=True)
class Output:
    """Output number `index` of a call that a rule asks for."""

    call: Call
    index: int


def call_of(made: Call | Output) -> Call:
    """The call, also of one of its outputs."""
    return made.call if isinstance(made, Output) else made


@dataclass(frozen=True, eq=False)
class Layer:
    """A class, its configuration and its weights; never changed, only replaced (see `evolve`).

    Configuration entries and weights are read as attributes: `conv.strides`, `conv.kernel`. Weights
    are numpy arrays, as the layer uses them: the kernel of a layer with LoRA is the merged one.
    """

    cls: type[keras.Operation]
    name: str
    source: Any = None  # the keras.Operation that it was lifted from
    graph: Graph | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    new_weights: Mapping[str, Any] = field(default_factory=dict)
    wraps: type[keras.Operation] | None = None  # the class of what a wrapper holds

    @classmethod
    def new(
        cls, kind: type[keras.Layer], weights: Mapping[str, Any] | None = None, **config: Any
    ) -> Layer:
        """A layer that the model did not have; `name` and `dtype` among the entries of `config`.

        Weights are cast to the dtype of the layer's variables.
        """
        complete = kind(**config).get_config()
        layer = cls(kind, complete["name"], overrides=complete)
        return replace(layer, new_weights=layer._tensors(weights or {}))

    @classmethod
    def of(cls, operation: keras.Operation) -> Layer:
        """A layer without weights, or an operation of `keras.ops`, that the model did not have."""
        return cls(type(operation), operation.name, source=operation)

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        """A call of the layer, as the result of a rule or a part of it."""
        return Call(self, args, kwargs)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration with which Keras builds the layer again, as `get_config` gives it."""
        source = self.source
        if source is not None and type(source) is not self.cls:  # a subclass, see subclasses.py
            source = shell(source, self.cls)
        config = complete_config(source) if source is not None else {}
        return config | dict(self.overrides) | {"name": self.name}

    @cached_property
    def has_config(self) -> bool:
        """Whether the layer can say what it is: with some functions in it, Keras' own can't."""
        try:
            return bool(self.config)
        except NotImplementedError:
            return False

    @cached_property
    def behaviour(self) -> dict[str, Any]:
        """The entries of the configuration that say what the layer computes with its weights."""
        return {
            name: value
            for name, value in self.config.items()
            if name not in ("name", "trainable") and not name.endswith(NOT_BEHAVIOUR)
        }

    @cached_property
    def signature(self) -> int:
        """A number that layers have in common which compute the same, and few others do."""
        try:
            behaviour = repr(self.behaviour)
        except NotImplementedError:  # an operation that can't say what it is
            return id(self)
        starts = tuple(weight.flat[:SAMPLE].tobytes() for weight in self.weights.values())
        return hash((self.cls, behaviour, starts))

    @cached_property
    def variables(self) -> dict[str, keras.Variable]:
        """The variables of the layer that this one was lifted from, see `named_weights`."""
        if self.new_weights or not isinstance(self.source, keras.Layer):
            return {}
        return named_weights(self.source)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """All weights by name. The arrays must not be written to."""
        return {name: self._weight(name) for name in [*self.variables, *self.new_weights]}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all weights by name, without a copy of any."""
        return {
            name: tuple(weight.shape)
            for name, weight in {**self.variables, **self.new_weights}.items()
        }

    def _weight(self, name: str) -> np.ndarray:
        if name in self._vectors:
            return self._vectors[name]
        value = self.new_weights.get(name)
        if value is None:
            value = self.source.kernel if self._merges(name) else self.variables[name]
        weight = to_numpy(value).view()
        weight.flags.writeable = False  # on some backends it is the variable's own memory
        if weight.ndim == 1:
            self._vectors[name] = weight
        return weight

    @cached_property
    def _vectors(self) -> dict[str, np.ndarray]:
        """The weights that many rules ask for, and that are small, by name."""
        return {}

    def _merges(self, name: str) -> bool:
        """Whether the weight is not a variable of the source: with LoRA a property adds up two."""
        lora = not self.new_weights and getattr(self.source, "lora_enabled", False)
        return bool(lora) and name == "kernel"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            if name in self.new_weights or name in self.variables:
                return self._weight(name)
            if name in self.config:
                return self.config[name]
        raise AttributeError(
            f"{self.cls.__name__} '{self.name}' has no weight or configuration entry '{name}'"
        )

    @property
    def is_new(self) -> bool:
        """Whether a rule made the layer."""
        return bool(self.overrides or self.new_weights)

    @property
    def parameters(self) -> int:
        """The number of weights, those of nested layers included."""
        if self.graph is not None:
            layers = {node.layer for node in self.graph}
            return sum(layer.parameters for layer in layers)
        if self.source is not None and not self.new_weights:
            variables = self.source.weights if isinstance(self.source, keras.Layer) else ()
            return sum(math.prod(variable.shape) for variable in variables)
        return sum(math.prod(weight.shape) for weight in self.new_weights.values())

    def evolve(self, **changes: Any) -> Layer:
        """This layer with some configuration entries and weights changed.

        Weights that stay are not copied. Others are cast once, from whatever precision they were
        computed in, to the dtype of the layer's variables. Regularizers and constraints, which only
        training reads, are dropped; so are initializers of users' own, which Keras may not know.

        Raises:
            TypeError: a name is neither a weight nor a configuration entry of the class.
        """
        entries = {name: value for name, value in changes.items() if name in self.config}
        names = [*self.variables, *self.new_weights]
        kept = [n for n in names if n not in changes and not n.startswith("lora_")]
        tensors = {**self.variables, **self.new_weights}
        tensors = {n: tensors[n] for n in kept if not self._merges(n)}
        weights = {n: self._weight(n) for n in kept if n not in tensors}
        for name in changes.keys() - entries.keys():
            if name not in names and f"{name}_initializer" not in self.config:
                raise TypeError(
                    f"{self.cls.__name__} has no weight or configuration entry '{name}'"
                )
            weights[name] = changes[name]
        dropped: dict[str, Any] = {
            name: None
            for name in self.config
            if name.endswith(TRAINING_ONLY) or name.startswith("lora_")
        }
        dropped |= {
            name: "zeros"
            for name in self.config
            if name.endswith("_initializer") and is_users(getattr(self.source, name, None))
        }
        return replace(
            self,
            overrides={**self.overrides, **dropped, **entries},
            new_weights={**tensors, **self._tensors(weights)},
        )

    def _tensors(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays as tensors of the backend, in the dtype of the layer's variables.

        A variable takes a tensor over, where it would copy an array.
        """
        tensors = {}
        for name, weight in weights.items():
            array = np.asarray(weight).astype(self._variable_dtype, copy=False)
            # With the dtype: without it, some backends make float32 of float64.
            tensors[name] = keras.ops.convert_to_tensor(array, dtype=str(array.dtype))
        return tensors

    @property
    def wrapped(self) -> Layer:
        """The layer inside a wrapper, such as TimeDistributed."""
        inner = self.source.layer
        cls = self.wraps or type(inner)
        if "layer" not in self.overrides:
            return Layer(cls, inner.name, source=inner)
        config = self.overrides["layer"]["config"]
        return Layer(cls, inner.name, overrides=config, new_weights=self.new_weights)

    def wrap(self, inner: Layer) -> Layer:
        """This wrapper around another layer, one that `evolve` made."""
        serialized = self.config["layer"] | {"config": inner.config}
        serialized.pop("build_config", None)
        if inner.cls is not type(self.source.layer):  # a subclass, see subclasses.py
            name = inner.cls.__name__
            serialized |= {"module": "keras.layers", "class_name": name, "registered_name": None}
        return replace(
            self, overrides={**self.overrides, "layer": serialized}, new_weights=inner.new_weights
        )

    @property
    def _variable_dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(
            keras.dtype_policies.get(self.config["dtype"]).variable_dtype
        )
        return dtype

    def __repr__(self) -> str:
        return f"{self.cls.__name__}({self.name})"


def to_numpy(value: Any) -> np.ndarray:
    """A Keras variable or backend tensor as a numpy array."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value)))
