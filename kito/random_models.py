"""Random Keras models, for property-based tests of rules: `pip install 'kito[testing]'`.

    @given(models())
    def test_any_model(model):
        check(model, rules=[my_rule])

`models()` is a hypothesis strategy. A model grows from its inputs call by call: each step picks
tensors that exist, calls real layers on them, and adds the results to what later steps can pick.
Steps are plain functions that get `draw`; whatever they pick shrinks to the latest tensor, one
layer and few options, so that a failing example ends as a short chain of calls.

Models compute the same in every run: nothing random is left on at inference, and every weight has
a value that shows mistakes (`kito.testing.randomize`).
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
from hypothesis.strategies import DrawFn
from keras import layers, ops

from kito.api import optimize
from kito.definition import Rule
from kito.graph.keras_internals import (
    LayerScale,
    calls_in_order,
    is_graph_class,
    number_of_calls,
    sublayers,
)
from kito.graph.layer import to_numpy
from kito.random_layers import (
    CHANNELS,
    CONVOLUTIONS,
    GLOBAL_POOLING,
    LINEAR,
    POOLING,
    RESIZING,
    Layer,
    Tensor,
    activation,
    affine,
    any_layer,
    composite,
    global_pooling,
    inner,
    linear_and_norm,
    noise,
    norm_call,
    normalization,
    pooling,
    rarely,
    reshaping,
    resizing,
)
from kito.report import Report
from kito.samples import random_inputs
from kito.testing import check_equivalent, randomize

Tensors = list[Tensor]

HALF = ("float16", "bfloat16")
POLICIES = ("float32", "float64", "mixed_float16", "mixed_bfloat16")
SIZES = (4, 3, 5, 2, 1)


# --- whole models -------------------------------------------------------------------------------


@st.composite
def models(draw: DrawFn, *, max_steps: int = 5, policies: Sequence[str] = POLICIES) -> keras.Model:
    """Built models of Keras' own layers, with random weights.

    Args:
        max_steps: how many steps a model grows at most; a step makes one to six calls.
        policies: the names of the dtype policies that models may have.
    """
    keras.utils.clear_session(free_memory=False)  # names of layers start anew
    policy, state = keras.config.dtype_policy(), random.getstate()
    keras.config.set_dtype_policy(draw(st.sampled_from(policies)))
    try:
        kind = sequential if rarely(draw, 5) else functional
        return randomize(kind(draw, max_steps))
    finally:
        keras.config.set_dtype_policy(policy)
        random.setstate(state)  # Keras draws seeds of initializers, which hypothesis warns of


def functional(draw: DrawFn, max_steps: int) -> keras.Model:
    """A Functional model with any number of inputs and outputs, in any structure."""
    batch = draw(st.sampled_from((None, 2, 3, 1)))
    count = draw(st.sampled_from((1, 2, 3)))
    inputs, tensors = [], []
    for number in range(count):
        tensor, ready = entry(draw, batch, f"in{number}")
        inputs.append(tensor)
        tensors.append(ready)
    grow(draw, tensors, max_steps)
    candidates = [*reversed(tensors), *inputs]  # an input may be an output
    outputs = [candidates[0]]
    while len(outputs) < 3 and rarely(draw, 3):
        outputs.append(draw(st.sampled_from(candidates)))
    return keras.Model(
        structure(draw, {tensor.name: tensor for tensor in inputs}),
        structure(draw, {f"out{number}": tensor for number, tensor in enumerate(outputs)}),
        name="model",
    )


def sequential(draw: DrawFn, max_steps: int) -> keras.Model:
    """A Sequential model: layers only, each called once."""
    x = keras.Input(input_shape(draw))
    parts = [x]
    for _ in range(draw(st.integers(1, max_steps))):
        new = linear_and_norm(draw, x) if draw(st.booleans()) else (any_layer(draw, x),)
        for layer in new:
            x = layer(x)
            parts.append(layer)
    return keras.Sequential(parts, name="model")


def entry(draw: DrawFn, batch: int | None, name: str) -> tuple[Tensor, Tensor]:
    """An input, and what steps can pick of it: the input itself, or an embedding of its words."""
    if rarely(draw, 6):
        length = draw(st.sampled_from((*SIZES, None)))
        words = keras.Input(batch_shape=(batch, length), dtype="int32", name=name)
        embedding = layers.Embedding(
            5, draw(st.sampled_from(CHANNELS)), mask_zero=draw(st.booleans())
        )
        return words, embedding(words)
    tensor = keras.Input(batch_shape=(batch, *input_shape(draw)), name=name)
    return tensor, tensor


def input_shape(draw: DrawFn) -> tuple[int | None, ...]:
    """The shape of one sample: zero to three sizes, maybe not known, and the channels."""
    rank = draw(st.sampled_from((2, 1, 0, 3)))
    # Three sizes that are not known would be 64 * 64 * 64 elements when the model runs.
    sizes = st.sampled_from(SIZES if rank == 3 else (*SIZES, None))
    return (*(draw(sizes) for _ in range(rank)), draw(st.sampled_from(CHANNELS)))


def structure(draw: DrawFn, tensors: dict[str, Tensor]) -> Any:
    """Tensors in one of the structures in which models take and return them."""
    first, *others = tensors
    flat = list(tensors.values())
    choices: list[Any] = [flat[0] if len(flat) == 1 else flat, flat, dict(tensors), tuple(flat)]
    if others:
        choices.append({first: flat[0], "rest": {name: tensors[name] for name in others}})
        choices.append([flat[0], flat[1:]])
    return choices[draw(st.integers(0, len(choices) - 1))]


# --- steps: (draw, x, tensors) -> new tensors ---------------------------------------------------


def grow(draw: DrawFn, tensors: Tensors, max_steps: int) -> None:
    """Take up to `max_steps` steps, and add what they give to the tensors."""
    for _ in range(draw(st.integers(1, max_steps))):
        x = latest(draw, tensors)
        steps = STEPS + (SEQUENCE_STEPS if len(x.shape) == 3 else ())
        tensors.extend(draw(st.sampled_from(steps))(draw, x, tensors))


def normalized_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """Linear layer, BatchNormalization, and maybe something after it: what the rules are for."""
    linear, norm = linear_and_norm(draw, x)
    first = linear(x)
    second = norm_call(draw, norm, first)
    if rarely(draw):
        return [first, second]  # the first may be read by others
    return [second]


def layer_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """One layer on one tensor."""
    return [any_layer(draw, x)(x)]


def merge_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """Add, Concatenate and the like, of tensors that exist; one tensor may come in twice."""
    others = [alike(draw, x, tensors) for _ in range(draw(st.integers(1, 2)))]
    return [merge(draw, [x, *others])]


def residual_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """Branches that keep the shape, merged with what they started from."""
    branches = [x]
    for _ in range(draw(st.integers(1, 2))):
        branches.append(same_shape(draw, x))
    if rarely(draw, 3):
        branches.append(x)
    return [merge(draw, branches)]


def branches_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """Convolutions of one tensor with other windows, and maybe the tensor itself, added."""
    rank, channels = len(x.shape) - 2, x.shape[-1]
    if not rank or not channels:
        return layer_step(draw, x, tensors)
    strides = 2 if rarely(draw, 3) else 1
    branches = []
    for _ in range(draw(st.integers(1, 3))):
        conv = CONVOLUTIONS[rank](
            channels,
            draw(st.sampled_from((3, 1, 2))),
            strides=strides,
            padding="same",
            use_bias=draw(st.booleans()),
        )
        y = conv(x)
        branches.append(normalization(draw, y)(y) if draw(st.booleans()) else y)
    if strides == 1 and draw(st.booleans()):
        branches.append(normalization(draw, x)(x) if draw(st.booleans()) else x)
    if len(branches) == 1:
        return branches
    return [layers.Add()(branches) if draw(st.booleans()) else branches[0] + branches[1]]


def padded_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """Padding, and a convolution or pooling that does not pad itself."""
    rank = len(x.shape) - 2
    if not rank:
        return layer_step(draw, x, tensors)
    pools = rank in POOLING and rarely(draw, 3)
    if pools and draw(st.booleans()):
        x = layers.ReLU()(x)
    sides = draw(st.sampled_from((1, (0, 1), (1, 0), 2)))
    padding = RESIZING[rank][0](sides if rank == 1 or isinstance(sides, int) else (sides,) * rank)
    x = padding(x)
    if rarely(draw, 4):
        x = RESIZING[rank][0](1)(x)
    size = 2 if 2 in x.shape[1:-1] else 3
    if pools:
        return [POOLING[rank][0](size, strides=draw(st.integers(1, 2)))(x)]
    conv = CONVOLUTIONS[rank](draw(st.integers(1, 4)), size, strides=draw(st.integers(1, 2)))
    return [conv(x)]


def affine_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """A scale and shift, something that may let it pass, and a linear layer."""
    # Of one channel a LayerNormalization leaves nothing but rounding.
    centers = x.shape[-1] > 1 and rarely(draw, 4)
    x = (layers.LayerNormalization() if centers else affine(draw, x))(x)
    passing = (activation, noise, global_pooling, pooling, resizing, reshaping)
    if len(x.shape) in (3, 4) and draw(st.booleans()):
        x = draw(st.sampled_from(passing))(draw, x)(x)
    if rarely(draw, 3):
        x = affine(draw, x)(x)
    return [draw(st.sampled_from(LINEAR[len(x.shape) - 2]))(draw, x)(x)]


def moved_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """A linear layer, something that moves what it gives, and a normalization."""
    x = draw(st.sampled_from(LINEAR[len(x.shape) - 2]))(draw, x)(x)
    moving = [reshaping]
    if rank := len(x.shape) - 2:
        moving += [global_pooling, resizing]
        moving += [pooling] if rank in POOLING else []
    for _ in range(draw(st.integers(1, 2))):
        x = draw(st.sampled_from(moving if len(x.shape) - 2 == rank else [reshaping]))(draw, x)(x)
    return [normalization(draw, x)(x)]


def joined_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """Linear layers of two tensors, or of one, whose outputs one normalization treats together."""
    rank = len(x.shape) - 2
    ends = []
    for start in (x, alike(draw, x, tensors)):
        if rank and draw(st.booleans()):
            linear = CONVOLUTIONS[rank](draw(st.sampled_from(CHANNELS)), 3, padding="same")
        else:
            linear = layers.Dense(draw(st.sampled_from(CHANNELS)), activation=inner(draw))
        ends.append(linear(start))
    joined = layers.Concatenate()(ends)
    return [normalization(draw, joined)(joined)]


def einsum_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """A Dense layer written as a sum of products, as of attention's heads, and a normalization."""
    axes = draw(st.sampled_from(("y", "hy") if len(x.shape) - 2 in (0, 1) else ("y",)))
    shape = [draw(st.sampled_from(CHANNELS)) for _ in axes]
    bias = draw(st.sampled_from((None, "y")))
    x = layers.EinsumDense(f"...x,x{axes}->...{axes}", shape, bias_axes=bias)(x)
    return [normalization(draw, x)(x)]


