"""Plant bugs in the built-in rules, and see whether `kito.testing.validate` finds them.

    python benchmarks/mutants.py                             all rules
    python benchmarks/mutants.py --only conv_batchnorm       one of them

A mutant is a rule of which one piece of text is another one: it forgets an epsilon, swaps two axes,
or does not check something. It dies if `validate` reports a counterexample. The rules as they are
have to pass. What happened stands in benchmarks/results/mutants.csv, a line a mutant, and
`mutants.md` is made of that. A mutant that lives, or a rule that does not pass, makes the run fail.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import tensorflow as tf
from machine import versions
from rich.console import Console
from rich.progress import track
from rows import RESULTS, read, write

import kito
from kito import plugins
from kito.definition import Rule
from kito.testing import CounterexampleError, validate

TABLE = RESULTS / "mutants.csv"
PAGE = RESULTS / "mutants.md"
EXAMPLES = 1_000
PASSING = 100
PACKAGE = "kito.rules"


@dataclass(frozen=True)
class Mutant:
    """A bug: a piece of text that stands once in a module of `kito/rules`, and another for it."""

    rule: str
    bug: str
    module: str
    text: str
    instead: str


class Changed(SourceFileLoader):
    """Loads a module with a bug planted in its text; no compiled file is read or written."""

    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self.mutant = mutant

    def get_code(self, fullname: str) -> Any:
        """The code of the changed text."""
        return compile(changed(self.mutant, Path(self.path)), self.path, "exec")


def changed(mutant: Mutant, path: Path) -> str:
    """The text of a module with the bug.

    Raises:
        LookupError: the text that the mutant changes does not stand there exactly once.
    """
    source = path.read_text()
    count = source.count(mutant.text)
    if count != 1:
        raise LookupError(
            f"'{mutant.bug}' of {mutant.rule} looks for {mutant.text!r}, which stands {count} "
            f"times in {path}"
        )
    return source.replace(mutant.text, mutant.instead)


class Planter(MetaPathFinder):
    """Finds the module in which a bug is planted."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """The changed module, or None for all others."""
        if fullname != f"{PACKAGE}.{self.mutant.module}":
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = Changed(fullname, spec.origin, self.mutant)
        return spec


@contextmanager
def rules_loaded_anew() -> Iterator[None]:
    """Let the modules of the rules be imported once more, and put them back afterwards."""
    before = {name: module for name, module in sys.modules.items() if name.startswith(PACKAGE)}
    for name in before:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
            del sys.modules[name]
        sys.modules.update(before)
        kito.rules = before[PACKAGE]


def planted(mutant: Mutant) -> Rule:
    """The rule with the bug; what it imports from the changed module is changed too.

    Raises:
        LookupError: the text of the mutant does not stand in the module exactly once.
    """
    plugins.registry()  # has loaded the rules as they are
    finder = Planter(mutant)
    sys.meta_path.insert(0, finder)
    try:
        with rules_loaded_anew():
            rules = importlib.import_module(PACKAGE).register_rules()
    finally:
        sys.meta_path.remove(finder)
    [rule] = [rule for rule in rules if rule.name == mutant.rule]
    return rule


@dataclass(frozen=True)
class Row:
    """What `validate` said of a mutant, or of a rule as it is (then there is no bug).

    Attributes:
        examples: how many models were drawn until it was found, or all.
        rewritten: how many of them the rule rewrote, if none showed a bug.
        found: what is wrong; nothing if no bug was found.
        model: the smallest model that shows it.
    """

    rule: str
    bug: str
    examples: int
    rewritten: int
    found: str
    model: str

    @property
    def is_as_it_should(self) -> bool:
        """Whether a mutant died, or a rule passed."""
        return bool(self.found) == bool(self.bug)


def judged(rule: Rule, bug: str, examples: int) -> Row:
    """What `validate` says of a rule."""
    try:
        result = validate(rule, examples=examples)
    except CounterexampleError as error:
        reason = error.reason.split("\n", 1)[0][:120]
        return Row(rule.name, bug, error.examples, 0, reason, "; ".join(error.model))
    except AssertionError:
        return Row(rule.name, bug, examples, 0, "it never fires", "")
    return Row(rule.name, bug, result.examples, result.rewritten, "", "")


def read_rows() -> list[Row]:
    """The rows of the runs before."""
    return [
        Row(**row | {"examples": int(row["examples"]), "rewritten": int(row["rewritten"])})
        for row in read(TABLE)
    ]


def write_rows(rows: list[Row]) -> None:
    """Write the table anew, and the page that is made of it."""
    rows = sorted(rows, key=lambda row: (row.rule, row.bug))
    write(TABLE, [each.name for each in fields(Row)], map(asdict, rows))
    PAGE.write_text(page(rows))


def page(rows: list[Row]) -> str:
    """The rows as Markdown."""
    mutants = [row for row in rows if row.bug]
    rules = [row for row in rows if not row.bug]
    dead = sum(row.is_as_it_should for row in mutants)
    lines = [
        "# Mutants",
        "",
        "Made by `nox -s mutants`: bugs are planted in the built-in rules, one at a time, and",
        "`kito.testing.validate` looks for a model that shows them. What is counted is said in",
        "`benchmarks/mutants.py`.",
        "",
        f"{dead:,} of {len(mutants):,} mutants of {len(rules):,} rules died.",
        "",
        "## The mutants",
        "",
        "| rule | bug | killed by | models drawn | the smallest counterexample |",
        "|:--|:--|:--|--:|:--|",
    ]
    for row in mutants:
        killed = _cell(row.found) or "**alive**"
        model = f"`{_cell(row.model)}`" if row.model else ""
        lines.append(f"| {row.rule} | {row.bug} | {killed} | {row.examples:,} | {model} |")
    lines += [
        "",
        "## The rules as they are",
        "",
        "| rule | models drawn | rewritten | wrong |",
        "|:--|--:|--:|:--|",
        *(
            f"| {row.rule} | {row.examples:,} | {row.rewritten:,} | {_cell(row.found) or 'none'} |"
            for row in rules
        ),
        "",
        f"{versions('tensorflow', 'keras', 'hypothesis')}, Python {platform.python_version()}.",
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


@click.command(help=__doc__.split("\n", 1)[0])
@click.option("--only", multiple=True, help="The name of a rule; may be given several times.")
@click.option(
    "--examples", default=EXAMPLES, show_default=True, help="Models drawn for a mutant, at most."
)
def main(only: tuple[str, ...], examples: int) -> None:
    """Judge the rules and their mutants."""
    tf.get_logger().setLevel("ERROR")
    warnings.simplefilter("ignore")
    names = only or tuple(dict.fromkeys(mutant.rule for mutant in MUTANTS))
    rows = [row for row in read_rows() if row.rule not in names]
    console = Console()
    todo: list[Mutant | Rule] = [mutant for mutant in MUTANTS if mutant.rule in names]
    todo += plugins.select(names)
    failed = []
    for each in track(todo, console=console):
        if isinstance(each, Mutant):
            row = judged(planted(each), each.bug, examples)
        else:
            row = judged(each, "", PASSING)
        keras.utils.clear_session()
        rows.append(row)
        write_rows(rows)
        if not row.is_as_it_should:
            failed.append(row)
            console.print(f"{row.rule}: {row.bug or 'wrong as it is'}: {row.found} {row.model}")
    console.print(f"{len(todo) - len(failed)} of {len(todo)} are as they should be")
    raise SystemExit(bool(failed))


# --- the bugs: text, and what stands there instead ------------------------------------------------

Bug = tuple[str, str, str, str]  # what it does, the module, the text, the text instead

NO_EPSILON: Bug = (
    "forgets epsilon",
    "batchnorm",
    "np.sqrt(variance + bn.epsilon)",
    "np.sqrt(variance)",
)
MEAN_SIGN: Bug = (
    "mean with the wrong sign",
    "batchnorm",
    "shift = -mean * scale",
    "shift = mean * scale",
)
NO_BETA: Bug = (
    "forgets beta",
    "batchnorm",
    "shift + bn.beta.astype(np.float64)",
    "shift",
)
NO_GAMMA: Bug = (
    "forgets gamma",
    "batchnorm",
    "scale * bn.gamma.astype(np.float64)",
    "scale",
)
NO_ACTIVATION_CHECK: Bug = (
    "does not check the activation",
    "batchnorm",
    "if keras.activations.get(activation) is not keras.activations.linear:",
    "if False:",
)
NO_AXIS_CHECK: Bug = (
    "does not check the axis",
    "batchnorm",
    "if bn.axis % rank != channel_axis % rank:",
    "if False:",
)
NO_DTYPE_CHECK: Bug = (
    "does not check the dtype",
    "batchnorm",
    "if bn.output.dtype != before.output.dtype:",
    "if False:",
)
UNSCALED_BIAS: Bug = (
    "does not scale the bias",
    "batchnorm",
    '"bias": bias_of(linear) * scale + shift',
    '"bias": bias_of(linear) + shift',
)
NO_FORMAT: Bug = (
    "takes all for channels_last",
    "batchnorm",
    'return 1 if conv.layer.config.get("data_format") == "channels_first" else -1',
    "return -1",
)

SAME_CONFIG = "_same_config(kept.layer, node.layer)"
SAME_WEIGHTS = "_same_weights(kept.layer, node.layer)"
SAME_CALL = (
    "kept.layer.cls is node.layer.cls "
    "and _same_arguments((kept.args, kept.kwargs), (node.args, node.kwargs))"
)


def _taken_for_same(bug: str, condition: str) -> Bug:
    """Calls of one tensor taken for the same; the index of calls that look alike is passed by."""
    text = """\
        for kept in sorted(graph.alike(node), key=order):
            if order(kept) >= order(node):
                return None
            if _same_call(kept, node):
