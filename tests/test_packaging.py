"""What is installed, and what importing it costs."""

import configparser
import fnmatch
import os
import subprocess
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import keras
import pytest

import tfgen
from tfgen import backend

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg")
    return parser


def test_tests_are_of_this_checkout():
    """Also in processes that they start."""
    assert Path(tfgen.__file__).parents[1] == CHECKOUT
    code = "import tfgen, tfgen_command; print(tfgen.__file__, tfgen_command.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True
    )
    assert [Path(path).parents[1] for path in done.stdout.split()] == [CHECKOUT, CHECKOUT]


def test_every_package_is_listed(setup_cfg):
    folders = {
        path.parent
        for package in ("tfgen", "tfgen_command")
        for path in (CHECKOUT / package).rglob("__init__.py")
    }
    names = {".".join(folder.relative_to(CHECKOUT).parts) for folder in folders}
    assert set(setup_cfg["options"]["packages"].split()) == names | {"tfgen._zoo"}
    for path in (CHECKOUT / "tfgen").rglob("*.py"):
        assert path.parent in folders, f"{path} is in no package"


def test_the_wheel_carries_the_zoo(setup_cfg):
    assert "tfgen._zoo = zoo" in setup_cfg["options"]["package_dir"]
    assert setup_cfg["options.package_data"]["tfgen._zoo"] == "*/*"
    assert setup_cfg["options.exclude_package_data"]["tfgen._zoo"].split() == [
        *("*/*.png", "*/card.md"),
    ]
    assert not list((CHECKOUT / "zoo").glob("*/*/*")), "too deep for package_data"


def test_every_other_file_is_package_data(setup_cfg):
    """The local server's page and py.typed, which an editable installation has anyway."""
    for path in (CHECKOUT / "tfgen").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            package = ".".join(path.parent.relative_to(CHECKOUT).parts)
            patterns = setup_cfg["options.package_data"].get(package, "").split()
            assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path


def test_the_wheel_stays_small(setup_cfg):
    """As its files are compressed in it, and what a wheel has for each of them and for itself."""
    sources = [*CHECKOUT.glob("tfgen/**/*"), *CHECKOUT.glob("tfgen_command/**/*.py")]
    stored = [path for path in CHECKOUT.glob("zoo/*/*") if path.suffix in (".h5", ".json")]
    files = [path for path in (*sources, *stored) if path.is_file() and path.suffix != ".pyc"]
    texts = [path.read_bytes() for path in files]
    texts.append(setup_cfg["metadata"]["long_description"].encode())
    deflated = 0
    for text in texts:
        deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        deflated += len(deflate.compress(text) + deflate.flush())
    assert deflated + 151 * len(files) + 13_000 < 60e6  # measured on two wheels


def test_version(setup_cfg):
    assert tfgen.__version__ == version("tfgen") == setup_cfg["metadata"]["version"]


@pytest.mark.slow
def test_public_names():
    """All of them can be reached after `import tfgen`, and `dir` shows nothing else."""
    assert dir(tfgen) == sorted(tfgen.__all__)
    names = "load list_models data zoo training evaluation export plots serving Recipe __version__"
    assert set(names.split()) <= set(tfgen.__all__)
    script = "import tfgen; [getattr(tfgen, name) for name in tfgen.__all__]"
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="module 'tfgen' has no attribute 'lode'"):
        tfgen.lode  # noqa: B018


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_another_backend_is_refused_in_one_sentence(name):
    run = subprocess.run(
        [sys.executable, "-c", "import tfgen"],
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
    )
    said = run.stderr.strip().splitlines()[-1]
    assert said.startswith("ImportError: tfgen runs on Keras' TensorFlow backend alone; ")
    assert repr(name) in said
    assert "KERAS_BACKEND=tensorflow" in said


def test_channels_first_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    for call in (backend.check, tfgen.VAE):
        with pytest.raises(ImportError, match=r"tfgen needs images as .*'channels_first'"):
            call()


@pytest.mark.slow
def test_import_is_light():
    """Beyond what Keras loads: no TFP, no library of the command line, of plots or of the data."""
    script = (
        "import sys, keras; old = set(sys.modules); import tfgen; print(*set(sys.modules) - old)"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    added = set(run.stdout.split())
    assert "tfgen" in added
    heavy = {"tensorflow_probability", "tf_keras", "typer", "rich", "matplotlib", "sklearn", "PIL"}
    assert not added & (heavy | {"tfgen.cli", "tfgen.training", "tfgen.distributions.tfp"})


@pytest.mark.nightly
def test_the_contract_holds_for_every_version_of_tensorflow_and_python():
    """Makes an environment for each pair, so it takes an hour; pairs without a Python are told."""
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "versions.py"
    subprocess.run([sys.executable, script], check=True)