def scaled_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """A branch that keeps the shape and ends with a scale of each channel, as ConvNeXt has it."""
    return [x + LayerScale(1.0, x.shape[-1])(layers.Dense(x.shape[-1])(x))]


def squeezed_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """A factor for each channel, computed of its mean, as in a squeeze and excitation."""
    rank, channels = len(x.shape) - 2, x.shape[-1]
    if not rank:
        return layer_step(draw, x, tensors)
    squeezed = GLOBAL_POOLING[rank][draw(st.integers(0, 1))]()(x)
    squeezed = layers.Reshape((*[1] * rank, channels))(squeezed)
    return [layers.Multiply()([x, layers.Dense(channels, activation="sigmoid")(squeezed)])]


def shared_linear_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """One linear layer on two tensors, with one BatchNormalization or two."""
    linear, norm = linear_and_norm(draw, x)
    first, second = linear(x), linear(alike(draw, x, tensors))
    other_norm = norm if draw(st.booleans()) else another(norm)
    return combined(draw, [norm(first), other_norm(second)])


def shared_norm_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """One BatchNormalization after two linear layers."""
    linear, norm = linear_and_norm(draw, x)
    first, second = linear(x), another(linear)(alike(draw, x, tensors))
    return combined(draw, [norm(first), norm(second)])


