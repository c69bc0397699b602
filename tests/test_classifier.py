"""The classifier that judges samples: what its users and the evaluators rely on."""

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from conftest import FAMILIES

from tfgen import families, noise, zoo
from tfgen.models.classifier import Classifier, erased

TINY = {"image_shape": (8, 8, 1), "num_classes": 3, "filters": (4,), "feature_units": 5}


@pytest.fixture(scope="module")
def fitted():
    """A classifier that has learned which of three brightnesses an image has."""
    keras.utils.set_random_seed(0)
    model = Classifier(**TINY)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    images, labels = brightness(60)
    model.fit(images, labels, epochs=30, batch_size=20, verbose=0)
    return model


def brightness(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 3
    grey = 40 + 80 * labels[:, None, None, None]
    around = rng.integers(-30, 30, (count, 8, 8, 1))
    return (grey + around).astype(np.uint8), labels


def test_it_learns(fitted):
    images, labels = brightness(30)
    logs = fitted.evaluate(images, labels, verbose=0, return_dict=True)
    assert logs["accuracy"] == 1.0
    assert logs["loss"] < 0.3


def test_probabilities_and_features_belong_together(fitted):
    images, labels = brightness(7)
    features, probabilities = fitted.features(images), fitted.probabilities(images)
    assert features.shape == (7, 5)
    assert features.dtype == probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(1), labels)
    logits = fitted(images).numpy()
    np.testing.assert_allclose(keras.ops.softmax(logits), probabilities, rtol=1e-4)
    # An image's features are its own, whatever stands beside it.
    np.testing.assert_allclose(fitted.features(images[3:4])[0], features[3], rtol=1e-4, atol=1e-5)


