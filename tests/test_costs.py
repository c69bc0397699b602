"""Benchmarks of cost: counts, points, tables, charts, and sides that can be compared."""

import io
import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import runs
import tensorflow as tf
from PIL import Image

import tfgen

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import scaling

    yield scaling
    for name in ("scaling", "common"):
        sys.modules.pop(name, None)


def test_multiply_adds_are_counted_forward_and_backward(scaling):
    kernel, weights = tf.Variable(tf.ones((3, 3, 2, 5))), tf.Variable(tf.ones((5, 7)))

    def rows(images):
        return tf.nn.conv2d(images, kernel, 2, "SAME")

    def step(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.reduce_sum(rows(images), (1, 2)) @ weights)
        return loss, *tape.gradient(loss, (kernel, weights))

    convolution = 4 * 4 * 4 * 5 * 9 * 2  # batch 4, 8x8 -> 4x4
    product = 4 * 5 * 7
    spec = tf.TensorSpec((4, 8, 8, 2), tf.float32)
    assert scaling.counted(rows, 4, spec) == convolution
    assert scaling.counted(tf.function(rows), 4, spec) == convolution
    # The images have no gradient; both of the product's inputs have one.
    assert scaling.counted(step, 4, spec) == 2 * convolution + 3 * product
    images = tf.Variable(tf.ones((4, 8, 8, 2)))

    def all_gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(rows(images))
        return tape.gradient(loss, (kernel, images))

    # Their sum needs no forward pass.
    assert scaling.counted(all_gradients, 4) == 2 * convolution


def test_multiply_adds_of_every_kind_of_product(scaling):
    x, kernel = tf.ones((4, 4, 4, 5)), tf.ones((3, 3, 2, 5))
    many = tf.ones((6, 3, 5)), tf.ones((6, 5, 2))
    each = 6 * 3 * 5 * 2
    for work, expected in (
        (lambda: tf.nn.conv2d_transpose(x, kernel, (4, 8, 8, 2), 2), 4 * 4 * 4 * 5 * 9 * 2),
        (lambda: tf.einsum("bij,bjk->bik", *many), each),
        (lambda: tf.matmul(*many), each),
        (lambda: tf.cond(tf.constant(True), lambda: tf.matmul(*many), lambda: many[0]), each),
        (lambda: tf.while_loop(lambda i: i < 9, lambda i: (i + 1,), (0,)), 0),
    ):
        assert scaling.counted(work, 4) == expected


def test_what_cannot_be_counted_is_refused(scaling):
    def loop():
        return tf.while_loop(lambda a: True, lambda a: (a @ a,), (tf.ones((2, 2)),))

    with pytest.raises(ValueError, match=r"while.* cannot be counted"):
        scaling.counted(loop, 4)
    depthwise = tf.TensorSpec((4, 8, 8, 2), tf.float32)
    with pytest.raises(ValueError, match=r"DepthwiseConv2dNative\) cannot be counted"):
        scaling.counted(
            lambda x: tf.nn.depthwise_conv2d(x, tf.ones((3, 3, 2, 1)), (1,) * 4, "SAME"),
            4,
            depthwise,
        )
    unknown = tf.TensorSpec((None, None, 8, 2), tf.float32)
    with pytest.raises(ValueError, match=r"shape .* cannot be counted"):
        scaling.counted(lambda x: tf.nn.conv2d(x, tf.ones((3, 3, 2, 5)), 1, "SAME"), 4, unknown)


def test_a_network_s_pass_has_its_layers_products(scaling):
    import tfgen

    model = tfgen.AutoEncoder((8, 8, 1), 2, filters=(4,), num_blocks=0, dense_units=6)
    network, spec = scaling.drawing(model, 3)
    dense = 2 * 6 + 6 * 4 * 4 * 4
    to_pixels = 4 * 4 * (3 * 3 * 4 * 4)  # four pixels from each place of the 4x4 grid
    assert scaling.counted(network, 3, spec) == 3 * (dense + to_pixels)
    assert scaling.counted(network, 6, scaling.drawing(model, 6)[1]) == 2 * scaling.counted(
        network, 3, spec
    )


