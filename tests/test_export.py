"""SavedModels: the same bytes from tfgen, from a bare TensorFlow and from C; and what they hold."""

import contextlib
import dataclasses
import functools
import io
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import exported
import laws
import numpy as np
import pytest
import tensorflow as tf
from conftest import CASES
from filelock import FileLock
from google.protobuf import text_format
from tensorflow.core.framework import types_pb2
from tensorflow.python.tools import saved_model_cli
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from tfgen import VAE, export, model_repository, presets, zoo

BATCH = 5
TINY = {str(case): case for case in CASES}
SHIPPED = zoo.list_models()
FAST = {"vae_2d_mnist", *(name for name, case in TINY.items() if case.is_first)}
EVERY_TINY, EVERY = (
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names]
    for names in (TINY, (*TINY, *SHIPPED))
)
COMMITTED = Path(__file__).resolve().parents[1] / "saved_models" / "vae_2d_mnist" / "1"
INPUTS = {"images", "latents", "labels", "mask", "seed"}
OUTPUTS = {"images", "image_bytes", "latents", "log_likelihood", "log_likelihood_map", "score"}
ENDPOINTS = {
    *("serving_default", "sample", "sample_png", "encode", "decode", "reconstruct"),
    *("latents", "log_likelihood", "log_likelihood_map", "complete", "score"),
}
MEGABYTE = 10**6


@dataclasses.dataclass
class Artifact:
    """A model, its export, and what the model itself answers."""

    model: object
    path: Path

    @functools.cached_property
    def details(self) -> dict:
        return exported.metadata(self.path)

    @functools.cached_property
    def loaded(self):
        return tf.saved_model.load(str(self.path))

    def calls(self, batch: int = BATCH, seed: int = 0) -> dict:
        classes = self.details["num_classes"]
        return {
            name: exported.inputs_for(specs["inputs"], classes, batch, seed)
            for name, specs in self.details["signatures"].items()
        }

    @functools.cached_property
    def answers(self) -> dict:
        """What the graphs behind the model's methods give for `calls()`."""
        graphs = self.model.signatures(jit_compile=self.details["jit_compile"])
        return {
            name: {
                key: value.numpy()
                for key, value in graphs[name](*map(tf.constant, given.values())).items()
            }
            for name, given in self.calls().items()
        }

    def run(self, name: str, given: dict) -> dict:
        outputs = self.loaded.signatures[name](**{k: tf.constant(v) for k, v in given.items()})
        return {key: value.numpy() for key, value in outputs.items()}


class Artifacts(dict):
    """Every family in every configuration and every entry that is shipped, exported when asked."""

    def __init__(self, repository: Path):
        super().__init__()
        self.repository = repository

    def __missing__(self, name: str) -> Artifact:
        model = laws.randomised(TINY[name]()) if name in TINY else zoo.load(name)
        self[name] = Artifact(model, model.export(self.repository / name))
        return self[name]

    def jobs(self, names: Iterable[str]) -> list[tuple[Path, dict]]:
        """What each of them is to answer."""
        return [(self[name].path, self[name].calls()) for name in names]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Artifacts:
    return Artifacts(tmp_path_factory.mktemp("repository"))


@pytest.fixture(params=EVERY)
def artifact(request, artifacts) -> Artifact:
    return artifacts[request.param]


@pytest.fixture(params=EVERY_TINY)
def tiny(request, artifacts) -> Artifact:
    return artifacts[request.param]


def assert_same_bytes(found: dict, wanted: dict) -> None:
    assert set(found) == set(wanted)
    for name, outputs in wanted.items():
        assert set(found[name]) == set(outputs)
        for key, value in outputs.items():
            assert found[name][key].dtype == value.dtype
            np.testing.assert_array_equal(found[name][key], value, err_msg=f"{name}, {key}")


def decode_png(strings) -> np.ndarray:
    return np.stack([tf.io.decode_png(string).numpy() for string in strings])


# The same bytes


@pytest.fixture(scope="module")
def c_program(tmp_path_factory) -> Path:
    if exported.compiler() is None:
        pytest.skip("no C compiler is installed")
    return exported.build(tmp_path_factory.mktemp("c") / "saved_model")