def repeated_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """Layers that are called in turns, each time on what the last call gave."""
    rank, channels = len(x.shape) - 2, x.shape[-1]
    kinds: list[Callable[[], Layer]] = [
        lambda: layers.Dense(channels),
        lambda: normalization(draw, x, -1),
        lambda: layers.Dropout(0.3),
        lambda: layers.Activation(draw(st.sampled_from(("linear", "relu", "tanh")))),
        lambda: layers.Rescaling(0.5, offset=draw(st.sampled_from((0.0, 0.1)))),
    ]
    if rank:
        kinds += [
            lambda: CONVOLUTIONS[rank](channels, 3, padding="same"),
            lambda: RESIZING[rank][0](draw(st.integers(0, 1))),
        ]
    repeated = [draw(st.sampled_from(kinds))() for _ in range(draw(st.integers(1, 2)))]
    hypothesis.assume(all(getattr(layer, "axis", -1) == -1 for layer in repeated))  # others grow
    for _ in range(draw(st.integers(2, 3))):
        for layer in repeated:
            x = layer(x)
    return [x]


def nested_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """A model in the model, called once or twice."""
    model = submodel(draw, x)
    if draw(st.booleans()):
        return combined(draw, [model(x), model(alike(draw, x, tensors))])
    return [model(x)]