def test_one_thing_changes_at_a_time(scaling):
    for family in scaling.FAMILIES:
        points = scaling.points_of(family)
        assert len(points) == len(set(points)) == 8
        for point in points:
            sizes = point._asdict()
            assert sum(sizes[what] != value for what, value in scaling.BASE.items()) <= 1


def loaded(monkeypatch, name: str):
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return runs.script_of(BENCHMARKS / f"{name}.py")


def measured_points(scaling) -> list[dict]:
    """All points of the VAE, as if each had taken the same time at the same rate."""
    found = {"rate": 1e9}
    for side in ("train", "sample"):
        found |= {f"{side}_seconds": 0.004, f"{side}_multiply_adds": 2e6, f"{side}_over": 2.0}
    return [point._asdict() | found for point in scaling.points_of("VAE")]


def test_a_finished_measurement_is_written_without_measuring(scaling, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "measured", lambda *given: pytest.fail("measured again"))
    points = measured_points(scaling)
    (tmp_path / "VAE.json").write_text(json.dumps(points))
    page = tmp_path / "page.md"
    page.write_text("before <!-- scaling: begin --> old <!-- scaling: end --> after\n")
    command = ["--only", "VAE", "--out", str(tmp_path), "--write", str(page)]
    assert scaling.main(command) == 0
    text = page.read_text()
    assert "old" not in text
    assert text.count("| VAE | 32 | 1 | 128 | 4 | 2 | 2.0 | 4 | 2 | 2.0 |") == 1
    assert text.endswith(" after\n")
    others = [point | {"family": "GAN"} for point in points]
    (tmp_path / "GAN.json").write_text(json.dumps(others))
    assert scaling.main(command) == 0
    assert "| GAN |" in page.read_text()  # what an earlier call has measured stays on the page
    with Image.open(tmp_path / "drawings" / "scaling.png") as chart:
        assert chart.size[0] > 1000


def test_points_of_machines_of_other_speeds_are_not_one_chart(scaling, tmp_path, monkeypatch):
    """As where a measurement goes on elsewhere, which stops before it adds to a file."""
    points = measured_points(scaling)
    command = ["--only", "VAE", "--out", str(tmp_path)]
    points[-1]["rate"] = 1.2e9
    (tmp_path / "VAE.json").write_text(json.dumps(points))
    assert scaling.main(command) == 0
    points[-1]["rate"] = 2e9
    (tmp_path / "VAE.json").write_text(json.dumps(points))
    with pytest.raises(SystemExit, match="machines of 1 to 2 billion multiply-adds a second"):
        scaling.main(command)
    kept = json.dumps(points[:-1])
    (tmp_path / "VAE.json").write_text(kept)
    monkeypatch.setattr(scaling, "measured", lambda *given: points[-1])
    for family in ("VAE", "GAN"):  # the second has no file yet
        with pytest.raises(SystemExit, match="machines of 1 to 2 billion multiply-adds a second"):
            scaling.main(["--only", family, "--out", str(tmp_path)])
    assert (tmp_path / "VAE.json").read_text() == kept
    assert not (tmp_path / "GAN.json").exists()


def test_clients_that_cannot_begin_stop_the_load(monkeypatch):
    """Of serving.py: no thread waits for them for ever."""
    serving = loaded(monkeypatch, "serving")

    def work(index):
        if index == 3:
            raise ConnectionRefusedError("refused")
        return lambda: None

    with pytest.raises((ConnectionRefusedError, threading.BrokenBarrierError)):
        serving.many(60.0, work)
    assert serving.many(0.05, lambda index: lambda: None) > 0
    known = object.__new__(serving.Known)
    known.images, known.binary = np.zeros((4, 10, 10, 1), np.uint8), True
    wrong = known.images.copy()
    wrong[2, 0, :3] = 255
    assert known.agrees([0, 1, 2, 3], known.images)
    assert not known.agrees([0, 1, 2, 3], wrong)