@pytest.fixture(scope="module")
def chosen(request) -> list[str]:
    """Those whose bytes this run compares: one process runs them all."""
    asked = {
        item.callspec.params["name"]
        for item in request.session.items
        if "chosen" in item.fixturenames
    }
    return [name for name in (*TINY, *SHIPPED) if name in asked]


@pytest.fixture(scope="module")
def from_c(artifacts, chosen, c_program, tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("from_c")
    results = exported.run_in_c(c_program, artifacts.jobs(chosen), folder)
    return dict(zip(chosen, results, strict=True))


@pytest.fixture(scope="module")
def from_bare_python(artifacts, chosen, tmp_path_factory) -> dict[str, dict]:
    results = exported.run_bare(artifacts.jobs(chosen), tmp_path_factory.mktemp("bare"))
    return dict(zip(chosen, results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_c_gives_the_same_bytes(name, artifacts, from_c):
    assert_same_bytes(from_c[name], artifacts[name].answers)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_python_without_keras_gives_the_same_bytes(name, artifacts, from_bare_python):
    assert_same_bytes(from_bare_python[name], artifacts[name].answers)


@pytest.mark.slow
def test_the_committed_version_gives_the_same_bytes(c_program, tmp_path):
    """So a clone can be served with no Python at all."""
    committed = Artifact(None, COMMITTED)
    (from_c,) = exported.run_in_c(c_program, [(COMMITTED, committed.calls())], tmp_path)
    wanted = {name: committed.run(name, given) for name, given in committed.calls().items()}
    assert_same_bytes(from_c, wanted)


@pytest.mark.slow_except("VAE-mixture")
def test_methods_give_the_same_bytes(artifact):
    """`answers` come from the graphs; the public method is one of them."""
    given = artifact.calls()
    labels = {name: given[name]["labels"] for name in given if "labels" in given[name]}
    if "sample" in given:
        label = {"labels": labels["sample"]} if labels else {}
        images = artifact.model.sample(BATCH, seed=given["sample"]["seed"], **label)
        np.testing.assert_array_equal(images, artifact.answers["sample"]["images"])
    if "encode" in given:
        label = {"labels": labels["encode"]} if labels else {}
        images = artifact.model.nearest_level(tf.constant(given["encode"]["images"]))
        latents = artifact.model.encode(images.numpy(), **label)
        np.testing.assert_array_equal(latents, artifact.answers["encode"]["latents"])


@pytest.mark.slow_except("vae_2d_mnist")
def test_png_holds_the_sample(artifact):
    if "sample" not in artifact.answers:
        assert "sample_png" not in artifact.answers
        return
    strings = artifact.answers["sample_png"]["image_bytes"]
    assert strings.shape == (BATCH,)
    np.testing.assert_array_equal(decode_png(strings), artifact.answers["sample"]["images"])


@pytest.mark.slow
def test_c_program_reports_what_fails(c_program, tmp_path):
    for plan, message in (
        (f"model {tmp_path}", "Could not find SavedModel"),
        ("run", "is no instruction"),
        ("input seed 0 9 file 1 5", "no model is loaded"),
    ):
        run = subprocess.run([c_program], input=plan, text=True, capture_output=True)
        assert run.returncode == 1
        assert message in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"size": 2047}, "is too short"),
        ({"size": 2049}, "is too long"),
        ({"shape": "2 -1 2"}, "has a negative dimension"),
        ({"shape": f"2 {-(2**63)} 2"}, "has a negative dimension"),
        ({"shape": f"2 {2**61} 2"}, "has too large a shape"),
        ({"shape": f"3 {2**32} {2**32} 2"}, "has too large a shape"),
        ({"kind": types_pb2.DT_STRING}, "is of a type without a fixed size"),
        ({"output": "/dev/full"}, "cannot be written"),
    ],
)
def test_c_program_refuses_what_does_not_fit(c_program, tmp_path, changes, message):
    """The images are whole blocks of a disk, so that none of their bytes wait for `fclose`."""
    signature = exported.meta_graph(COMMITTED).signature_def["decode"]
    (given,), (taken,) = signature.inputs.values(), signature.outputs.values()
    file, output = tmp_path / "latents.in", changes.get("output", tmp_path / "images.out")
    file.write_bytes(bytes(changes.get("size", 2048)))
    kind, shape = changes.get("kind", types_pb2.DT_FLOAT), changes.get("shape", "2 256 2")
    plan = (
        f"model {COMMITTED}",
        f"input {given.name.replace(':', ' ')} {kind} {file} {shape}",
        f"output {taken.name.replace(':', ' ')} {output}",
        "run",
    )
    run = subprocess.run([c_program], input="\n".join(plan), text=True, capture_output=True)
    assert run.returncode == (0 if message is None else 1), run.stderr
    if message is None:
        assert output.stat().st_size == 256 * 28 * 28
        assert output.stat().st_size % 4096 == 0
    else:
        assert message in run.stderr


