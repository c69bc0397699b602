"""Exports to ONNX, LiteRT and StableHLO: what is written, what is refused, and who can run it."""

import errno
import json
import sys
import types

import laws
import numpy as np
import pytest
import runtimes
import tensorflow as tf
from conftest import CASES

from tfgen import VAE, AutoEncoder, formats


@pytest.fixture(scope="module")
def small() -> AutoEncoder:
    return AutoEncoder((4, 4, 1), latent_dim=2, filters=(2,), dense_units=3)


def test_litert_gives_the_models_own_images(small, tmp_path):
    options = {"temperature": np.float32(1.0), "num_samples": np.int64(1)}  # of NumPy, too
    folder = small.export(tmp_path / "small", format="litert", endpoints=["reconstruct"], **options)
    described = json.loads((folder / "signatures.json").read_text())
    assert {path.name for path in folder.iterdir()} == {"signatures.json", "reconstruct.tflite"}
    assert described["endpoints"]["reconstruct"]["inputs"] == {
        "images": {"dtype": "uint8", "shape": [None, 4, 4, 1]}
    }
    interpreter = tf.lite.Interpreter(str(folder / "reconstruct.tflite"))
    images = laws.images_for(small, 3)
    found = interpreter.get_signature_runner("serving_default")(images=images)["output_images"]
    laws.assert_close_images(found, small.reconstruct(images), 256)