def lookalikes_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """Two models in the model, in which layers have the same names."""
    results = []
    linear, norm = linear_and_norm(draw, x)
    for _ in range(2):
        inside = keras.Input(x.shape[1:], dtype=x.dtype)
        y = another(norm, name="norm")(another(linear, name="linear")(inside))
        results.append(keras.Model(inside, y)(x))
    return combined(draw, results)


def composite_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """A layer written in Python, called twice."""
    block = composite(draw, x)
    return combined(draw, [block(x), block(alike(draw, x, tensors))])


def operation_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """A function of `keras.ops`, or an operator, on tensors."""
    operations: list[Callable[[], Tensor]] = [
        lambda: ops.relu(x),
        lambda: ops.add(x, 0.5),
        lambda: x * 2,
        lambda: 1 - x,
        lambda: ops.add(x, np.linspace(-1, 1, x.shape[-1], dtype="float32")),
        lambda: ops.concatenate([x, alike(draw, x, tensors)], axis=-1),
        lambda: ops.add(x, alike(draw, x, tensors)),
        lambda: ops.tanh(x),
        lambda: x[..., ::-1],
        lambda: ops.mean(x, axis=-1, keepdims=True),
    ]
    if None not in x.shape[1:]:
        operations.append(lambda: ops.reshape(x, (-1, math.prod(x.shape[1:]))))
    return [draw(st.sampled_from(operations))()]


def attention_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """Attention, which takes several tensors by keyword."""
    attention = layers.MultiHeadAttention(draw(st.integers(1, 2)), key_dim=2)
    other = alike(draw, x, tensors)
    if draw(st.booleans()):
        return [attention(query=x, value=other)]
    return [attention(x, other, key=alike(draw, x, tensors))]