# What an image depends on


@pytest.mark.slow_except("VAE-mixture")
def test_image_i_depends_on_seed_i_alone(artifact):
    """Over batch sizes, orders and batch mates, but for float rounding."""
    for name, given in artifact.calls().items():
        if "seed" not in given or name == "serving_default":
            continue
        whole = artifact.run(name, given)
        rows = [[i] for i in range(BATCH)] + [[4, 0, 2], [1, 1]]
        for chosen in rows:
            own = {key: value[chosen] for key, value in given.items()}
            part = artifact.run(name, own)
            for key, value in part.items():
                wanted = whole[key][chosen]
                if key == "image_bytes":
                    value, wanted, key = decode_png(value), decode_png(wanted), "images"
                if key == "images":
                    laws.assert_close_draws(artifact.model, value, wanted, own)
                else:
                    np.testing.assert_allclose(value, wanted, rtol=1e-4)


@pytest.mark.slow_except("vae_2d_mnist", "VAE-mixture")
def test_seeds_matter(artifact):
    for name, given in artifact.calls().items():
        if "seed" in given and artifact.model.num_levels > 2:
            other = artifact.run(name, {**given, "seed": given["seed"] + 1000})
            for key, value in other.items():
                assert (value != artifact.answers[name][key]).any(), f"{name} ignores its seed"


@pytest.mark.slow_except("GAN-dcgan", "PixelCNN-gated")
def test_any_batch_size(tiny):
    for batch in (1, 3, 17):
        for name, given in tiny.calls(batch).items():
            for value in tiny.run(name, given).values():
                assert len(value) == batch


# What is in it


def test_saved_model_cli_shows_named_batches(artifact):
    for name, specs in artifact.details["signatures"].items():
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            saved_model_cli._show_inputs_outputs(str(artifact.path), "serve", name)
        shown = output.getvalue()
        assert "Method name is: tensorflow/serving/predict" in shown
        for kind in ("inputs", "outputs"):
            for key, spec in specs[kind].items():
                part = shown.split(f"{kind}['{key}']")[1].split("name:")[0]
                shape = ", ".join("-1" if size is None else str(size) for size in spec["shape"])
                dtype = tf.as_dtype(spec["dtype"]).as_datatype_enum
                assert f"dtype: {types_pb2.DataType.Name(dtype)}\n" in part
                assert f"shape: ({shape}" in part
                assert spec["shape"][0] is None, "the batch is not dynamic"
        assert shown.count("']") == len(specs["inputs"]) + len(specs["outputs"])


