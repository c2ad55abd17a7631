"""The command `kito`. Keras takes seconds to import; nothing here does so before it is needed."""

# ruff: noqa: PLC0415 (so imports stand in the functions)

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.console import Console

from kito.errors import (
    GraphError,
    InputError,
    KitoError,
    RuleError,
    VerificationError,
    first_line,
)
from kito.hookspecs import SWITCHED_OFF
from kito.progress import doing
from kito.tables import Table

if TYPE_CHECKING:
    import keras

    from kito.report import Report

CHECK_BATCH = 4
CHECK_REPEATS = 3
# Rows of a table that are shown without --verbose.
SHOWN = 20
# The width of tables in files and pipes, which have none.
WIDTH = 120


class Failure(click.ClickException):
    """Ends the command: one line on stderr and, with --json, one document on stdout."""

    as_json = False

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    def show(self, file: Any = None) -> None:
        """Print the message; click calls this."""
        if self.as_json:
            print_json({"error": self.message})
        print(f"Error: {self.message}", file=file or sys.stderr)


class ResultFailed(Failure):
    """The result is not what it should be."""

    exit_code = 1

    def __init__(self, what: str) -> None:
        super().__init__(f"the result failed its check: {what}. Nothing was written.")


class InputUnusable(Failure):
    """The model, a rule, a module or a path can't be used."""

    exit_code = 2


class Defect(Failure):
    """What no input should bring about."""

    exit_code = 3

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"kito failed, and nothing was written: {type(error).__name__}: {first_line(error)}. "
            "Please report this, with what KITO_TRACEBACK=1 in the environment shows besides."
        )


class Interrupted(Failure):
    """Ctrl-C, with the exit code that shells expect."""

    exit_code = 128 + 2


def split_names(
    _context: click.Context, _parameter: click.Parameter, values: Sequence[str]
) -> list[str] | None:
    """The names in all values of an option, None without the option.

    Raises:
        BadParameter: the option is there, but no name.
    """
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if values and not names:
        raise click.BadParameter("give at least one name; `kito rules` lists them.")
    return names or None


