"""For the authors of rules: give a model telling weights, and check that a rule fires or declines.

    def test_folds():
        model = keras.Sequential([keras.Input((8, 8, 3)), Conv2D(4, 3), BatchNormalization()])
        check_rewrites(model, [conv_batchnorm], times=1)

With `pip install 'kito[testing]'`, `validate(conv_batchnorm)` draws models by itself, and
`kito.random_models` those of every kind.

Differences are measured against the largest output. The bounds are for small models: some ten
layers, each of which may lose a few bits of the dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import keras
import numpy as np

from kito.api import optimize
from kito.comparison import compare_called, largest_relative, table_of
from kito.definition import Rule
from kito.graph.keras_internals import structures, sublayers
from kito.graph.layer import to_numpy
from kito.report import Report
from kito.samples import random_inputs, with_known_inputs
from kito.tables import render

if TYPE_CHECKING:
    from kito.validation import CounterexampleError, Validation, validate

__all__ = [
    "TOLERANCES",
    "CounterexampleError",
    "Validation",
    "check_declines",
    "check_equivalent",
    "check_rewrites",
    "randomize",
    "validate",
]

TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
if keras.backend.backend() != "tensorflow":
    # There Keras 3.15 itself computes parts of a float64 model in float32: BatchNormalization on
    # JAX, matrix products on PyTorch.
    TOLERANCES["float64"] = 1e-6


def __getattr__(name: str) -> object:
    if name in __all__:  # what draws models needs hypothesis, and the rest of this module
        try:
            return getattr(import_module("kito.validation"), name)
        except ModuleNotFoundError as error:
            raise ImportError(f"{name} needs hypothesis: pip install 'kito[testing]'") from error
    raise AttributeError(f"module 'kito.testing' has no attribute '{name}'")


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give every weight of the model a random value, in place, and return the model.

    Normalizations get statistics far from the identity (gamma negative for a third of the
    channels, variances from 0.3 to 3): with fresh ones most mistakes would not show.
    """
    rng = np.random.default_rng(seed)
    for layer in sublayers(model):
        for variable in layer.trainable_variables + layer.non_trainable_variables:
            if variable.path.count("seed_generator") or not _is_float(variable):
                continue
            variable.assign(_draw(rng, variable.name, tuple(variable.shape)))
    return model


def _is_float(variable: keras.Variable) -> bool:
    return bool(keras.backend.is_float_dtype(variable.dtype))


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name in ("moving_variance", "variance"):
        return rng.uniform(0.3, 3.0, shape)
    if name == "gamma":
        return np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([1, 1, -1], shape))
    if name in ("beta", "moving_mean", "bias"):
        return rng.normal(0, 0.5, shape)
    # Glorot's scale, so that the signal keeps its size.
    fan = np.prod(shape[:-1]) if len(shape) > 1 else 1
    return np.asarray(rng.normal(0, 1, shape) / np.sqrt(max(fan, 1)))


def check_rewrites(
    model: keras.Model,
    rules: Sequence[str | Rule] | None = None,
    *,
    times: int | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> keras.Model:
    """Assert that the rules fire, and that the result computes what the model computes.

    Checked too: the result has the same outputs' names, shapes and dtypes, the model's weights are
    untouched, and optimizing the result once more changes nothing.

    Args:
        times: how many calls must be rewritten; None is at least one.
        tolerance: of the largest output; None is the bound for the least precise dtype that the
            model computes in.

    Returns:
        The optimized model.

    Raises:
        AssertionError: with the figures.
    """
    randomize(model, seed)
    before = [to_numpy(variable) for variable in model.variables]
    report = Report()
    fast = optimize(model, rules, strict=True, report=report)
    fired = sum(report.folded.values())
    assert fired == times if times is not None else fired, (
        f"{fired} calls were rewritten, not {times or 'at least one'}\n{report}"
    )
    check_equivalent(model, fast, tolerance=tolerance)
    after = [to_numpy(variable) for variable in model.variables]
    assert all(map(np.array_equal, before, after)), "the model's own weights were changed"
    again = Report()
    optimize(fast, rules, strict=True, report=again)
    assert not again.applied, f"optimizing the result rewrote it again\n{again}"
    return fast


def check_declines(
    model: keras.Model,
    rules: Sequence[str | Rule] | None = None,
    *,
    reason: str,
    seed: int = 0,
) -> keras.Model:
    """Assert that the rules rewrite nothing, and that one declines with the given words.

    Args:
        reason: a part of the reason in the report.

    Returns:
        The model that `optimize` gave, which computes the same.

    Raises:
        AssertionError: with the report.
    """
    randomize(model, seed)
    report = Report()
    fast = optimize(model, rules, strict=True, report=report)
    assert not report.applied, f"something was rewritten\n{report}"
    assert any(reason in declined.reason for declined in report.declined), (
        f"nothing was declined because '{reason}'\n{report}"
    )
    check_equivalent(model, fast)
    return fast


def check_equivalent(
    model: keras.Model, fast: keras.Model, *, tolerance: float | None = None
) -> None:
    """Assert that two models have the same outputs: structure, names, shapes, dtypes and values.

    Raises:
        AssertionError: with the figures.
    """
    if tolerance is None:
        # Those of the tensors too: operations of keras.ops compute in the dtype of what they read.
        dtypes = {layer.compute_dtype for layer in sublayers(model)}
        dtypes |= {tensor.dtype for tensor in (*model.inputs, *model.outputs)}
        tolerance = max(TOLERANCES.get(str(dtype), 0.0) for dtype in dtypes)
    for one, other in zip(model.outputs, fast.outputs, strict=True):
        # Of plain layers Keras may infer a size that it did not infer of the layer around them.
        same = len(one.shape) == len(other.shape) and all(
            old in (None, new) for old, new in zip(one.shape, other.shape, strict=True)
        )
        assert same, f"the shape {one.shape} became {other.shape}"
        assert one.dtype == other.dtype, f"the dtype {one.dtype} became {other.dtype}"
    keras.tree.assert_same_structure(structures(model)[1], structures(fast)[1])
    if hasattr(model, "output_names"):
        assert list(model.output_names) == list(fast.output_names)
    inputs = random_inputs(with_known_inputs(model, fast), batch_size=2)
    outputs = compare_called(model, fast, inputs)
    assert (most := largest_relative(outputs)) <= tolerance, (
        f"the outputs differ by {most:.1e} of the largest\n{render([table_of(outputs)])}"
    )