@pytest.mark.slow
def test_the_command_saved_model_cli(artifacts):
    artifact = artifacts["VAE-conditional_colour"]
    command = ["saved_model_cli", "show", "--dir", artifact.path, "--all"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    for name, specs in artifact.details["signatures"].items():
        part = run.stdout.split(f"signature_def['{name}']")[1].split("signature_def[")[0]
        for kind in ("inputs", "outputs"):
            for key in specs[kind]:
                assert f"{kind}['{key}']" in part


def test_names(artifact):
    signatures = artifact.details["signatures"]
    assert set(signatures) <= ENDPOINTS
    assert "serving_default" in signatures
    default = "sample" if "sample" in signatures else "reconstruct"
    assert signatures["serving_default"] == signatures[default]
    for specs in signatures.values():
        assert set(specs["inputs"]) <= INPUTS
        assert set(specs["outputs"]) <= OUTPUTS
        assert ("labels" in specs["inputs"]) == (artifact.model.num_classes is not None)


def test_runs_anywhere(artifact):
    """No operation of Python's, none that keeps random state, and no device is fixed."""
    graph = exported.meta_graph(artifact.path).graph_def
    saver = ("__inference__traced_save", "__inference__traced_restore")
    operations, devices = set(), set()
    for function in graph.library.function:
        operations |= {node.op for node in function.node_def}
        if not function.signature.name.startswith(saver):
            devices |= {node.device for node in function.node_def}
    assert devices == {""}
    assert len(operations) > 20
    assert not {op for op in operations if "PyFunc" in op}
    assert not operations & {"RandomUniform", "RandomStandardNormal", "StatefulUniform"}
    text = (artifact.path / "saved_model.pb").read_bytes()
    assert os.fsencode(Path(export.__file__).parent) not in text


def stored_shapes(path: Path) -> Counter:
    variables = tf.train.list_variables(str(path / "variables" / "variables"))
    return Counter(
        tuple(shape) for name, shape in variables if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    )


def shapes(variables) -> Counter:
    return Counter(tuple(variable.shape) for variable in variables)


def test_weights_are_stored_once(artifact):
    names = {
        name for name, _ in tf.train.list_variables(str(artifact.path / "variables/variables"))
    }
    assert all(name.startswith("held/") for name in names - {"_CHECKPOINTABLE_OBJECT_GRAPH"})
    stored = stored_shapes(artifact.path)
    assert stored <= shapes(artifact.model.weights)
    handles = [
        n for n in exported.meta_graph(artifact.path).graph_def.node if n.op == "VarHandleOp"
    ]
    assert len(handles) == stored.total()
    if hasattr(artifact.model, "averaged_generator"):  # the other generator is for training only
        discriminator = artifact.model.discriminator
        # Nor does a score read the vectors that spectral normalisation iterates.
        read = artifact.model.averaged_generator.weights + discriminator.trainable_weights
        assert stored == shapes(read)


@pytest.mark.slow
def test_no_slots_of_an_optimizer(tmp_path):
    model = next(iter(TINY.values()))()
    before = stored_shapes(model.export(tmp_path / "model"))
    model.compile("adam")
    model.fit(laws.images_for(model, 4), verbose=0)
    assert stored_shapes(model.export(tmp_path / "model")) == before


def test_size(artifact):
    """At most 1.2 times the weights it serves, plus 1 MB for graphs of up to 4,000 operations.

    A ladder has more operations, a few dozen for each group of latents; none may hold an array of
    any size.
    """
    size = sum(path.stat().st_size for path in artifact.path.rglob("*") if path.is_file())
    weights = 4 * sum(np.prod(shape) * n for shape, n in stored_shapes(artifact.path).items())
    graph = exported.meta_graph(artifact.path).graph_def
    operations = len(graph.node) + sum(len(f.node_def) for f in graph.library.function)
    graphs = MEGABYTE / 4000 * max(operations, 4000)
    assert size <= 1.2 * weights + graphs, f"{size} bytes for {weights} of weights"


@pytest.mark.slow_except("GAN-dcgan", "VAE-mixture")
def test_metadata(artifact):
    details, model = artifact.details, artifact.model
    assert details["name"] == artifact.path.parent.name
    assert details["family"] == type(model).__name__
    assert details["likelihood"] == model.likelihood
    assert tuple(details["image_shape"]) == model.image_shape
    assert details["num_levels"] == model.num_levels
    assert details["num_classes"] == model.num_classes
    assert details["latent_dim"] == getattr(model, "latent_dim", None)
    assert details["score_border"] == getattr(model, "score_border", None)
    assert details["settings"] == {name: getattr(model, name) for name in model.settable}
    assert details["temperature"] == 1.0
    assert details["num_samples"] == 1
    assert details["jit_compile"] is False
    assert details["versions"]["tfgen"] == version("tfgen")
    assert details["weights_sha256"] == zoo.weights_digest(model)
    if details["name"] in SHIPPED:
        info = zoo.info(details["name"])
        known = ("name", "sha256", "config_sha256")
        assert details["zoo"] == {key: info[key] for key in known}
    else:
        assert details["zoo"] is None
    for name, given in artifact.calls().items():
        outputs = details["signatures"][name]["outputs"]
        for key, value in artifact.run(name, given).items():
            shape = [None if i == 0 else size for i, size in enumerate(value.shape)]
            if key != "image_bytes":
                assert outputs[key]["dtype"] == value.dtype.name
            assert outputs[key]["shape"] == shape


@pytest.mark.slow
def test_an_entry_trained_further_is_no_longer_that_entry(tmp_path):
    model = zoo.load("ae_mnist")
    assert zoo.origin(model)["name"] == "ae_mnist"
    model.fit(laws.images_for(model, 8), verbose=0)
    details = exported.metadata(model.export(tmp_path / "mine"))
    assert details["zoo"] is None
    assert details["weights_sha256"] != zoo.weights_digest(zoo.load("ae_mnist"))


@pytest.mark.slow_except("GAN-dcgan")
def test_warm_up_requests(tiny):
    """TensorFlow Serving's own message, one for each signature, and each can be run."""
    records = tf.data.TFRecordDataset(str(tiny.path / model_repository.WARMUP))
    asked = []
    for record in records.as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        asked.append(request.model_spec.signature_name)
        given = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        assert all(len(value) == 1 for value in given.values())
        tiny.run(asked[-1], given)
    assert sorted(asked) == sorted(tiny.details["signatures"])


def test_what_is_fixed_at_export(tmp_path):
    model = laws.randomised(TINY["VAE-mixture"]())
    fixed = {"temperature": np.float32(0.0), "num_samples": np.int64(7), "jit_compile": np.False_}
    path = model.export(tmp_path / "model", **fixed)
    signatures = tf.saved_model.load(str(path)).signatures
    images = signatures["sample"](seed=tf.range(4, dtype=tf.int64))["images"].numpy()
    np.testing.assert_array_equal(images, model.sample(4, temperature=0.0))
    assert (images == images[0]).all()
    given = laws.images_for(model, 4)
    bound = signatures["log_likelihood"](images=given, seed=tf.range(4, dtype=tf.int64))
    np.testing.assert_array_equal(
        bound["log_likelihood"], model.log_likelihood(given, num_samples=7, seed=0)
    )
    details = exported.metadata(path)
    assert (details["temperature"], details["num_samples"]) == (0.0, 7)
    assert details["jit_compile"] is False


def test_a_number_of_classes_may_be_numpys(tmp_path):
    model = VAE((8, 8, 1), 2, (4,), dense_units=8, num_classes=np.uint8(3))
    assert type(model.num_classes) is int
    assert exported.metadata(model.export(tmp_path / "model"))["num_classes"] == 3


@pytest.mark.slow
def test_images_are_rounded_to_the_nearest_level(artifacts):
    artifact = artifacts["VAE-flow_importance"]
    given = artifact.calls()["reconstruct"]
    rounded = {"images": np.where(given["images"] > 127, 255, 0).astype(np.uint8)}
    assert (rounded["images"] != given["images"]).any()
    assert_same_bytes(
        {"reconstruct": artifact.run("reconstruct", rounded)},
        {"reconstruct": artifact.answers["reconstruct"]},
    )


# XLA


def assert_xla_agrees(plain: Artifact, c_program: Path, folder: Path) -> None:
    path = plain.model.export(folder / "compiled", jit_compile=True)
    functions = exported.meta_graph(path).graph_def.library.function
    assert any(f.attr["_XlaMustCompile"].b for f in functions)
    assert exported.metadata(path)["jit_compile"] is True
    compiled = Artifact(plain.model, path)
    for name, given in plain.calls().items():
        if name == "serving_default":
            continue
        for key, value in compiled.run(name, given).items():
            wanted = plain.answers[name][key]
            if key == "image_bytes":
                value, wanted, key = decode_png(value), decode_png(wanted), "images"
            if key == "images":
                laws.assert_close_draws(plain.model, value, wanted, given)
            else:
                np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-4)
    jobs = [(path, compiled.calls())]
    (from_c,) = exported.run_in_c(c_program, jobs, folder, verbatim=True)
    assert_same_bytes(from_c, compiled.answers)
    requests = len(list(tf.data.TFRecordDataset(str(path / model_repository.WARMUP))))
    assert requests == len(export.BATCHES) * len(plain.details["signatures"])


