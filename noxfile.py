"""What CI runs, and what a contributor runs: `nox`, or one session with `nox -s NAME`."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "typing", "tests"]
nox.options.stop_on_first_error = False

PROJECT = nox.project.load_toml("pyproject.toml")
QUIET = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}


def group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group of `pyproject.toml`."""
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely mistakes, of every Python file."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Types of the package, strictly."""
    session.install(*group("typing"))
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, on the package as it is installed, with branch coverage.

    Arguments go to pytest: `nox -s tests -- tests/rules -x`. With arguments, the coverage is shown
    but need not reach its limit. `nox -r -s tests` keeps the environment of the run before.
    """
    session.install(".", *group("test"), *group("export"))
    session.install("--no-deps", "./tests/example_plugin")
    some = ["--cov-fail-under=0"] if session.posargs else []
    session.run("pytest", "--cov", "--cov-report=term", *some, *session.posargs, env=QUIET)


@nox.session
@nox.parametrize("backend", ["jax", "torch"])
def backends(session: nox.Session, backend: str) -> None:
    """The tests on another backend of Keras."""
    session.install(".", *group("test"), backend)
    session.install("--no-deps", "./tests/example_plugin")
    env = {**QUIET, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}
    session.run("pytest", *session.posargs, env=env)


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with the oldest versions that `pyproject.toml` admits."""
    oldest = [each.replace(">=", "==") for each in PROJECT["project"]["dependencies"]]
    session.install(".", *group("test"), *oldest)
    session.install("--no-deps", "./tests/example_plugin")
    session.run("pytest", *session.posargs, env=QUIET)


@nox.session
def zoo(session: nox.Session) -> None:
    """Optimize every network of keras.applications and the backbones of keras-hub; hours.

    Arguments go to the script: `nox -s zoo -- --package hub --only ResNet`.
    """
    session.install(".", *group("bench"), "keras-hub")
    session.run("python", "benchmarks/zoo.py", *session.posargs, env=QUIET)


@nox.session
def random_models(session: nox.Session) -> None:
    """Optimize thousands of random models; hours.

    Arguments go to the script: `nox -s random_models -- --models 500 --minutes 10`.
    """
    session.install(".[testing]", *group("bench"))
    session.run("python", "benchmarks/random_models.py", *session.posargs, env=QUIET)


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant bugs in the built-in rules, and see whether validation finds them; half an hour.

    Arguments go to the script: `nox -s mutants -- --only conv_batchnorm --examples 200`.
    """
    session.install(".[testing]", *group("bench"))
    session.run("python", "benchmarks/mutants.py", *session.posargs, env=QUIET)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the conversion of real networks, and write the figures to benchmarks/results.

    Arguments go to the script: `nox -s bench -- --only ResNet50 --repeats 3`.
    """
    session.install(".", *group("bench"))
    session.run("python", "benchmarks/conversion.py", *session.posargs, env=QUIET)


@nox.session
def scale(session: nox.Session) -> None:
    """Measure time and memory on ever larger models, and write the figures; hours.

    Arguments go to the script: `nox -s scale -- --only chain --again`.
    """
    session.install(".[draw]", *group("bench"))
    session.run("python", "benchmarks/scale.py", *session.posargs, env=QUIET)


@nox.session
def soak(session: nox.Session) -> None:
    """Optimize a thousand models in one process, and write down how much memory it takes.

    Arguments go to the script: `nox -s soak -- --turns 100`.
    """
    session.install(".", *group("bench"))
    session.run("python", "benchmarks/soak.py", *session.posargs, env=QUIET)


@nox.session
def speed(session: nox.Session) -> None:
    """Measure how much faster networks run, and write the figures to benchmarks/results.

    Arguments go to the script: `nox -s speed -- --target onnx --only MobileNetV2`.
    """
    session.install(".[testing]", *group("bench"))
    session.run("python", "benchmarks/speed.py", *session.posargs, env=QUIET)


@nox.session
def rules(session: nox.Session) -> None:
    """Measure what each built-in rule gains, and write the figures to benchmarks/results.

    Arguments go to the script: `nox -s rules -- --target onnx --only silu`.
    """
    session.install(".", *group("bench"))
    session.run("python", "benchmarks/rules.py", *session.posargs, env=QUIET)


@nox.session
def bad_files(session: nox.Session) -> None:
    """Give the command every file of the catalogue of bad files, and write down what it says.

    Arguments go to the script: `nox -s bad_files -- --only "zip bomb"`.
    """
    session.install(".", *group("bench"))
    session.run("python", "benchmarks/bad_files.py", *session.posargs, env=QUIET)


@nox.session
def fuzz_files(session: nox.Session) -> None:
    """Give the command thousands of spoilt files, and count what it does; half an hour.

    Arguments go to the script: `nox -s fuzz_files -- --files 200 --seed 7`.
    """
    session.install(".", *group("bench"))
    session.run("python", "benchmarks/fuzz_files.py", *session.posargs, env=QUIET)