def switch_off(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> None:
    """Leave plugins out of this run, see `kito.plugins`."""
    if values:
        before = os.environ.get(SWITCHED_OFF, "")
        os.environ[SWITCHED_OFF] = ",".join([before, *values])


Command = Callable[..., None]

no_plugin = click.option(
    "--no-plugin",
    metavar="NAME",
    multiple=True,
    expose_value=False,
    callback=switch_off,
    help=f"Leave this plugin out; may be repeated. Also: {SWITCHED_OFF}=NAME,...",
)


@dataclass(frozen=True)
class Options:
    """The argument and the options of the commands that load a model, see `model_options`."""

    model: str
    weights: str | None
    unsafe: bool
    modules: Sequence[str]
    as_json: bool
    rules: list[str] | None = None
    target: str | None = None
    verbose: bool = False


def source_options(command: Command) -> Command:
    """The argument and the options that say which model is loaded, and how."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
        click.option(
            "--import",
            "modules",
            metavar="MODULE",
            multiple=True,
            help="Import a module that registers custom objects; may be in the current folder.",
        ),
        click.option(
            "--unsafe",
            is_flag=True,
            help="Load files with Python code in them (Lambda layers). It runs: trust the source.",
        ),
        click.option(
            "--weights",
            type=click.Choice(["imagenet"]),
            help="Download these weights for a network; without, they are random.",
        ),
        no_plugin,
        click.argument("model"),
    ):
        command = decorate(command)
    return command


def model_options(command: Command) -> Command:
    """The argument and the options of the commands that load and rewrite a model."""
    for decorate in (
        source_options,
        click.option("--verbose", is_flag=True, help="List every layer, not only their number."),
        click.option(
            "--rules",
            "--rule",
            "rules",
            metavar="NAME,...",
            multiple=True,
            callback=split_names,
            help="Use these rules only; may be repeated. Default: see `kito rules`.",
        ),
        click.option(
            "--target",
            help="What will run the result: tensorflow, jax, torch, onnx, openvino or litert. "
            "Default: the running backend of Keras.",
        ),
    ):
        command = decorate(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kito")
@click.pass_context
def main(context: click.Context) -> None:
    """Make a trained Keras model compute the same, faster.

    MODEL is a `.keras` or legacy `.h5` file, or the name of a network of keras.applications, such
    as MobileNetV2.

    \b
    Exit codes:
      0  done
      1  the result failed its check; nothing was written
      2  the input can't be used; nothing was written
      3  kito failed; nothing was written. Please report it

    An error is one line on stderr. With --json, stdout has exactly one document; that of an error
    has the key "error". Only where the options themselves are wrong is stdout empty.
    """  # noqa: D301 (the character by which click leaves a paragraph as it is)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    context.with_resource(warnings_in_one_line())


@main.command()
@click.option(
    "-o", "--output", required=True, metavar="OUT.keras", help="The file to write, `.keras`."
)
@click.option("--force", is_flag=True, help="Overwrite OUT.keras.")
@click.option(
    "--precision", help="Compute in bfloat16 or float16: faster, and not exact. Default: as MODEL."
)
@click.option("--tune", is_flag=True, help="Time optional rules on random inputs; minutes.")
@click.option("--strict", is_flag=True, help="Write nothing if a rule fails; don't do without it.")
@model_options
def optimize(
    output: str, force: bool, precision: str | None, tune: bool, strict: bool, **given: Any
) -> None:
    """Write a faster MODEL that gives the same answers.

    Both models run on random inputs, zeros and large numbers. A rewrite after which the answers are
    farther apart than rounding explains is left out, and named.
    """
    options = Options(**given)
    model = options.model
    with failures(options.as_json):
        import_keras()
        from kito import api
        from kito.comparison import compare
        from kito.files import check_output_path, save_model
        from kito.report import Report
        from kito.samples import random_inputs

        check_output_path(output, force)
        source = load(options)
        report = Report()
        result = api.optimize(
            source,
            options.rules,
            target=options.target,
            precision=precision,
            tune=random_inputs(source, CHECK_BATCH) if tune else None,
            verify=True,
            strict=strict,
            report=report,
        )
        if report.verification and (weakness := report.verification.weakness):
            warnings.warn(
                f"the verification proves little: {weakness}. Compare with inputs of your own "
                "(kito.verify in Python).",
                stacklevel=2,
            )
        comparison = compare(source, result, repeats=CHECK_REPEATS)
        document = {
            "source": model,
            "report": report.to_dict(),
            "comparison": comparison.to_dict(),
        }
        with doing(f"writing {output}"):
            save_model(result, output, force)
    if options.as_json:
        print_json(document | {"output": output})
        return
    print_tables([*report_tables(report, options.verbose), *comparison.tables()])
    click.echo(f"{output} is written; its answers are those of {model}.")


@main.command()
@model_options
def inspect(**given: Any) -> None:
    """Show what MODEL consists of, what would be rewritten, and what not and why."""
    options = Options(**given)
    with failures(options.as_json):
        import_keras()
        from kito import api

        source = load(options)
        report = api.explain(source, options.rules, target=options.target)
        description = describe(source)
    if options.as_json:
        print_json({"source": options.model, **description, "report": report.to_dict()})
        return
    click.echo(
        f"{description['name']}: {description['class']}, {len(description['layers'])} layers, "
        f"{description['parameters']:,} parameters\n"
    )
    print_tables(
        [
            *description_tables(description, options.verbose),
            *report_tables(report, options.verbose),
        ]
    )


@main.command()
@click.option(
    "-o",
    "--output",
    metavar="OUT.svg",
    help="The file to write: `.svg`, `.png`, or `.json` for the viewer Model Explorer. "
    "Default: the name of MODEL with `.svg`, in the current folder.",
)
@click.option("--force", is_flag=True, help="Overwrite OUT.svg.")
@click.option(
    "--all", "everything", is_flag=True, help="Draw every call; without, repeats are folded."
)
@model_options
def draw(output: str | None, force: bool, everything: bool, **given: Any) -> None:
    """Draw MODEL before and after, with what would be rewritten marked."""
    options = Options(**given)
    model = options.model
    output = output or f"{os.path.splitext(os.path.basename(model))[0]}.svg"
    with failures(options.as_json):
        import_keras()
        from kito import api
        from kito.drawing.files import check_picture_path

        check_picture_path(output, force)
        source = load(options)
        report = api.explain(source, options.rules, target=options.target)
        # Graphviz, and what it finds fonts with, warn there of what no user can change.
        with native_stderr_closed() as stderr, contextlib.redirect_stderr(stderr):
            report.draw(output, everything=everything or options.verbose)
    if options.as_json:
        print_json({"source": model, "output": output, "report": report.to_dict()})
        return
    click.echo(f"{output} is written: {model} before and after.")


@main.command("compile")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="The folder to write.")
@click.option("--engine", default="auto", help="See `kito engines`. Default: the fastest.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=1, help="What is timed. Default: 1."
)
@click.option(
    "--precision", help="Compute in bfloat16 or float16: faster, and not exact. Default: as MODEL."
)
@click.option("--cache", metavar="FILE", help="Keep the choice of the engine in this JSON file.")
@source_options
def compile_model(
    output: str,
    engine: str,
    batch_size: int,
    precision: str | None,
    cache: str | None,
    **given: Any,
) -> None:
    """Write MODEL for the engine that is the fastest here.

    `kito.load_predictor` loads the folder without Keras. An engine whose answers are not those of
    MODEL is left out.
    """
    options = Options(**given)
    with failures(options.as_json):
        import_keras()
        from kito.selection import predictor
        from kito.writing import check_new_folder

        check_new_folder(output)
        source = load(options)
        # The packages of engines tell there how they work.
        with native_stderr_closed() as stderr, contextlib.redirect_stderr(stderr):
            made = predictor(
                source, engine, batch_size=batch_size, precision=precision, cache=cache
            )
        with doing(f"writing {output}"):
            made.save(output)
    if options.as_json:
        print_json({"source": options.model, "output": output, "choice": made.choice.to_dict()})
        return
    print_tables(made.choice.tables())
    if weakness := made.choice.weakness:
        warnings.warn(f"the check of the answers proves little: {weakness}.", stacklevel=2)
    click.echo(f"{output} is written: {options.model} in {made.engine}.")


@main.command()
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 8, 32),
    help="Of the batches that are timed; may be repeated. Default: 1, 8 and 32.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long each batch size is timed.",
)
@source_options
def bench(batch_sizes: tuple[int, ...], seconds: float, **given: Any) -> None:
    """Time MODEL as it is and optimized, in all that can run it here.

    Everything runs in one process, in turns. The differences are from what Keras answers.
    """
    options = Options(**given)
    with failures(options.as_json):
        import_keras()
        from kito.bench import measure

        source = load(options)
        with native_stderr_closed() as stderr, contextlib.redirect_stderr(stderr):
            measured = measure(source, batch_sizes, seconds=seconds)
    if options.as_json:
        print_json({"source": options.model, **measured.to_dict()})
        return
    print_tables(measured.tables())
    if measured.weakness:
        warnings.warn(f"the differences prove little: {measured.weakness}.", stacklevel=2)


@main.command("engines")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@no_plugin
def list_engines(as_json: bool) -> None:
    """List what can run a model, engines of plugins included, and what they lack here."""
    with failures(as_json):
        import_keras()
        from kito.discovery import engines

        rows = [
            (name, each.engine.target, each.engine.lacks_to_save() or "", each.origin)
            for name, each in engines().items()
        ]
    columns = ("name", "target", "lacks", "origin")
    if as_json:
        print_json({"engines": [dict(zip(columns, row, strict=True)) for row in rows]})
        return
    print_tables([Table("engines", columns, rows)])


@main.command("rules")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@no_plugin
def list_rules(as_json: bool) -> None:
    """List the rules, those of plugins included."""
    with failures(as_json):
        import_keras()
        from kito import catalogue

        rules, table = catalogue.all_rules(), catalogue.table()
    if as_json:
        print_json({"rules": rules})
        return
    print_tables([table])


@main.command("rule")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@no_plugin
def show_rule(name: str, as_json: bool) -> None:
    """Show the page of the rule NAME: what it matches, its algebra, when it declines."""
    with failures(as_json):
        import_keras()
        from rich.markdown import Markdown

        from kito import catalogue

        rule = catalogue.one_rule(name)
    if as_json:
        print_json(rule)
        return
    terminal().print(Markdown(catalogue.page(rule)))


def load(options: Options) -> keras.Model:
    """The model that the options describe; what is quickly checked is checked first.

    Raises:
        KitoError: a rule, a module or the model can't be used.
    """
    from kito import plugins
    from kito.files import load_model

    plugins.select(options.rules, options.target)
    for module in options.modules:
        import_module(module)
    with doing(f"loading {options.model}"):
        loaded = load_model(options.model, options.weights, options.unsafe)
    if options.weights is None and not os.path.isfile(options.model):
        warnings.warn(
            f"{options.model} has random weights. Use --weights imagenet, or give a file.",
            stacklevel=2,
        )
    return loaded


def import_module(name: str) -> None:
    """Import a module of the user, from the current folder too, as `python -m` does.

    Raises:
        InputError: it can't be imported.
    """
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"the module '{name}' can't be imported: {type(error).__name__}: {error}. Give its "
            "name as an import statement has it, of a module that is installed or in this folder."
        ) from error


def describe(model: keras.Model) -> dict[str, Any]:
    """The name, inputs, outputs and layers of a model, as plain lists, dicts and numbers."""
    import keras

    from kito.graph.keras_internals import structures

    def tensors(symbolic: Sequence[Any], names: Sequence[str] = ()) -> list[dict[str, Any]]:
        names = names or [each.name for each in symbolic]
        return [
            {"name": name, "shape": list(each.shape), "dtype": str(each.dtype)}
            for name, each in zip(names, symbolic, strict=True)
        ]

    inputs, outputs = structures(model)
    return {
        "name": model.name,
        "class": type(model).__name__,
        "parameters": model.count_params(),
        "inputs": tensors(keras.tree.flatten(inputs)),
        # Keras names the outputs of a functional model after their layers; others have no names.
        "outputs": tensors(keras.tree.flatten(outputs), getattr(model, "output_names", ())),
        "layers": list(describe_layers(model)),
    }


def describe_layers(model: keras.Model, path: str = "") -> Iterator[dict[str, Any]]:
    """The layers of a model; those of a nested model follow it."""
    for layer in model.layers:
        yield {
            "name": path + layer.name,
            "class": type(layer).__name__,
            "parameters": layer.count_params() if layer.built else 0,
            "dtype": str(layer.dtype_policy.name),
        }
        if hasattr(layer, "layers"):
            yield from describe_layers(layer, f"{path}{layer.name}/")


def description_tables(description: dict[str, Any], verbose: bool) -> list[Table]:
    """What `inspect` shows of a model: its layers, or without `verbose` how many of each class."""
    tensors = [
        (kind, each["name"], str(tuple(each["shape"])), each["dtype"])
        for kind in ("input", "output")
        for each in description[f"{kind}s"]
    ]
    layers = description["layers"]
    if verbose:
        columns = ("layer", "class", "parameters", "dtype")
        rows = [
            (each["name"], each["class"], f"{each['parameters']:,}", each["dtype"])
            for each in layers
        ]
    else:
        columns = ("class", "layers", "parameters", "dtype")
        rows = []
        for kind in dict.fromkeys((each["class"], each["dtype"]) for each in layers):
            counts = [e["parameters"] for e in layers if (e["class"], e["dtype"]) == kind]
            rows.append((kind[0], str(len(counts)), f"{sum(counts):,}", kind[1]))
    return [
        Table("inputs and outputs", ("", "name", "shape", "dtype"), tensors),
        Table("layers", columns, rows),
    ]


def report_tables(report: Report, verbose: bool) -> list[Table]:
    """The report: each rewrite, or without `verbose` how many each rule made."""
    rewrites, *others = report.tables()
    if verbose:
        return [rewrites, *others]
    if report.applied:
        rows = [
            (rule, str(count), f"{sum(e.parameters for e in report.applied if e.rule == rule):+,}")
            for rule, count in report.folded.items()
        ]
        rewrites = Table("rewritten", ("rule", "times", "parameters"), rows)
    return [rewrites, *map(shortened, others)]


def shortened(table: Table) -> Table:
    """The first rows of a table, and how many there are more."""
    if len(table.rows) <= SHOWN:
        return table
    more = (f"and {len(table.rows) - SHOWN} more: --verbose", *[""] * (len(table.columns) - 1))
    return Table(table.title, table.columns, [*table.rows[:SHOWN], more])


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables on stdout, as wide as the terminal."""
    console = terminal()
    for table in tables:
        console.print(table)


def terminal() -> Console:
    """What prints on stdout, as wide as the terminal."""
    # Names and reasons are not markup, whatever brackets are in them.
    return Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDTH)