@pytest.mark.slow
def test_xla_agrees_to_one_grey_level(first_case, artifacts, c_program, tmp_path):
    plain = artifacts[f"{first_case.family}-{first_case.name}"]
    assert_xla_agrees(plain, c_program, tmp_path)


@pytest.mark.nightly
def test_xla_agrees_in_every_configuration(artifact, c_program, tmp_path):
    assert_xla_agrees(artifact, c_program, tmp_path)


# Versions


@pytest.fixture(scope="module")
def small():
    """A model whose endpoints are traced once."""
    return VAE((4, 4, 1), latent_dim=2, filters=(4,), dense_units=4, pixel_distribution="gaussian")


def test_each_export_is_the_next_version(small, tmp_path):
    folder = tmp_path / "models" / "small"
    assert small.export(folder) == folder / "1"
    assert small.export(folder, version=np.int64(7)) == folder / "7"
    (folder / "99.old").mkdir()
    assert small.export(folder) == folder / "8"
    (folder / "012").mkdir()  # broken, but a server that counts on would never look below it
    assert small.export(folder) == folder / "13"
    assert list(model_repository.versions(folder)) == [1, 7, 8, 13]
    assert list(model_repository.versions(tmp_path / "nothing")) == []
    assert tf.saved_model.contains_saved_model(str(folder / "13"))