@pytest.mark.slow
def test_each_family_has_a_limit_and_a_time(scaling, tmp_path):
    for family in scaling.FAMILIES:
        point = scaling.Point(family, batch=2, width=0.25, side=8)
        found = scaling.measured(point, 1, 0.01, jit_compile=False)
        for side in ("train", "sample"):
            assert found[f"{side}_multiply_adds"] > 1000, family
            assert found[f"{side}_seconds"] > 0
        assert found["train_multiply_adds"] > 2 * found["sample_multiply_adds"], family


def test_the_server_is_asked_for_one_image(monkeypatch):
    import tfgen

    monkeypatch.syspath_prepend(BENCHMARKS)
    import start

    small = {"latent_dim": 2, "filters": (4,), "dense_units": 6}
    models = (tfgen.GAN((8, 8, 1), num_classes=3, **small), tfgen.AutoEncoder((8, 8, 3), **small))
    for model, expected in zip(models, ("sample", "reconstruct"), strict=True):
        name, inputs = start.question(model)
        assert name == expected
        function, specs = model.endpoints()[name]
        assert inputs.keys() == specs.keys()
        images = function(**{key: tf.constant(value) for key, value in inputs.items()})["images"]
        assert images.shape == (1, *model.image_shape)
    sys.modules.pop("start")
    sys.modules.pop("common", None)


@pytest.mark.slow
def test_starting_is_measured_in_new_processes(tmp_path):
    command = [sys.executable, BENCHMARKS / "start.py", "vae_2d_mnist", "ae_mnist"]
    command += ["--server", "--repeats", "1", "--json", tmp_path / "found.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    alone, entry = figures["import"], figures["vae_2d_mnist"]
    assert 0 < entry["imported"] < entry["loaded"] < entry["first"]
    assert 0 < entry["second"] < entry["first"]
    assert 0 < alone["megabytes"] <= entry["megabytes"]
    server = figures["server"]
    assert server["models"] == 2
    assert 0 < server["ready"]["now"] <= server["asked"]["peak"]
    assert server["stored_megabytes"] > 1


def test_images_whose_memory_is_measured_are_as_large_in_a_file(monkeypatch):
    """A loader that kept the files would not be noticed with images that are small there."""
    memory, file = loaded(monkeypatch, "memory"), io.BytesIO()
    Image.fromarray(memory.picture(5)).save(file, "png")
    assert len(file.getvalue()) > 0.9 * math.prod(memory.SHAPE)


def test_a_bare_step_leaves_nothing_out(monkeypatch):
    model = tfgen.GAN((8, 8, 1), latent_dim=2, filters=(4,), dense_units=6, augment=True)
    with pytest.raises(SystemExit, match="a GAN without augment"):
        loaded(monkeypatch, "fit_overhead").adversarial_step(model)


@pytest.mark.parametrize(
    ("label", "less"),
    [
        ("validation accuracy", False),
        ("precision (k = 3), samples / real images", False),
        ("Frechet distance, samples / real images", True),
        ("validation negative log-likelihood, exact", True),
    ],
)
def test_a_chart_says_where_less_is_better(monkeypatch, label, less):
    script, drawn = loaded(monkeypatch, "quality_minutes"), []
    monkeypatch.setattr(script.common, "save_chart", lambda figure, path: drawn.append(figure))
    point = {"minutes": 1, "value": 90.0, "label": label, "unit": "%", "epoch": 1}
    script.draw({"run": [point]}, BENCHMARKS / "nothing.png")
    assert ("less is better" in drawn[0].axes[0].get_ylabel()) == less
