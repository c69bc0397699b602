"""Models of the zoo, served: the bytes are those of the model itself."""

import doctest
from pathlib import Path

import laws
import numpy as np
import pytest
import tensorflow as tf
from serving_support import running

from tfgen import zoo
from tfgen.serving import Client, bodies

PAGE = Path(__file__).resolve().parents[1] / "docs" / "serving.md"
NAMES = ("ae_mnist", "vae_2d_mnist", "cvae_mnist", "gan_mnist")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models():
    return {name: zoo.load(name) for name in NAMES}


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    for name, model in models.items():
        model.export(folder / name)
    with running(folder) as server:
        yield server


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_same_bytes_through_the_server(models, served, name, scheme):
    """Every endpoint, against the method of its name, in the same batch shape."""
    model = models[name]
    images, labels = laws.images_for(model, 5), laws.labels_for(model, 5)
    seed, given = np.arange(40, 45), laws.given(model, labels)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((5, model.latent_dim)).astype(np.float32)
    calls = {
        "sample": ({"seed": seed}, lambda: model.sample(5, seed=seed, **given)),
        "encode": ({"images": images}, lambda: model.encode(images, **given)),
        "latents": ({"seed": seed}, lambda: model.latents(5, seed=seed, **given)),
        "decode": ({"latents": latents}, lambda: model.decode(latents, **given)),
        "reconstruct": ({"images": images}, lambda: model.reconstruct(images, **given)),
        "score": ({"images": images}, lambda: model.score(images, **given)),
        "log_likelihood": (
            {"images": images, "seed": seed},
            lambda: model.log_likelihood(images, seed=seed, **given),
        ),
    }
    port = served.port if scheme == "http" else served.grpc_port
    with Client(f"{scheme}://127.0.0.1:{port}") as client:
        endpoints = set(client.metadata(name)) - {"serving_default", "sample_png"}
        assert endpoints <= set(calls)
        for signature in endpoints:
            inputs, method = calls[signature]
            (found,) = client.predict(name, inputs | given, signature).values()
            expected = np.asarray(method())
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected, err_msg=signature)
        if "sample" in endpoints:
            files = client.predict(name, {"seed": seed} | given, "sample_png")["image_bytes"]
            decoded = np.stack([tf.io.decode_png(file) for file in files])
            np.testing.assert_array_equal(decoded, calls["sample"][1]())


def test_models_are_ranked_by_ratios_of_many_images():
    """Few images flatter, so the page must not open on a model that was judged by a thousand."""
    known = ("name", "sha256", "config_sha256")
    origins = {n: {key: zoo.info(n)[key] for key in known} for n in zoo.list_models()}
    ranked = {
        name: bodies._quality({"zoo": origin, "temperature": 1.0})
        for name, origin in origins.items()
    }
    for name, quality in ranked.items():
        results = zoo.info(name)["results"]
        many = any(label.startswith("Frechet distance, 10000 images") for label in results)
        assert (quality is not None) == many, name
    assert ranked["gan_emoji"] is None
    assert ranked["gan_mnist"] < ranked["vae_2d_mnist"]
    own = origins["gan_mnist"] | {"sha256": "0" * 64}  # of that name, with other weights
    assert bodies._quality({"zoo": own, "temperature": 1.0}) is None


def test_the_client_of_the_serving_page(served):
    text = PAGE.read_text().replace("http://127.0.0.1:8501", f"http://127.0.0.1:{served.port}")
    (block,) = [part for part in text.split("```") if part.startswith("pycon")]
    test = doctest.DocTestParser().get_doctest(block, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) == 4
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0