def test_server_and_exports_agree_on_what_a_version_is(small, tmp_path):
    """TensorFlow Serving takes any digits, and a SavedModel as text too."""
    folder = tmp_path / "small"
    for name, file in {
        "0": "saved_model.pb",
        "007": "saved_model.pb",
        "8": "saved_model.pbtxt",
        "9": "nothing",
        "-1": "saved_model.pb",
        "1.5": "saved_model.pb",
        str(2**63): "saved_model.pb",
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / file).touch()
    assert {n: path.name for n, path in model_repository.versions(folder).items()} == {
        0: "0",
        7: "007",
        8: "8",
    }
    with pytest.raises(ValueError, match=r"version 7 of 'small' already exists.*next one, 10"):
        small.export(folder, version=7)
    assert small.export(folder).name == "10"


def test_exports_at_the_same_time_become_versions_each(small, tmp_path, monkeypatch):
    number, seen = export.next_version, []

    def seen_too_early(folder):
        """The second one looked before the first one was there."""
        seen.append(1 if len(seen) < 4 else number(folder))  # it looks before it builds, too
        return seen[-1]

    monkeypatch.setattr(export, "next_version", seen_too_early)
    assert [small.export(tmp_path / "small").name for _ in range(2)] == ["1", "2"]
    assert seen == [1, 1, 1, 1, 2]

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space"):
        small.export(tmp_path / "small")


def test_after_the_highest_version_there_is_no_next_one(small, tmp_path, monkeypatch):
    (tmp_path / "small" / str(2**63 - 1)).mkdir(parents=True)
    building = tf.saved_model.save
    monkeypatch.setattr(tf.saved_model, "save", lambda *_, **__: pytest.fail("built for nothing"))
    with pytest.raises(ValueError, match=r"no next version: the highest .* version=\.\.\."):
        small.export(tmp_path / "small")
    assert [path.name for path in (tmp_path / "small").iterdir()] == [str(2**63 - 1)]
    monkeypatch.setattr(tf.saved_model, "save", building)
    assert small.export(tmp_path / "small", version=4).name == "4"


@pytest.mark.parametrize("error", [FileNotFoundError, NotADirectoryError, PermissionError])
def test_a_folder_that_cannot_be_read_has_no_versions(tmp_path, monkeypatch, error):
    """Such as lost+found; or one that is gone by now."""

    def fail(self):
        raise error(str(self))

    monkeypatch.setattr(Path, "iterdir", fail)
    assert model_repository.versions(tmp_path) == {}