def test_without_filters_the_penultimate_layer_reads_the_pixels():
    model = Classifier(**{**TINY, "image_shape": (5, 3, 1), "filters": ()})
    assert model.count_params() == (15 * 5 + 5) + (5 * 3 + 3)
    assert model.features(np.zeros((2, 5, 3, 1), "uint8")).shape == (2, 5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_the_cross_entropy_with_the_smoothed_target(fitted, smoothing):
    model = Classifier(**TINY, label_smoothing=smoothing)
    model.set_weights(fitted.get_weights())
    images, labels = brightness(6)
    target = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    expected = -(target * np.log(model.probabilities(images))).sum(1)
    losses = model.losses_per_image(images, labels, None, training=True)
    np.testing.assert_allclose(losses["loss"], expected, rtol=1e-3, atol=1e-5)


def test_cutout_erases_one_square_of_each_training_image():
    images = tf.fill((200, 6, 9, 3), tf.constant(7, tf.uint8))
    places = noise.uniform(tf.range(200, dtype=tf.int64), (2,))
    found = erased(images, places, 3).numpy()
    rows, columns = np.floor(places.numpy() * (6, 9)).astype(int).T
    for image, row, column in zip(found, rows, columns, strict=True):
        expected = np.full((6, 9, 3), 7)
        expected[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        np.testing.assert_array_equal(image, expected)
    assert set(rows) == set(range(6))
    assert set(columns) == set(range(9))


@pytest.mark.parametrize("option", [{"cutout": 4}, {"dropout": 0.5}])
def test_noise_is_of_training_alone(option):
    """Training sees it, by seed; evaluation and the endpoints do not."""
    images, labels = brightness(32)
    plain, noisy = Classifier(**TINY), Classifier(**TINY, **option)
    for own, other in zip(noisy.variables, plain.variables, strict=True):
        own.assign(other)
    seeds = tf.range(32, dtype=tf.int64)
    by = {
        (model, training, first): model.losses_per_image(
            images, labels, seeds + first, training=training
        )["loss"].numpy()
        for model in (plain, noisy)
        for training in (True, False)
        for first in (0, 100)
    }
    np.testing.assert_array_equal(by[noisy, False, 0], by[plain, True, 0])
    np.testing.assert_array_equal(by[noisy, False, 0], by[noisy, False, 100])
    assert (by[noisy, True, 0] != by[noisy, False, 0]).mean() > 0.5
    assert (by[noisy, True, 0] != by[noisy, True, 100]).mean() > 0.5
    np.testing.assert_array_equal(noisy.features(images), plain.features(images))


def test_configuration_and_preset_round_trips(fitted, tmp_path):
    varied = {
        "image_shape": (4, 8, 3),
        "num_classes": 4,
        "filters": (3, 5),
        "num_blocks": 0,
        "feature_units": 6,
        "stem": 2,
        "label_smoothing": 0.1,
        "dropout": 0.2,
        "cutout": 3,
        "seed": 7,
    }
    laws.keeps_its_configuration(Classifier, varied)
    fitted.save_to_preset(tmp_path / "preset")
    assert zoo.info(tmp_path / "preset")["kind"] == "evaluator"
    images, _ = brightness(5)
    loaded = zoo.load(tmp_path / "preset")
    np.testing.assert_array_equal(loaded.features(images), fitted.features(images))
    fitted.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.features(images), fitted.features(images))
    exported = tf.saved_model.load(str(fitted.export(tmp_path / "model")))
    features = exported.signatures["features"](images=images)["features"]
    np.testing.assert_array_equal(features, fitted.features(images))


def test_evaluators_are_no_family_and_stay_out_of_the_list():
    assert families.find("Classifier") is Classifier
    assert "Classifier" not in FAMILIES
    assert "classifier_mnist" not in zoo.list_models()
    assert "classifier_mnist" in zoo.list_models(kind="evaluator")
    assert "classifier_mnist" in zoo.list_models(kind=None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_classes": 1}, "num_classes must be an integer of at least 2; received 1"),
        ({"num_classes": None}, "num_classes must be an integer of at least 2; received None"),
        ({"feature_units": 0}, "feature_units must be an integer of at least 1"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\)"),
        ({"cutout": -1}, "cutout must be an integer of at least 0; received -1"),
        ({"image_shape": (7, 8, 1)}, "image_shape must be divisible by 2"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        Classifier(**{**TINY, **wrong})


def test_what_only_training_reads_may_be_set():
    model = Classifier(**TINY)
    model.dropout, model.label_smoothing, model.cutout = 0.25, 0.1, 2
    config = model.get_config()
    assert (config["dropout"], config["label_smoothing"], config["cutout"]) == (0.25, 0.1, 2)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\)"):
        model.dropout = 1.0
    assert model.dropout == 0.25
    with pytest.raises(AttributeError, match="stem of a Classifier is fixed when it is built"):
        model.stem = 8


def test_bad_images_and_labels(fitted):
    images, labels = brightness(4)
    for call in (fitted.features, fitted.probabilities):
        with pytest.raises(ValueError, match="images must be uint8"):
            call(images / np.float32(255))
    with pytest.raises(ValueError, match="labels must lie in"):
        fitted.fit(images, labels + 2, verbose=0)
    with pytest.raises(ValueError, match="labels are required"):
        fitted.fit(images, verbose=0)


def test_predict_needs_no_labels():
    model = Classifier((8, 8, 1), num_classes=3, filters=(4,), feature_units=5)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    expected = np.asarray(model(images))
    rows = tf.data.Dataset.from_tensor_slices((images, np.arange(5) % 3)).batch(2)

    class Images(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return (images[2 * index : 2 * index + 2],)

    generated = (images[start : start + 1] for start in range(5))
    for data in (images, rows, rows.map(lambda image, _: image), Images(), generated):
        np.testing.assert_allclose(model.predict(data, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_features_are_float32_in_mixed_precision(dtype):
    sizes = {"num_classes": np.int64(3), "feature_units": np.int64(5)}  # such as labels.max() + 1
    model = Classifier((8, 8, 1), filters=(4,), **sizes, dtype=dtype)
    images = np.zeros((2, 8, 8, 1), np.uint8)
    assert model.features(images).dtype == model.probabilities(images).dtype == np.float32