def print_json(document: dict[str, Any]) -> None:
    """Print one document on stdout; numbers that JSON does not have become null."""
    click.echo(json.dumps(_finite(document), indent=2))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def failures(as_json: bool) -> Iterator[None]:
    """Turn what the work raises into exit codes, and keep stdout free of what others print.

    Raises:
        Failure: in place of whatever else is raised.
    """
    failure: Failure
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    except Failure as error:
        failure = error
    except (GraphError, RuleError, VerificationError) as error:  # only with --strict, or no rule's
        failure = ResultFailed(str(error).rstrip("."))
    except KitoError as error:
        failure = InputUnusable(str(error))
    except KeyboardInterrupt:
        failure = Interrupted("interrupted; nothing was written")
    except MemoryError:
        failure = InputUnusable("there is not enough memory for this model. Take a larger machine.")
    except Exception as error:
        if "KITO_TRACEBACK" in os.environ:
            raise
        failure = Defect(error)
    failure.as_json = as_json
    raise failure


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show warnings as lines for users, without the place in the code that they come from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"Warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def import_keras() -> None:
    """Import Keras without the noise that TensorFlow makes."""
    if "keras" not in sys.modules:
        with (
            native_stderr_closed() as stderr,
            contextlib.redirect_stderr(stderr),
            doing("importing Keras"),
        ):
            import keras  # noqa: F401
    # Both log, as warnings, what concerns only those who train or save a model themselves.
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def native_stderr_closed() -> Iterator[TextIO]:
    """Drop what is written to file descriptor 2; yields what leads where that led.

    TensorFlow's C++ code writes there while it is imported, before its log level is in force.
    """
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as kept:
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield kept
        finally:
            os.dup2(kept.fileno(), 2)
