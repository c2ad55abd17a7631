"""The command `kito`. Keras takes seconds to import; nothing here does so before it is needed."""

# ruff: noqa: PLC0415 (so imports stand in the functions)

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kito.description import describe, description_tables
from kito.errors import InputError
from kito.failures import failures
from kito.hookspecs import SWITCHED_OFF
from kito.progress import doing
from kito.tables import Table
from kito.terminal import (
    import_keras,
    native_stderr_closed,
    print_json,
    print_tables,
    report_tables,
    terminal,
    warnings_in_one_line,
)

if TYPE_CHECKING:
    import keras

CHECK_BATCH = 4
CHECK_REPEATS = 3


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