@pytest.mark.slow
def test_temperature_and_number_of_samples_of_other_formats(tmp_path):
    model = VAE(
        (4, 4, 1),
        latent_dim=2,
        filters=(),
        dense_units=3,
        pixel_distribution="bernoulli",
        num_levels=2,
    )
    laws.randomised(model)
    folder = model.export(
        tmp_path / "small",
        format="litert",
        endpoints=["sample", "log_likelihood"],
        temperature=0.0,
        num_samples=7,
    )
    described = json.loads((folder / "signatures.json").read_text())
    assert (described["temperature"], described["num_samples"]) == (0.0, 7)
    seed = np.arange(5, dtype=np.int64)
    runner = tf.lite.Interpreter(str(folder / "sample.tflite")).get_signature_runner()
    laws.assert_close_images(runner(seed=seed)["images"], model.sample(5, temperature=0.0), 2)
    runner = tf.lite.Interpreter(str(folder / "log_likelihood.tflite")).get_signature_runner()
    images = 255 * (laws.images_for(model, 5) > 127).astype(np.uint8)
    found = runner(images=images, seed=seed)["log_likelihood"]
    np.testing.assert_allclose(found, model.log_likelihood(images, num_samples=7, seed=0), 1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onx"}, r"format must be one of .*received 'onx'\. Did you mean 'onnx'\?"),
        ({"format": "litert", "endpoints": ["encod"]}, "Did you mean 'encode'"),
        ({"format": "litert", "endpoints": ["sample"]}, "endpoints must be one of encode, decode"),
        ({"format": "litert", "endpoints": "decode"}, "endpoints must be a list .* 'decode'"),
        ({"format": "litert", "endpoints": []}, r"endpoints must be a list .* received \[\]"),
        ({"format": "onnx", "opset": 17}, "opset must be an integer of at least 18; received 17"),
        ({"format": "litert", "batch": 0}, "batch must be an integer of at least 1"),
        ({"format": "litert", "temperature": float("nan")}, "temperature must be a finite"),
        ({"format": "litert", "version": 3}, "options of format 'tf_saved_model'"),
        ({"format": "onnx", "jit_compile": True}, "options of format 'tf_saved_model'"),
    ],
)
def test_bad_input_writes_nothing(small, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        small.export(tmp_path / "small", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_sixteen_bits_are_refused(tmp_path, format):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    model = AutoEncoder((4, 4, 1), latent_dim=2, filters=(2,), dense_units=3, dtype="mixed_float16")
    with pytest.raises(ValueError, match=r"computes in float16.*dtype='float32'"):
        model.export(tmp_path / "small", format=format)
    assert not list(tmp_path.iterdir())


def test_weights_that_numpy_cannot_hold_are_refused(tmp_path):
    """bfloat16, of which weights.npz would keep raw bytes."""
    pytest.importorskip("jaxlib")
    model = AutoEncoder((4, 4, 1), latent_dim=2, filters=(2,), dense_units=3, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"computes in bfloat16.*dtype='float32'"):
        model.export(tmp_path / "small", format="stablehlo")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_litert_takes_a_path_with_brackets(small, tmp_path):
    folder = small.export(tmp_path / "a [b]" / "small", format="litert", endpoints=["decode"])
    assert (folder / "decode.tflite").is_file()


def test_a_folder_that_exists_is_left_alone(small, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "linked").symlink_to("gone")
    for name in ("mine", "linked"):
        with pytest.raises(ValueError, match="folder must not exist yet"):
            small.export(tmp_path / name, format="litert")
    assert not list((tmp_path / "mine").iterdir())


def test_a_missing_package_is_told_in_one_line(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r'needs tf2onnx.*pip install "\.\[onnx\]"'):
        small.export(tmp_path / "small", format="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_full_disk_is_no_lack_of_the_format(small, tmp_path, monkeypatch):
    """Where TensorFlow writes what the converter of LiteRT reads."""

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        small.export(tmp_path / "small", format="litert")
    assert not list(tmp_path.iterdir())


def failing_converter(format: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the converter of a format raise an error."""

    def fail(*_, **__):
        raise error

    if format == "onnx":
        converter = pytest.importorskip("tf2onnx").convert
        monkeypatch.setattr(converter, "from_function", fail)
    elif format == "litert":
        converter = types.SimpleNamespace(convert=fail)
        monkeypatch.setattr(tf.saved_model, "save", lambda *_, **__: None)
        monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", lambda *_: converter)
    else:
        pytest.importorskip("jaxlib")
        function = type(tf.function(lambda: None))
        monkeypatch.setattr(function, "experimental_get_compiler_ir", fail)


FULL, NO_MEMORY = "No space left on device", "when allocating a tensor of 9 bytes"
# What a converter raises: an error, what it becomes, and the message of both.
EXHAUSTED = {
    "disk": (OSError(errno.ENOSPC, FULL), OSError, FULL),
    "memory": (MemoryError(NO_MEMORY), MemoryError, NO_MEMORY),
    "TensorFlow's disk": (tf.errors.ResourceExhaustedError(None, None, FULL), OSError, FULL),
    "TensorFlow's memory": (
        *(tf.errors.ResourceExhaustedError(None, None, NO_MEMORY), MemoryError, NO_MEMORY),
    ),
}


@pytest.mark.parametrize("what", EXHAUSTED)
def test_what_runs_out_is_no_lack_of_the_format(what):
    error, raised, message = EXHAUSTED[what]
    with pytest.raises(raised, match=message), formats._unsupported():
        raise error


def test_what_else_is_raised_is_a_lack_of_the_format():
    with pytest.raises(formats.Unsupported, match="no such operation"), formats._unsupported():
        raise KeyError("no such operation")


@pytest.mark.slow_except("litert")
@pytest.mark.parametrize("format", ["onnx", "litert", "stablehlo"])
def test_a_disk_that_is_full_in_a_converter_is_no_lack_of_the_format(
    small, tmp_path, monkeypatch, format
):
    error, raised, message = EXHAUSTED["disk"]
    failing_converter(format, error, monkeypatch)
    with pytest.raises(raised, match=message):
        small.export(tmp_path / "small", format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow_except("litert")
@pytest.mark.parametrize("format", ["onnx", "litert", "stablehlo"])
def test_what_else_a_converter_raises_is(small, tmp_path, monkeypatch, format):
    failing_converter(format, KeyError("no such operation"), monkeypatch)
    with pytest.raises(ValueError, match=r"can hold no endpoint of this .*no such operation"):
        small.export(tmp_path / "small", format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_a_format_cannot_hold_is_left_out_or_refused(small, tmp_path, monkeypatch):
    def endpoints(*_):
        spec = {"images": tf.TensorSpec((None, 4, 4, 1), tf.uint8, "images")}
        return {
            "encode": AutoEncoder.endpoints(small)["encode"],
            "png": (lambda images: {"n": tf.strings.length(tf.strings.as_string(images))}, spec),
        }

    monkeypatch.setattr(small, "endpoints", endpoints)
    folder = small.export(tmp_path / "small", format="litert")
    described = json.loads((folder / "signatures.json").read_text())
    assert list(described["endpoints"]) == ["encode"]
    assert "AsString" in described["left_out"]["png"]
    with pytest.raises(ValueError, match=r"litert cannot hold 'png': .*AsString"):
        small.export(tmp_path / "other", format="litert", endpoints=["encode", "png"])
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.slow
def test_a_loop_that_litert_lacks_is_refused_in_one_line(tmp_path):
    model = next(case for case in CASES if case.family == "PixelCNN")()
    with pytest.raises(ValueError, match="TensorListReserve") as refused:
        model.export(tmp_path / "model", format="litert", endpoints=["sample"])
    assert str(refused.value) == "litert cannot hold 'sample': it has no TensorListReserve."
    assert not list(tmp_path.iterdir())


# Their loops collect tokens in lists of tensors, which LiteRT lacks and OpenVINO cannot read.
DRAWS = {"sample", "complete"}
BY_PIXEL = ("PixelCNN", "PixelEnsemble", "PixelRNN")
LEFT_OUT = {(family, "litert"): DRAWS for family in BY_PIXEL}
UNREAD = {(family, "openvino"): DRAWS for family in BY_PIXEL}


@pytest.mark.nightly
def test_an_open_batch_and_latents_that_are_no_numbers(small, tmp_path):
    """A file cannot raise: NaN gives some image in its own place, and the others stay."""
    folder = tmp_path / "export"
    small.export(folder, format="onnx", endpoints=["decode"])
    latents = np.array([[0.5, -1.0], [np.nan, np.inf], [2.0, 0.0]], np.float32)
    wanted = small.decode(np.nan_to_num(latents, posinf=0.0))
    np.savez(folder / "answers.npz", **{"decode.in.latents": latents, "decode.out.images": wanted})
    python = runtimes.environment(tmp_path / "environment")
    (row,) = runtimes.run(python, "onnxruntime", [folder])
    assert "failed" not in row
    assert row["equal"] >= 2 / 3


@pytest.mark.nightly
@pytest.mark.parametrize("format", sorted(runtimes.RUNTIMES))
def test_other_runtimes_give_the_same(first_case, format, tmp_path):
    """In a process without TensorFlow; what docs/exports.md promises is what passes here."""
    model = laws.randomised(first_case())
    folder = tmp_path / "export"
    described = runtimes.export(model, folder, format)
    assert described["left_out"].keys() <= LEFT_OUT.get((first_case.family, format), set())
    python = runtimes.environment(tmp_path / "environment")
    for runtime in runtimes.RUNTIMES[format]:
        rows = runtimes.run(python, runtime, [folder])
        assert {row["endpoint"] for row in rows} == set(described["endpoints"])
        unread = UNREAD.get((first_case.family, runtime), set())
        for row in rows:
            missing = "failed" in row and row["endpoint"] in unread
            assert runtimes.agrees(row) or missing, row