"""
    instead = text.replace("graph.alike(node)", "graph.consumers(node.input.node)")
    return (bug, "duplicates", text, instead.replace("_same_call(kept, node)", condition))


BUGS: dict[str, list[Bug]] = {
    "add_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        (
            "adds the shift to each",
            "add_batchnorm",
            "shift / times if linear.layer is with_bias else np.zeros_like(shift)",
            "shift",
        ),
        (
            "does not check on which axis the channels are",
            "add_batchnorm",
            "check_axis(bn, linear, channel_axis(linear))",
            "pass",
        ),
        (
            "adds the whole shift for each call of a layer",
            "add_batchnorm",
            "shift / times",
            "shift",
        ),
    ],
    "affine_affine": [
        MEAN_SIGN,
        (
            "does not scale the first shift",
            "affine",
            "self.shift * other.scale + other.shift",
            "self.shift + other.shift",
        ),
        (
            "forgets the second scale",
            "affine",
            "self.scale * other.scale, shift",
            "self.scale, shift",
        ),
        (
            "does not check the axes",
            "affine",
            "        if other.axis not in (axis, None):",
            "        if False:",
        ),
        (
            "takes c - x for x - c",
            "affine",
            "else (-one, constant)",
            "else (one, -constant)",
        ),
        (
            "forgets the second shift",
            "affine",
            "self.shift * other.scale + other.shift",
            "self.shift * other.scale",
        ),
    ],
    "affine_linear": [
        (
            "does not check the padding",
            "affine_linear",
            'if linear.padding != "valid" and _pads(linear, read):',
            "if False:",
        ),
        (
            "takes a transposed kernel for a plain one",
            "affine_linear",
            "        return vector\n",
            "        return vector[:, None]\n",
        ),
        (
            "sums over the window only",
            "affine_linear",
            "total.reshape(-1) if linear.layer.cls in BY_CHANNEL else total.sum(axis=0)",
            "total.reshape(-1) if linear.layer.cls in BY_CHANNEL else total[0]",
        ),
        (
            "scales another axis of an EinsumDense",
            "einsum_dense",
            'label = "" if affine.axis is None else labels[affine.axis]',
            'label = "" if affine.axis is None else equation["kernel"][-1]',
        ),
        (
            "forgets what the shift adds to an EinsumDense",
            "einsum_dense",
            "if affine.shift.any():",
            "if False:",
        ),
        (
            "shifts where an EinsumDense adds up more than its kernel does",
            "einsum_dense",
            "if not stays or any(each not in elsewhere for each in labels):",
            "if not stays:",
        ),
        (
            "forgets epsilon",
            "batchnorm",
            "np.sqrt(variance + bn.epsilon)",
            "np.sqrt(variance)",
        ),
        (
            "lets a scale < 0 pass an activation",
            "commuting",
            "if not (affine.scale > 0).all():",
            "if False:",
        ),
        (
            "lets a shift pass padding",
            "commuting",
            "if affine.shift.any():",
            "if False:",
        ),
    ],
    "concatenate_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        (
            "does not check what is joined",
            "concatenate_batchnorm",
            "if concatenate.axis % rank != axis:",
            "if False:",
        ),
        (
            "gives the parts in reverse order",
            "concatenate_batchnorm",
            "for linear, scale, shift in parts",
            "for linear, scale, shift in [*parts][::-1]",
        ),
    ],
    "concatenated_siblings": [
        (
            "does not check the tensors",
            "siblings",
            "if other.input != first.input:",
            "if False:",
        ),
        (
            "does not check the geometry",
            "siblings",
            'GEOMETRY = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", '
            '"activation")',
            'GEOMETRY = ("kernel_size", "data_format")',
        ),
        (
            "does not check the axis",
            "siblings",
            "if merge.axis % rank != axis % rank:",
            "if False:",
        ),
        (
            "gives zeros for a bias that is there",
            "siblings",
            "each.bias if each.use_bias else np.zeros",
            "np.zeros(each.kernel.shape[-1]) if each.use_bias else np.zeros",
        ),
        (
            "does not check the activation",
            "siblings",
            "if each.activation not in ELEMENTWISE:",
            "if False:",
        ),
    ],
    "conv_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        NO_BETA,
        NO_GAMMA,
        NO_ACTIVATION_CHECK,
        NO_AXIS_CHECK,
        NO_DTYPE_CHECK,
        UNSCALED_BIAS,
        NO_FORMAT,
        (
            "scales the inputs",
            "conv",
            "scaled(conv.kernel, scale)",
            "scaled(conv.kernel.swapaxes(-1, -2), scale).swapaxes(-1, -2)",
        ),
    ],
    "conv_transpose_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        NO_AXIS_CHECK,
        UNSCALED_BIAS,
        (
            "scales the inputs",
            "conv_transpose",
            "scaled(conv.kernel, scale[:, None])",
            "scaled(conv.kernel, scale)",
        ),
    ],
    "dense_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        NO_BETA,
        NO_ACTIVATION_CHECK,
        (
            "looks for the channels on axis 1",
            "dense",
            "channel_axis=-1",
            "channel_axis=1",
        ),
    ],
    "dense_rows": [
        (
            "mixes up two sizes",
            "dense_rows",
            "ReshapeOperation((-1, *sizes, units), name=name)",
            "ReshapeOperation((-1, *sizes[::-1], units), name=name)",
        ),
        (
            "loses the activation",
            "dense_rows",
            "replace(dense.evolve(),",
            'replace(dense.evolve(activation="linear"),',
        ),
        (
            "makes rows of the wrong axis",
            "dense_rows",
            "ReshapeOperation((-1, channels)",
            "ReshapeOperation((channels, -1)",
        ),
    ],
    "depthwise_conv_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        NO_AXIS_CHECK,
        (
            "swaps channels and multiplier",
            "depthwise",
            "scale.reshape(conv.kernel.shape[-2:])",
            "scale.reshape(conv.kernel.shape[-2:][::-1]).T",
        ),
    ],
    "duplicates": [
        _taken_for_same("does not compare the weights", f"{SAME_CALL} and {SAME_CONFIG}"),
        _taken_for_same("does not compare the configurations", f"{SAME_CALL} and {SAME_WEIGHTS}"),
        _taken_for_same(
            "does not compare the arguments",
            f"kept.layer.cls is node.layer.cls and {SAME_CONFIG} and {SAME_WEIGHTS}",
        ),
        _taken_for_same(
            "takes the dilation and epsilon for irrelevant",
            f"{SAME_CALL} and {SAME_WEIGHTS} and all(value == node.layer.behaviour.get(name) "
            "for name, value in kept.layer.behaviour.items() "
            "if name not in ('dilation_rate', 'epsilon'))",
        ),
    ],
    "einsum_dense_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        (
            "scales the first axis of the kernel",
            "einsum_dense",
            """[-1 if letter == label else 1 for letter in equation["kernel"]]""",
            """[1 if letter != equation["kernel"][0] else -1 for letter in equation["kernel"]]""",
        ),
        (
            "adds the shift along the last axis",
            "einsum_dense",
            "along_bias = (-1, *[1] * (-axis - 1))",
            "along_bias = (-1,)",
        ),
        (
            "does not scale the bias",
            "einsum_dense",
            "new_bias = _bias_of(einsum) * scale.reshape(along_bias)",
            "new_bias = _bias_of(einsum) * np.ones_like(scale).reshape(along_bias)",
        ),
    ],
    "gelu": [
        (
            "forgets the square root",
            "gelu",
            "scale=1 / math.sqrt(2)",
            "scale=1 / 2",
        ),
        (
            "forgets to halve",
            "gelu",
            "scale=0.5, offset=0.5",
            "scale=1.0, offset=0.5",
        ),
        (
            "multiplies by the inner value",
            "gelu",
            "([x, factor])",
            "([inner, factor])",
        ),
    ],
    "global_pooling_reshape": [
        (
            "does not check the shape",
            "global_pooling",
            "if reshape.output.shape != (batch, *kept):",
            "if False:",
        ),
        (
            "takes all for channels_last",
            "global_pooling",
            '(*ones, channels) if pool.data_format == "channels_last" else (channels, *ones)',
            "(*ones, channels)",
        ),
        (
            "does not check the dtype",
            "global_pooling",
            "if pool.output.dtype != reshape.output.dtype:",
            "if False:",
        ),
    ],
    "grouped_blocks": [
        (
            "puts the blocks beside the diagonal",
            "grouped",
            "wide[..., group, :, group, :] = part",
            "wide[..., group, :, group - 1, :] = part",
        ),
        (
            "gives each block the first biases",
            "grouped",
            "np.split(conv.bias, blocks) if conv.use_bias",
            "[np.split(conv.bias, blocks)[0]] * blocks if conv.use_bias",
        ),
        (
            "takes all for channels_last",
            "batchnorm",
            'return 1 if conv.layer.config.get("data_format") == "channels_first" else -1',
            "return -1",
        ),
    ],
    "grouped_depthwise": [
        (
            "swaps channels and multiplier",
            "grouped",
            "conv.kernel.reshape(*window, conv.groups, multiplier)",
            "conv.kernel.reshape(*window, multiplier, conv.groups).swapaxes(-1, -2)",
        ),
        (
            "does not check that the padding is causal",
            "grouped",
            'if conv.padding == "causal":',
            "if False:",
        ),
        (
            "forgets the bias",
            "grouped",
            '        weights["bias"] = conv.bias\n',
            '        weights["bias"] = 0 * conv.bias\n',
        ),
        (
            "forgets the dilation",
            "grouped",
            '"data_format", "dilation_rate", "kernel_size")',
            '"data_format", "kernel_size")',
        ),
    ],
    "identities": [
        (
            "does not look at the numbers",
            "identities",
            "{*_numbers(config[entry])} == {nothing}",
            "True",
        ),
        (
            "does not look at the order of axes",
            "identities",
            'return [*config["dims"]] == sorted(config["dims"])',
            "return True",
        ),
        (
            "takes what the model is given",
            "identities",
            "return layer.input",
            "return Ref(0)",
        ),
        (
            "takes all activations for linear",
            "identities",
            "return is_linear(layer)",
            "return True",
        ),
    ],
    "layer_normalization_dense": [
        (
            "forgets epsilon",
            "layer_normalization",
            "        epsilon=norm.epsilon,\n",
            "",
        ),
        (
            "forgets beta",
            "layer_normalization",
            "beta = norm.beta if norm.center else np.zeros_like(gamma)",
            "beta = np.zeros_like(gamma)",
        ),
        (
            "does not check the axis",
            "layer_normalization",
            "if [axis % rank for axis in norm.axis] != [rank - 1]:",
            "if False:",
        ),
        (
            "does not check the padding",
            "affine_linear",
            'if linear.padding != "valid" and _pads(linear, read):',
            "if False:",
        ),
        (
            "scales the filters",
            "layer_normalization",
            "gamma = norm.gamma if",
            "gamma = norm.gamma[::-1] if",
        ),
    ],
    "layer_normalization_attention": [
        (
            "forgets the gate",
            "layer_normalization_attention",
            '"query": ("query", "gate")',
            '"query": ("query",)',
        ),
        (
            "forgets the shift",
            "layer_normalization_attention",
            "] = bias + added",
            "] = bias",
        ),
        (
            "takes the key for another tensor than the value where there is none",
            "layer_normalization_attention",
            'given["key"] = given["value"]',
            "pass",
        ),
        (
            "scales all projections",
            "layer_normalization_attention",
            "if _is_output(value, norm))",
            "if name in PROJECTIONS)",
        ),
        (
            "does not see that Keras would misread the bias",
            "layer_normalization_attention",
            "if is_misread(bias.shape, (*norm.output.shape[:-1], *bias.shape)):",
            "if False:",
        ),
        (
            "does not check the axis",
            "layer_normalization",
            "if [axis % rank for axis in norm.axis] != [rank - 1]:",
            "if False:",
        ),
    ],
    "layer_scale": [
        (
            "does not scale the bias",
            "layer_scale",
            "scaled(linear.bias, gamma)",
            "linear.bias",
        ),
        (
            "does not check the activation",
            "batchnorm",
            "if keras.activations.get(activation) is not keras.activations.linear:",
            "if False:",
        ),
        (
            "does not check the data format",
            "layer_scale",
            'if linear.layer.config.get("data_format") == "channels_first":',
            "if False:",
        ),
        (
            "swaps channels and multiplier",
            "layer_scale",
            "gamma.reshape(channels)",
            "gamma.reshape(channels[::-1]).T",
        ),
    ],
    "linear_activation": [
        (
            "takes relu6 for relu",
            "activation",
            'return "relu" if activation.max_value is None else "relu6"',
            'return "relu"',
        ),
        (
            "does not check the slope",
            "activation",
            "if activation.negative_slope or activation.threshold:",
            "if False:",
        ),
        (
            "does not check the largest value",
            "activation",
            "if activation.max_value not in (None, 6):",
            "if False:",
        ),
        (
            "replaces an activation that is there",
            "activation",
            "return function_of(layer) is keras.activations.linear",
            "return True",
        ),
    ],
    "linear_affine": [
        (
            "divides by the variance",
            "affine",
            "np.sqrt(to_numpy(source.variance).astype(np.float64))",
            "to_numpy(source.variance).astype(np.float64)",
        ),
        (
            "mean with the wrong sign",
            "affine",
            "return 1 / deviation, -mean / deviation",
            "return 1 / deviation, mean / deviation",
        ),
        (
            "does not check the axis",
            "affine",
            "        if self.axis not in (axis, None):",
            "        if False:",
        ),
        (
            "does not check the activation",
            "linear",
            "    check_activation(affine, linear)\n",
            "",
        ),
        UNSCALED_BIAS,
    ],
    "linear_linear": [
        (
            "swaps input and output",
            "linear_linear",
            "return kernel @ matrix, bias",
            "return (kernel.swapaxes(-1, -2) @ matrix.T).swapaxes(-1, -2), bias",
        ),
        (
            "does not check the padding",
            "linear_linear",
            'if shift.any() and second.padding != "valid":',
            "if False:",
        ),
        (
            "forgets the first bias",
            "linear_linear",
            "bias = (bias_of(first) + np.zeros(len(matrix))) @ matrix + bias_of(second)",
            "bias = np.zeros(len(matrix)) @ matrix + bias_of(second)",
        ),
        (
            "takes any window for a matrix",
            "linear_linear",
            "{*layer.kernel_size, *layer.strides} == {1}",
            "{*layer.kernel_size} == {1}",
        ),
        (
            "replaces an activation that is there",
            "activation",
            "return function_of(layer) is keras.activations.linear",
            "return True",
        ),
    ],
    "linear_moves_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        NO_ACTIVATION_CHECK,
        (
            "lets a shift pass padding",
            "commuting",
            "if affine.shift.any():",
            "if False:",
        ),
        (
            "lets a scale < 0 pass max pooling",
            "commuting",
            "if not (affine.scale > 0).all():",
            "if False:",
        ),
    ],
    "lone_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        NO_GAMMA,
        (
            "forgets the shift",
            "lone_batchnorm",
            '"bias": shift',
            '"bias": 0 * shift',
        ),
        (
            "does not look at the axis",
            "lone_batchnorm",
            " and bn.axis in (-1, 3)",
            "",
        ),
    ],
    "padding_conv": [
        (
            "does not check that the convolution pads",
            "padding",
            'if window.padding != "valid":',
            "if False:",
        ),
        (
            "does not check how much is padded",
            "padding",
            "        if sides != wanted:",
            "        if sum(sides) != sum(wanted):",
        ),
        (
            "forgets the dilation",
            "padding",
            "reach = (window - 1) * dilation + 1",
            "reach = window",
        ),
        (
            "forgets the stride",
            "padding",
            "    if stride == 1:\n",
            "    if True:\n",
        ),
        (
            "does not check the data format",
            "padding",
            "if pad.data_format != window.data_format:",
            "if False:",
        ),
    ],
    "padding_max_pooling": [
        (
            "does not check for negative values",
            "padding",
            "if activation not in NOT_NEGATIVE or",
            "if",
        ),
        (
            "does not check the slope",
            "padding",
            'in NOT_NEGATIVE or source.layer.config.get("negative_slope"):',
            "in NOT_NEGATIVE:",
        ),
        (
            "does not check how much is padded",
            "padding",
            "        if sides != wanted:",
            "        if sum(sides) != sum(wanted):",
        ),
        (
            "forgets the stride",
            "padding",
            "    if stride == 1:\n",
            "    if True:\n",
        ),
    ],
    "padding_padding": [
        (
            "swaps before and after",
            "padding",
            "(one[0] + other[0], one[1] + other[1])",
            "(one[1] + other[1], one[0] + other[0])",
        ),
        (
            "forgets the first padding",
            "padding",
            "(one[0] + other[0], one[1] + other[1])",
            "other",
        ),
        (
            "does not check the data format",
            "padding",
            "if first.data_format != second.data_format:",
            "if False:",
        ),
    ],
    "parallel_branches": [
        NO_EPSILON,
        (
            "forgets the identity",
            "branches",
            "np.full(bias.shape, float(identities))",
            "np.zeros(bias.shape)",
        ),
        (
            "does not check the dilation",
            "branches",
            'SAME = (\n    "strides",\n    "dilation_rate",\n',
            'SAME = (\n    "strides",\n',
        ),
        (
            "puts a small kernel in the corner",
            "branches",
            "place.append(slice(offset // dilation, offset // dilation + narrow))",
            "place.append(slice(0, narrow))",
        ),
        (
            "forgets the biases",
            "branches",
            "bias = bias + bias_of(conv)",
            "bias = bias + 0 * bias_of(conv)",
        ),
        (
            "does not check groups",
            "branches",
            '    "groups",\n',
            "",
        ),
    ],
    "parallel_siblings": [
        (
            "splits at the wrong places",
            "siblings",
            "*borders, _ = np.cumsum([each.kernel.shape[-1] for each in linear]).tolist()",
            "*borders, _ = np.cumsum([e.kernel.shape[-1] for e in linear[::-1]]).tolist()",
        ),
        (
            "gives the parts in reverse order",
            "siblings",
            "[parts[index] for index in range(len(linear))]",
            "[parts[index] for index in reversed(range(len(linear)))]",
        ),
        (
            "does not check the geometry",
            "siblings",
            'GEOMETRY = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", '
            '"activation")',
            'GEOMETRY = ("kernel_size", "data_format")',
        ),
        (
            "splits the wrong axis",
            "siblings",
            "SplitOperation(borders, axis=channel_axis(first)",
            "SplitOperation(borders, axis=1",
        ),
    ],
    "same_shape": [
        (
            "leaves the call where it is",
            "identities",
            "return reshape.input",
            "return reshape.evolve()",
        ),
        (
            "takes what the model is given",
            "identities",
            "return reshape.input",
            "return Ref(0)",
        ),
        (
            "asks for sizes that are not known",
            "identities",
            "sizes.count(None) <= 1",
            "sizes.count(None) > 1",
        ),
    ],
    "separable_conv_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        NO_AXIS_CHECK,
        (
            "scales the channels between the halves",
            "separable",
            "scaled(conv.pointwise_kernel, scale)",
            "scaled(conv.pointwise_kernel.swapaxes(-1, -2), scale).swapaxes(-1, -2)",
        ),
    ],
    "separable_split": [
        (
            "loses the activation",
            "separable_split",
            "        activation=conv.activation,\n",
            "",
        ),
        (
            "forgets the depth multiplier",
            "separable_split",
            '"dilation_rate", "depth_multiplier")',
            '"dilation_rate")',
        ),
        (
            "gives both halves a bias",
            "separable_split",
            "        use_bias=False,\n",
            "        use_bias=True,\n",
        ),
        (
            "forgets the strides",
            "separable_split",
            'GEOMETRY = ("kernel_size", "strides", ',
            'GEOMETRY = ("kernel_size", ',
        ),
    ],
    "silu": [
        (
            "applies another activation first",
            "silu",
            'return layer.evolve(activation="linear")(layer.input)',
            'return layer.evolve(activation="tanh")(layer.input)',
        ),
        (
            "takes the sigmoid of the sigmoid",
            "silu",
            "([x, sigmoid(x)])",
            "([x, sigmoid(sigmoid(x))])",
        ),
        (
            "forgets to multiply",
            "silu",
            "([x, sigmoid(x)])",
            "([sigmoid(x), sigmoid(x)])",
        ),
    ],
    "spectral_normalization": [
        (
            "loses the activation",
            "spectral_normalization",
            "return layer.evolve()",
            'return layer.evolve(activation="linear")',
        ),
        (
            "normalizes once more",
            "spectral_normalization",
            "return layer.evolve()",
            "return layer.evolve(kernel=layer.kernel / (layer.kernel**2).sum() ** 0.5)",
        ),
        (
            "loses the sign of the kernel",
            "spectral_normalization",
            "return layer.evolve()",
            "return layer.evolve(kernel=abs(layer.kernel))",
        ),
    ],
    "squeeze_dense": [
        (
            "does not check the padding",
            "squeeze",
            'if conv.padding != "valid" and not pointwise:',
            "if False:",
        ),
        (
            "does not check groups",
            "squeeze",
            "if conv.groups > 1:",
            "if False:",
        ),
        (
            "does not check strides",
            "squeeze",
            "if {*conv.strides, *conv.dilation_rate} != {1}:",
            "if False:",
        ),
        (
            "loses the activation",
            "squeeze",
            "        activation=conv.activation,\n",
            "",
        ),
        (
            "reads the window in another order",
            "squeeze",
            "conv.kernel.reshape(inputs, conv.filters)",
            'conv.kernel.reshape((inputs, conv.filters), order="F")',
        ),
    ],
    "time_distributed_batchnorm": [
        NO_EPSILON,
        MEAN_SIGN,
        NO_ACTIVATION_CHECK,
        UNSCALED_BIAS,
    ],
    "time_distributed_dense": [
        (
            "loses the activation",
            "time_distributed_dense",
            "return dense.evolve()",
            'return dense.evolve(activation="linear")',
        ),
        (
            "loses the sign of the kernel",
            "time_distributed_dense",
            "return dense.evolve()",
            "return dense.evolve(kernel=abs(dense.kernel))",
        ),
        (
            "takes any layer for a Dense layer",
            "time_distributed_dense",
            "steps.wrapped.cls is Dense",
            "steps.wrapped.variables",
        ),
    ],
}
MUTANTS = [Mutant(rule, *bug) for rule, bugs in BUGS.items() for bug in bugs]


if __name__ == "__main__":
    main()
