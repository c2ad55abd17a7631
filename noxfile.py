"""What CI runs, and what a contributor runs: `nox`, or one session with `nox -s NAME`."""

from __future__ import annotations

import shutil
import sysconfig
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "typing", "tests"]
nox.options.stop_on_first_error = False

PROJECT = nox.project.load_toml("pyproject.toml")
QUIET = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
TEMPLATE = Path("examples/kito-example")


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


# Each process may need several gigabytes.
SPREAD = ("--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, on the package as it is installed.

    Arguments go to pytest: `nox -s tests -- tests/rules -x`. They run in one process then.
    `nox -r -s tests` keeps the environment of the run before.
    """
    install_for_tests(session)
    session.run("pytest", *(session.posargs or SPREAD), env=QUIET)


@nox.session
def coverage(session: nox.Session) -> None:
    """The tests once more, counting the branches that they take: a third slower."""
    install_for_tests(session)
    options = ("--cov", "--cov-report=term", *SPREAD)
    session.run("pytest", *options, *session.posargs, env=QUIET)


def install_for_tests(session: nox.Session) -> None:
    """Install the package, what tests need, and the plugin that they load."""
    session.install(".", *group("test"), *group("export"))
    session.install("--no-deps", "./examples/kito-example")


@nox.session
@nox.parametrize("backend", ["jax", "torch"])
def backends(session: nox.Session, backend: str) -> None:
    """The tests on another backend of Keras."""
    session.install(".", *group("test"), backend)
    session.install("--no-deps", "./examples/kito-example")
    env = {**QUIET, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}
    session.run("pytest", *session.posargs, env=env)


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with the oldest versions that `pyproject.toml` admits."""
    oldest = [each.replace(">=", "==") for each in PROJECT["project"]["dependencies"]]
    session.install(".", *group("test"), *oldest)
    session.install("--no-deps", "./examples/kito-example")
    session.run("pytest", *session.posargs, env=QUIET)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into docs/_build/html, its notebook run; a warning or broken link is an error.

    An argument is another builder of Sphinx: `nox -s docs -- linkcheck` asks for every page of the
    web that is linked, and so needs a network.
    """
    for builder in session.posargs or ["html"]:
        build(session, builder)


@nox.session
def site(session: nox.Session) -> None:
    """Build the site, and look at all its pages in Chromium: wide, narrow, light and dark.

    Arguments go to pytest: `nox -s site -- -k depthwise`. Chromium is found on the path, or named
    by the environment variable CHROMIUM.
    """
    build(session, "html")
    session.install(*group("site"))
    session.run("pytest", "docs/check_site.py", *session.posargs)


def build(session: nox.Session, builder: str) -> None:
    """Run Sphinx, on the package as it is installed."""
    # The engines are for a notebook that lets kito choose one.
    session.install(".[draw,testing,onnxruntime,openvino,litert]", *group("docs"))
    strict = ("--fail-on-warning", "--keep-going", "--fresh-env")
    folders = ("-d", "docs/_build/doctrees", "docs", f"docs/_build/{builder}")
    session.run("sphinx-build", *strict, "-b", builder, *folders, env=QUIET)


@nox.session
def plugin(session: nox.Session) -> None:
    """Build kito and the template of a plugin, install their wheels alone, and test the plugin."""
    session.install("build")
    folder = Path(session.create_tmp()).resolve()
    wheels, tests = folder / "wheels", folder / "plugin"
    for old in (wheels, tests):
        shutil.rmtree(old, ignore_errors=True)
    for project in (Path(), TEMPLATE):
        options = ("--wheel", "--outdir", str(wheels))
        session.run("python", "-m", "build", *options, str(project), silent=True)
    kito, template = sorted(wheels.glob("*.whl"))
    scripts = clean_environment(session, folder, f"{kito}[testing]", f"{template}[test]")
    # Without its source, so that what is tested is what is installed.
    shutil.copytree(TEMPLATE, tests, ignore=shutil.ignore_patterns("src"))
    session.chdir(tests)
    session.run(str(scripts / "pytest"), *session.posargs, env=QUIET, external=True)


@nox.session
def release(session: nox.Session) -> None:
    """Build what is published into dist/, and check it.

    The wheel and the source distribution are built again from the latter, in another folder: the
    bytes must be the same. The wheel must work where nothing else is installed.
    """
    session.install(*group("release"))
    session.run("towncrier", "build", "--draft", "--version", PROJECT["project"]["version"])
    folder = Path(session.create_tmp()).resolve()
    dist, again = Path("dist").resolve(), folder / "again"
    for old in (dist, again, folder / "source"):
        shutil.rmtree(old, ignore_errors=True)
    built(session, Path(), dist)
    [wheel], [source] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    shutil.unpack_archive(source, folder / "source", filter="data")
    [unpacked] = (folder / "source").iterdir()
    built(session, unpacked, again)
    for file in (wheel, source):
        if file.read_bytes() != (again / file.name).read_bytes():
            session.error(f"{file.name} has other bytes if it is built from {source.name}")
    session.run("twine", "check", "--strict", str(wheel), str(source))
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("kito/py.typed", f"{wheel.name.rsplit('-', 3)[0]}.dist-info/licenses/LICENSE"):
        if wanted not in names:
            session.error(f"{wheel.name} has no {wanted}")
    scripts = clean_environment(session, folder, str(wheel))
    session.chdir(folder)
    session.run(str(scripts / "python"), "-c", "from kito import *", env=QUIET, external=True)
    session.run(str(scripts / "kito"), "rule", "conv_batchnorm", env=QUIET, external=True)


def built(session: nox.Session, project: Path, folder: Path) -> None:
    """Build a source distribution and, of that, a wheel; their time is that of the last commit."""
    epoch = session.run("git", "log", "-1", "--format=%ct", silent=True, external=True)
    env = {"SOURCE_DATE_EPOCH": str(epoch).strip()}
    command = ("python", "-m", "build", "--outdir", str(folder), str(project))
    session.run(*command, env=env, silent=True)


def clean_environment(session: nox.Session, folder: Path, *requirements: str) -> Path:
    """The commands of a new environment in which nothing but the requirements is installed."""
    session.run("python", "-m", "venv", "--clear", str(folder / "clean"))
    scripts = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder / "clean")}))
    install = ("install", "--quiet", "--disable-pip-version-check")
    session.run(str(scripts / "pip"), *install, *requirements, external=True)
    return scripts


@nox.session
def ray(session: nox.Session) -> None:
    """Score images by the recipe for Ray Data on this machine, and kill processes while it runs.

    Arguments go to pytest: `nox -s ray -- -k cut_off`.
    """
    session.install(".[onnxruntime]", *group("ray"))
    session.run("pytest", "examples/ray_scoring", *session.posargs, env=QUIET)


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
    """Time real networks in all that can run them, and write tables and plots; an hour or two.

    Arguments go to the script: `nox -s bench -- --only ResNet50 --seconds 20`.
    """
    session.install(".", *group("bench"))
    session.run("python", "benchmarks/bench.py", *session.posargs, env=QUIET)


@nox.session
@nox.parametrize("backend", ["jax", "torch"])
def bench_gpu(session: nox.Session, backend: str) -> None:
    """Time the same networks on JAX or PyTorch, on the GPU if there is one; an hour or two.

    Arguments go to the script, as for `bench`: `nox -s "bench_gpu(backend='jax')"`.
    """
    session.install(".", *group("bench"), "jax[cuda12]" if backend == "jax" else backend)
    env = {**QUIET, "KERAS_BACKEND": backend}
    session.run("python", "benchmarks/bench.py", *session.posargs, env=env)


@nox.session(python="3.11")  # the last one that the last Keras 2 installs on
@nox.parametrize("keras", ["2", "3"])
def peers(session: nox.Session, keras: str) -> None:
    """Let other tools fold the networks, in the Keras that they are for and in today's; an hour.

    Arguments go to the script: `nox -s peers -- --tool kecam --only ResNet50`.
    """
    libraries = ["tensorflow==2.15.*"] if keras == "2" else PROJECT["project"]["dependencies"]
    # The original KITO has the name of this package, which is not installed here.
    session.install(*libraries, "kito==1.0.5", "keras-cv-attention-models==1.4.3")
    session.run("python", "benchmarks/peers.py", *session.posargs, env=QUIET)


@nox.session
def conversion(session: nox.Session) -> None:
    """Measure the conversion of real networks, and write the figures to benchmarks/results.

    Arguments go to the script: `nox -s conversion -- --only ResNet50 --repeats 3`.
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