def masked_step(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensors:
    """A mask that runs through a linear layer and a normalization."""
    x = layers.Masking(0.0)(x)
    linear = layers.Dense(draw(st.sampled_from(CHANNELS)))
    x = normalization(draw, linear(x), -1)(linear(x)) if draw(st.booleans()) else linear(x)
    return [layers.LSTM(2, return_sequences=draw(st.booleans()))(x)]


STEPS = (
    normalized_step,
    layer_step,
    merge_step,
    residual_step,
    operation_step,
    branches_step,
    padded_step,
    affine_step,
    moved_step,
    joined_step,
    einsum_step,
    scaled_step,
    squeezed_step,
    shared_linear_step,
    shared_norm_step,
    repeated_step,
    nested_step,
    lookalikes_step,
    composite_step,
)
SEQUENCE_STEPS = (attention_step, masked_step)


def combined(draw: DrawFn, tensors: Tensors) -> Tensors:
    """Tensors of one shape as they are, or merged."""
    return [merge(draw, tensors)] if draw(st.booleans()) else tensors


def merge(draw: DrawFn, tensors: Tensors) -> Tensor:
    """A layer that makes one tensor of several of the same shape."""
    if len(tensors) == 2 and rarely(draw, 6):
        return layers.Subtract()(tensors)
    kinds = [layers.Add, layers.Concatenate, layers.Multiply, layers.Average, layers.Maximum]
    return draw(st.sampled_from(kinds))()(tensors)


def same_shape(draw: DrawFn, x: Tensor) -> Tensor:
    """Calls that keep the shape, with a normalization among them."""
    rank, channels = len(x.shape) - 2, x.shape[-1]
    if rank and draw(st.booleans()):
        linear = CONVOLUTIONS[rank](
            channels, 3, padding="same", use_bias=draw(st.booleans()), activation=inner(draw)
        )
    else:
        linear = layers.Dense(channels, use_bias=draw(st.booleans()), activation=inner(draw))
    y = linear(x)
    y = norm_call(draw, normalization(draw, y, -1), y)
    return layers.ReLU()(y) if draw(st.booleans()) else y


def submodel(draw: DrawFn, x: Tensor) -> keras.Model:
    """A Functional or Sequential model for tensors like this one."""
    inside = keras.Input(x.shape[1:], dtype=x.dtype)
    if draw(st.booleans()):
        return keras.Sequential([inside, *linear_and_norm(draw, inside)])
    tensors = [inside]
    grow(draw, tensors, 2)
    return keras.Model(inside, tensors[-1])


def latest(draw: DrawFn, tensors: Tensors) -> Tensor:
    """Any of the tensors; shrinks to the latest."""
    return draw(st.sampled_from(tensors[::-1]))


def alike(draw: DrawFn, x: Tensor, tensors: Tensors) -> Tensor:
    """A tensor of the same shape and dtype, maybe the same tensor.

    Sizes that are not known may differ when the model runs: such a tensor is only like itself.
    """
    same = [y for y in tensors if y is not x and y.shape == x.shape and y.dtype == x.dtype]
    return latest(draw, [x, *same] if None not in x.shape[1:] else [x])


def another(layer: Layer, **changes: Any) -> Layer:
    """A second layer of the same configuration."""
    config = layer.get_config() | {"name": None} | changes
    return type(layer).from_config(config)


# --- the property --------------------------------------------------------------------------------


def check(model: keras.Model, rules: Sequence[str | Rule] | None = None) -> Report:
    """Assert that a model is optimized as it should, whatever it is.

    The result computes the same, in the same structure; the model is untouched; a second run finds
    nothing to do; the numbers of weights are those of the report; and the result can be saved and
    loaded if the model can.

    Returns:
        The report of the optimization.

    Raises:
        AssertionError: with what differs.
    """
    model.run_eagerly = True  # compiling a model that runs twice takes longer than running it
    inputs = random_inputs(model)
    try:
        before = _state(model, inputs)
    except Exception:
        hypothesis.reject()  # Keras infers a wrong shape, builds the model, and can't run it
    if not _is_as_inferred(model, before["outputs"]):
        hypothesis.reject()
    # oneDNN gives other numbers each time, some not finite, for a Conv3D in bfloat16 whose window
    # is larger than what it reads.
    again = keras.tree.flatten(model.predict_on_batch(inputs))
    if not all(map(_are_equal, keras.tree.flatten(before["outputs"]), again)):
        hypothesis.reject()
    report = Report()
    fast = optimize(model, rules, strict=True, report=report)
    fast.run_eagerly = True
    for what, value in _state(model, inputs).items():
        keras.tree.assert_same_structure(before[what], value)
        pairs = zip(keras.tree.flatten(before[what]), keras.tree.flatten(value), strict=True)
        assert all(_are_equal(old, new) for old, new in pairs), f"the model's own {what} changed"
    try:
        check_equivalent(model, fast)
    except AssertionError:
        # In half precision a difference of two numbers may be nothing but rounding; with more
        # precision that goes, and a mistake stays.
        if not any(str(layer.compute_dtype) in HALF for layer in sublayers(model)):
            raise
        precise = _more_precise(model, inputs)
        check_equivalent(precise, optimize(precise, rules, strict=True))
    again = Report()
    optimize(fast, rules, strict=True, report=again)
    assert not again.applied, f"optimizing the result rewrote it again\n{again}"
    grown = sum(applied.parameters for applied in report.applied)
    assert fast.count_params() == model.count_params() + grown, (
        f"{model.count_params()} parameters became {fast.count_params()}, the report says {grown:+}"
    )
    error = _lost_in_a_file(fast, inputs)
    if error is not None and _lost_in_a_file(model, inputs) is None:
        raise AssertionError(f"the model can be saved and loaded, the result can't: {error}")
    return report


def _is_as_inferred(model: keras.Model, outputs: Any) -> bool:
    """Whether the outputs have the shapes and dtypes that Keras inferred of them.

    On PyTorch Keras 3.15 multiplies float64 matrices in float32.
    """
    pairs = zip(model.outputs, keras.tree.flatten(outputs), strict=True)
    return all(
        len(spec.shape) == output.ndim
        and str(spec.dtype) == keras.backend.standardize_dtype(output.dtype)
        and all(known in (None, size) for known, size in zip(spec.shape, output.shape, strict=True))
        for spec, output in pairs
    )


def _more_precise(model: keras.Model, inputs: Any) -> keras.Model:
    """The same model with the same weights, which computes in float64, or else in float32.

    TensorFlow has not every operation in float64.
    """
    config = json.dumps(keras.saving.serialize_keras_object(model))
    for precise in ("float64", "float32"):
        changed = config
        for dtype in (*(f"mixed_{half}" for half in HALF), *HALF, "float32"):
            changed = changed.replace(f'"{dtype}"', f'"{precise}"')
        result: keras.Model = keras.saving.deserialize_keras_object(json.loads(changed))
        result.set_weights(model.get_weights())
        try:
            result.predict_on_batch(inputs)
            break
        except Exception:
            continue
    return result


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two arrays, or whatever a configuration holds, have the same entries; NaN is one."""
    return np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f")


def _state(model: keras.Model, inputs: Any) -> dict[str, Any]:
    """All of a model that optimizing must leave as it is."""
    return {
        "weights": [to_numpy(variable) for variable in model.variables],
        "configuration": json.dumps(model.get_config(), default=repr, sort_keys=True),
        "calls": _calls(model),
        "outputs": model.predict_on_batch(inputs),
    }


def _calls(model: keras.Model) -> list[int]:
    """How many calls each operation of the model knows of."""
    operations = [*sublayers(model)]
    for layer in sublayers(model):
        if is_graph_class(type(layer)):
            operations += [call.operation for call in calls_in_order(layer)]
    return [number_of_calls(operation) for operation in operations]


def _policies(model: keras.Model) -> list[str]:
    return [layer.dtype_policy.name for layer in sublayers(model)]


def _lost_in_a_file(model: keras.Model, inputs: Any) -> Exception | None:
    """Why the model can't be saved and loaded, or None if it can."""
    expected = model.predict_on_batch(inputs)
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save(Path(folder, "model.keras"))
            loaded = keras.saving.load_model(Path(folder, "model.keras"), compile=False)
            loaded.run_eagerly = True
            actual = loaded.predict_on_batch(inputs)
        except Exception as error:
            return error
    # Where it has others, equal outputs are luck.
    if _policies(model) != _policies(loaded):
        return AssertionError("the model has other dtype policies once it is loaded from a file")
    # The structure is not compared: Keras loads tuples as lists.
    for one, other in zip(keras.tree.flatten(expected), keras.tree.flatten(actual), strict=True):
        if one.dtype != other.dtype or not _are_equal(one, other):
            return AssertionError("the model gives other outputs once it is loaded from a file")
    return None