@pytest.mark.slow
def test_a_version_never_changes_and_a_new_one_has_the_new_weights(tmp_path):
    model = laws.randomised(TINY["VAE-mixture"]())
    first = Artifact(model, model.export(tmp_path / "model"))
    old = first.run("sample", first.calls()["sample"])["images"]
    laws.randomised(model)
    second = Artifact(model, model.export(tmp_path / "model"))
    new = second.run("sample", second.calls()["sample"])["images"]
    np.testing.assert_array_equal(new, model.sample(BATCH, seed=20))
    again = Artifact(model, first.path).run("sample", first.calls()["sample"])["images"]
    np.testing.assert_array_equal(again, old)
    assert (new != old).any()


def test_bad_arguments(small, tmp_path):
    small.export(tmp_path / "small", version=3)
    for wrong in (0, -1, 1.0, True, "2", 2**63):
        with pytest.raises(ValueError, match="version must be an integer from 1"):
            small.export(tmp_path / "small", version=wrong)
    with pytest.raises(ValueError, match=r"version 3 of 'small' already exists.*next one, 4"):
        small.export(tmp_path / "small", version=3)
    with pytest.raises(ValueError, match="temperature must be a finite number"):
        small.export(tmp_path / "small", temperature=-1.0)
    with pytest.raises(ValueError, match="num_samples must be an integer"):
        small.export(tmp_path / "small", num_samples=0)
    with pytest.raises(ValueError, match="jit_compile must be"):
        small.export(tmp_path / "small", jit_compile="no")
    with pytest.raises(ValueError, match=r"format must be .*Did you mean 'onnx'"):
        small.export(tmp_path / "small", format="onxx")
    for name in ("a b", ".hidden", 'a"b', "ä"):
        with pytest.raises(ValueError, match="folder's name is the model's name"):
            small.export(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.parent == tmp_path) == ["small"]
    assert list(model_repository.versions(tmp_path / "small")) == [3]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        small.export(tmp_path / "file" / "small")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_an_export_that_is_cut_off_leaves_nothing(small, tmp_path, monkeypatch, error):
    repository = tmp_path / "models"
    seen = []

    def cut_off(path, *_):
        seen.extend(found.name for found in (repository / "small").glob("[0-9]*"))
        assert list((repository / "small").rglob("saved_model.pb")), "it is cut off too early"
        raise error

    monkeypatch.setattr(export, "_write_warmup", cut_off)
    with pytest.raises((KeyboardInterrupt, OSError)):
        small.export(repository / "small")
    assert not repository.exists()
    monkeypatch.undo()
    small.export(repository / "small")
    before = sorted(repository.rglob("*"))
    monkeypatch.setattr(export, "_write_warmup", cut_off)
    with pytest.raises((KeyboardInterrupt, OSError)):
        small.export(repository / "small")
    assert sorted(repository.rglob("*")) == before
    assert seen == ["1"], "a version shows before it is whole"


@pytest.mark.parametrize(("module", "name"), [(tf.saved_model, "save"), (tf.io, "TFRecordWriter")])
def test_a_full_disk_is_an_error_of_the_system(small, tmp_path, monkeypatch, module, name):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(module, name, full)
    with pytest.raises(OSError, match="No space left on device"):
        small.export(tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_files_can_be_read_by_others(small, tmp_path):
    """A server's user is not the exporter's; the temporary folder was private."""
    before = os.umask(0o022)
    try:
        path = small.export(tmp_path / "small")
    finally:
        os.umask(before)
    for part in (path, *path.rglob("*")):
        assert part.stat().st_mode & 0o044 == 0o044


# The repository


def parsed(text: str) -> list:
    message = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return message.model_config_list.config


def served(text: str) -> dict[str, str]:
    return {config.name: config.base_path for config in parsed(text)}


def test_models_config(small, tmp_path):
    for name in ("b", "a"):
        small.export(tmp_path / name)
    (tmp_path / "c").mkdir()  # without a version, it is no model
    path = model_repository.update_config(tmp_path)
    assert served(path.read_text()) == {"a": "/models/a", "b": "/models/b"}
    assert path.read_text() == model_repository.model_config(["a", "b"])
    small.export(tmp_path / "c")
    model_repository.update_config(tmp_path)
    assert path.read_text() == model_repository.model_config(["a", "b", "c"])
    assert served(model_repository.model_config(["a"], "/srv")) == {"a": "/srv/a"}


def test_models_config_keeps_what_its_user_wrote(small, tmp_path):
    for name in ("a", "b"):
        small.export(tmp_path / name)
    path = tmp_path / "models.config"
    for mine in (
        """# name: "b" is in a comment {
model_config_list: { config { name: 'a' base_path: "/models/a" model_platform: "tensorflow"
  model_version_policy { all {} } version_labels { key: "stable" value: 1 } } } # end }
# last }
""",
        # A divider, which must not be tried in all the ways that it could be cut.
        'model_config_list { config { name: "a" base_path: "/models/a" }\n' + 200 * "#" + "\n}",
        "model_config_list {}",
        "model_config_list {\n}",
    ):
        path.write_text(mine)
        model_repository.update_config(tmp_path)
        assert served(path.read_text()) == {"a": "/models/a", "b": "/models/b"}
        if "stable" in mine:
            config = text_format.Parse(
                path.read_text(), model_server_config_pb2.ModelServerConfig()
            )
            assert dict(config.model_config_list.config[0].version_labels) == {"stable": 1}
            added = "".join(model_repository.model_config(["b"]).split())[
                len("model_config_list{") : -1
            ]
            assert "".join(path.read_text().split()).replace(added, "") == "".join(mine.split())
    path.write_text("nothing")
    with pytest.raises(ValueError, match=r"must hold a model_config_list"):
        model_repository.update_config(tmp_path)
    assert path.read_text() == "nothing"


def test_models_config_lists_what_an_export_may_be_called(tmp_path):
    for name in ("a", ".hidden", "lost+found", 'b"c', "ä"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "saved_model.pb").touch()
    assert served(model_repository.update_config(tmp_path).read_text()) == {"a": "/models/a"}


def test_models_config_is_utf_8_wherever_it_is_written(tmp_path, monkeypatch):
    path = tmp_path / "models.config"
    mine = "# für später\n" + model_repository.model_config(["a"])
    path.write_bytes(mine.encode())
    # Where the system's own encoding is another one.
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "ascii")
    model_repository.update_config(tmp_path)
    assert path.read_bytes().decode() == mine


def test_two_exports_at_once_lose_no_entry(tmp_path):
    """The first one holds the lock, about to write what it has read."""
    path = tmp_path / "models.config"
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "a" / "1" / "saved_model.pb").touch()
    second = threading.Thread(target=model_repository.update_config, args=(tmp_path,))
    with FileLock(tmp_path / model_repository.LOCK):
        second.start()
        second.join(0.2)
        path.write_text(model_repository.model_config(["b"]))
    second.join(60)
    assert served(path.read_text()) == {"a": "/models/a", "b": "/models/b"}


@pytest.mark.parametrize("content", [b"nothing", b"model_config_list {} # \xff"])
def test_nothing_is_exported_where_models_config_is_bad(tmp_path, monkeypatch, content):
    """It would be one more version each time that its user tries again."""
    (tmp_path / "models.config").write_bytes(content)
    loaded = []
    monkeypatch.setattr(presets, "load", loaded.append)
    with pytest.raises(ValueError, match=r"models\.config must hold .* Restore it, or remove it"):
        export.add(tmp_path, "vae_2d_mnist")
    assert not loaded
    assert [found.name for found in tmp_path.iterdir()] == ["models.config"]


@pytest.mark.slow
def test_adding_entries(tmp_path):
    entry = zoo.save(TINY["VAE-mixture"](), tmp_path / "zoo" / "mine")
    for number in ("1", "2"):
        path = export.add(tmp_path / "models", entry)
        assert path == tmp_path / "models" / "mine" / number
    details = exported.metadata(path)
    known = ("name", "sha256", "config_sha256")
    assert details["zoo"] == {key: zoo.info(entry)[key] for key in known}
    assert served((tmp_path / "models" / "models.config").read_text()) == {"mine": "/models/mine"}
    with pytest.raises(ValueError, match=r"classifier_mnist.*no endpoints to serve"):
        export.add(tmp_path / "models", "classifier_mnist")
    with pytest.raises(ValueError, match="version 2 of 'mine' already exists"):
        export.add(tmp_path / "models", entry, version=2)
    with pytest.raises(ValueError, match="name must be an entry"):
        export.add(tmp_path / "models", "nothing")
