"""What `fit` and its kin accept: every kind of bad data is told in one sentence, XLA or not."""

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf

from tfgen import GAN, VAE, AutoEncoder, PixelCNN, PixelRNN

SMALL = {"image_shape": (8, 8, 1), "latent_dim": 2, "filters": (4,), "dense_units": 8}
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
LABELS = np.arange(6) % 3


def batches(*arrays, size: int = 2) -> tf.data.Dataset:
    rows = tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])
    return rows.batch(size)


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return tuple(array[2 * index : 2 * index + 2] for array in self.arrays)


def test_a_dataset_hears_of_its_epochs():
    """In which it may shuffle itself."""
    heard = []

    class Listening(Batches):
        def on_epoch_begin(self):
            heard.append("begin")

        def on_epoch_end(self):
            heard.append("end")

    model = AutoEncoder(**SMALL)
    model.compile(jit_compile=False)
    model.fit(Listening(IMAGES), epochs=3, verbose=0)
    assert heard.count("begin") == 3 <= heard.count("end")


def generator(*arrays):
    return (tuple(array[i : i + 2] for array in arrays) for i in range(0, 6, 2))


@pytest.fixture(scope="module")
def plain():
    model = AutoEncoder(**SMALL)
    model.compile(jit_compile=False)
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "xla"])
def conditional(request):
    model = VAE(**SMALL, num_classes=3)
    model.compile(jit_compile=request.param)
    return model


@pytest.fixture(scope="module", params=[None, 3], ids=["unconditional", "conditional"])
def eager(request):
    model = VAE(**SMALL, num_classes=request.param)
    model.compile(keras.optimizers.SGD(1e-6), run_eagerly=True)
    return model


# Labels


def test_labels_of_a_call_are_whole_numbers_of_any_type():
    arguments = {"filters": 4, "num_blocks": 1, "head_units": 4, "num_mixtures": 2}
    for model in (VAE(**SMALL, num_classes=3), PixelCNN((8, 8, 1), num_classes=3, **arguments)):
        expected = model(IMAGES, LABELS)
        for dtype in ("int8", "int16", "uint16", "uint32", "int32"):
            np.testing.assert_array_equal(model(IMAGES, LABELS.astype(dtype)), expected)
        with pytest.raises(ValueError, match="labels must be integers of shape"):
            model(IMAGES, LABELS + 0.7)


@pytest.mark.slow_except("plain-wrong0-batches")
@pytest.mark.parametrize("source", [batches, Batches, generator])
@pytest.mark.parametrize("wrong", [LABELS + 5, LABELS - 1])
def test_labels_out_of_range_are_refused_from_every_source(conditional, source, wrong):
    """XLA drops checks that stand in a graph, so they stand before it."""
    before = conditional.get_weights()
    with pytest.raises(Exception, match=r"labels must lie in \[0, 2\]; received"):
        conditional.fit(source(IMAGES, wrong), verbose=0)
    if source is not generator:  # which cannot be read twice
        with pytest.raises(Exception, match=r"labels must lie in \[0, 2\]; received"):
            conditional.evaluate(source(IMAGES, wrong), verbose=0)
    for own, old in zip(conditional.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, old)


@pytest.mark.slow
def test_labels_out_of_range_in_a_batch(conditional):
    calls = (conditional.train_on_batch, conditional.test_on_batch)
    for call in (*calls, lambda *pair: conditional.predict_on_batch(pair)):
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\]; received"):
            call(IMAGES, LABELS + 5)


@pytest.mark.slow
def test_validation_labels_out_of_range(conditional):
    for data in ((IMAGES, LABELS + 5), batches(IMAGES, LABELS + 5)):
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\]; received"):
            conditional.fit(IMAGES, LABELS, validation_data=data, verbose=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3, dtype="float32")[LABELS], "one-hot.*argmax"),
        (np.eye(3, dtype="int64")[LABELS], "one-hot.*argmax"),
        (LABELS + 0.7, "must be integers"),
        (np.array(["cat"] * 6), "must be integers"),
    ],
)
def test_labels_that_are_none(conditional, labels, message):
    for data in ((IMAGES, labels), (batches(IMAGES, labels),)):
        with pytest.raises(ValueError, match=f"labels must be integers.*{message}|{message}"):
            conditional.fit(*data, verbose=0)


@pytest.mark.slow
def test_labels_are_required_and_may_stand_in_a_column(conditional):
    for data in (IMAGES, batches(IMAGES)):
        with pytest.raises(ValueError, match="labels are required"):
            conditional.fit(data, verbose=0)
    conditional.fit(batches(IMAGES, LABELS[:, None]), verbose=0)
    conditional.fit(IMAGES, LABELS[:, None], verbose=0)


# Images


def test_images_of_zeros_and_ones_are_refused(plain):
    ones = (IMAGES > 100).astype("uint8")
    for data in (ones, batches(ones), Batches(ones), generator(ones)):
        with pytest.raises(Exception, match=r"values in \{0, 1\}, .*multiply them by 255"):
            plain.fit(data, verbose=0)
    with pytest.raises(ValueError, match=r"received dtype bool.*255 \* x.astype\('uint8'\)"):
        plain.fit(IMAGES > 100, verbose=0)
    plain.fit(255 * ones, verbose=0)


@pytest.mark.slow_except("*-options0", "*-options2", "generator-options1")
@pytest.mark.parametrize(
    "options", [{"jit_compile": False}, {"jit_compile": True}, {"run_eagerly": True}]
)
@pytest.mark.parametrize("source", [np.asarray, batches, Batches, generator])
def test_a_batch_of_dark_images_trains(source, options):
    """A black frame has values of 0 and 1; so may a whole batch, though not the first."""
    dark = IMAGES.copy()
    dark[2:] = 0
    dark[2:, 3, 4] = 1
    model = AutoEncoder(**SMALL)
    model.compile(**options)
    options = {"batch_size": 2, "shuffle": False} if source is np.asarray else {}
    log = model.fit(source(dark), verbose=0, **options)
    if source is np.asarray:
        model.evaluate(dark, batch_size=2, verbose=0)
        model.predict(dark, batch_size=2, verbose=0)
    assert np.isfinite(log.history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_labels_in_one_tuple_with_the_images_are_told(conditional):
    for kind in (tuple, list):
        for call in (conditional.fit, conditional.evaluate):
            with pytest.raises(ValueError, match=f"x must be .* alone; .* {kind.__name__} of 2"):
                call(kind((IMAGES, LABELS)))


def test_a_step_before_compile_is_told():
    with pytest.raises(ValueError, match=r"compile\(\)"):
        AutoEncoder(**SMALL).train_on_batch(IMAGES)


def assert_takes_no_images_for_what_they_are(model):
    """Nothing to train on or to measure is an error; what nothing gives has no rows."""
    images, labels = laws.images_for(model, 2), laws.labels_for(model, 2)
    rows = (images,) if labels is None else (images, labels)
    nothing, before = [part[:0] for part in rows], model.get_weights()
    none = batches(*rows).take(0)
    on_batch = (model.train_on_batch, model.test_on_batch)
    for call in (model.fit, model.evaluate, *on_batch):
        with pytest.raises(ValueError, match="x must hold at least one image; received none"):
            call(*nothing)
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="x must hold at least one image; received none"):
            call(none)
    for data in (tuple(nothing), none):
        with pytest.raises(ValueError, match="validation_data must hold at least one image"):
            model.fit(*rows, validation_data=data, verbose=0)
    for own, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, old)

    given, empty = (part[0] if labels is None else list(part) for part in (rows, nothing))
    expected = model.predict(given, verbose=0)
    found = [model.predict(empty, verbose=0), model.predict_on_batch(empty)]
    for each in (*found, model.predict(none, verbose=0)):
        keras.tree.assert_same_structure(each, expected)
        for own, other in zip(*map(keras.tree.flatten, (each, expected)), strict=True):
            assert own.shape == (0, *other.shape[1:])
            assert own.dtype == other.dtype


@pytest.mark.slow_except("conditional")
def test_no_images(eager):
    assert_takes_no_images_for_what_they_are(eager)


@pytest.mark.slow_except("GAN")
def test_no_images_for_any_family(first_case):
    model = first_case()
    model.compile(run_eagerly=True)
    assert_takes_no_images_for_what_they_are(model)


PIXELS = {"image_shape": (8, 8, 1), "filters": 4, "num_blocks": 1, "head_units": 4}


@pytest.mark.parametrize("family", [AutoEncoder, VAE, GAN, PixelCNN, PixelRNN])
def test_scaled_images_are_refused_by_every_method(family):
    model = family(**(PIXELS if family in (PixelCNN, PixelRNN) else SMALL))
    model.compile(jit_compile=False)
    on_batch = (model.train_on_batch, model.test_on_batch, model.predict_on_batch)
    for call in (model.fit, model.evaluate, model.predict, *on_batch):
        with pytest.raises(ValueError, match=r"must be uint8.*np\.round\(255 \* x\)"):
            call(IMAGES / 255.0)
    with pytest.raises(ValueError, match=r"must be uint8.*np\.round\(255 \* x\)"):
        model.fit(batches(IMAGES / 255.0), verbose=0)
    with pytest.raises(ValueError, match="look already scaled"):
        model(IMAGES / 255.0)
    np.testing.assert_allclose(model(np.float32(IMAGES)), model(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [PixelCNN, PixelRNN])
def test_a_pixel_model_s_call_without_the_labels_that_it_needs_is_told(family):
    with pytest.raises(ValueError, match="labels are required"):
        family(num_classes=3, **PIXELS)(IMAGES)


def test_data_sets_as_others_make_them(plain):
    named = tf.data.Dataset.from_tensor_slices({"image": IMAGES}).batch(2)
    with pytest.raises(ValueError, match=r"must yield images, .*Map it first"):
        plain.fit(named, verbose=0)
    with pytest.raises(ValueError, match=r"single ones of shape \(8, 8, 1\).*dataset.batch"):
        plain.fit(tf.data.Dataset.from_tensor_slices(IMAGES), verbose=0)


def test_shapes_that_only_the_data_know(plain):
    """As `tf.io.decode_png` leaves them, and of unknown rank."""
    files = [tf.io.encode_png(image) for image in IMAGES]
    decoded = tf.data.Dataset.from_tensor_slices(files).map(tf.io.decode_png).batch(2)
    assert decoded.element_spec.shape.as_list() == [None] * 4
    plain.fit(decoded, verbose=0)
    unknown = batches(IMAGES).map(lambda x: tf.py_function(lambda y: y, [x], tf.uint8))
    assert unknown.element_spec.shape.rank is None
    plain.fit(unknown, verbose=0)
    wrong = batches(IMAGES[:, 1:]).map(lambda x: tf.py_function(lambda y: y, [x], tf.uint8))
    with pytest.raises(ValueError, match=r"must have shape \(batch, 8, 8, 1\); received 2 7 8 1"):
        plain.fit(wrong, verbose=0)


def test_predict_of_a_conditional_model(conditional):
    pair = conditional.predict([IMAGES, LABELS], verbose=0)
    np.testing.assert_allclose(conditional(IMAGES, LABELS), pair, rtol=1e-5, atol=1e-3)
    from_data = conditional.predict(batches(IMAGES, LABELS), verbose=0)
    np.testing.assert_allclose(from_data, pair, rtol=1e-5, atol=1e-3)
    with pytest.raises(ValueError, match="labels are required"):
        conditional.predict(IMAGES, verbose=0)


# Weights


@pytest.mark.slow_except("VAE", "GAN", "PixelCNN")
def test_a_batch_that_weighs_nothing(first_case):
    """Its mean is 0, and it moves no weight; NaN would move them all."""
    model = first_case()
    model.compile(*[keras.optimizers.SGD(0.1) for _ in model.updates_per_step], jit_compile=False)
    images, before = laws.images_for(model, 4), model.get_weights()
    logs = model.train_on_batch(
        images, np.zeros(4, np.int64), sample_weight=np.zeros(4), return_dict=True
    )
    assert set(logs.values()) == {0.0}
    for own, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_allclose(own, old, atol=1e-6)


def test_arguments_of_a_batch_are_told_apart_from_weights(plain):
    for call in (plain.train_on_batch, plain.test_on_batch):
        assert np.isfinite(call(IMAGES, None, None)).all()
    assert "loss" in plain.test_on_batch(IMAGES, None, None, True)
    with pytest.raises(ValueError, match="class_weight needs labels"):
        plain.train_on_batch(IMAGES, class_weight={0: 2.0})


def test_an_endless_data_set_stays_endless(plain):
    seen = []
    start = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(start.params))
    stop = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(plain, "stop_training", batch == 4)
    )
    plain.fit(batches(IMAGES).repeat(), verbose=0, callbacks=[start, stop])
    assert seen[0]["steps"] is None


def test_weights_need_no_labels():
    """Keras drops weights that come without labels."""
    model = AutoEncoder(**SMALL)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    before, nothing = model.get_weights(), np.zeros(6)
    weighed = (IMAGES, None, nothing)
    log = model.fit(IMAGES, sample_weight=nothing, validation_data=weighed, verbose=0).history
    assert log["loss"] == log["val_loss"] == [0.0]
    assert model.evaluate(IMAGES, sample_weight=nothing, verbose=0, return_dict=True)["loss"] == 0.0
    assert model.evaluate(IMAGES, None, None, 0, nothing, return_dict=True)["loss"] == 0.0
    assert model.evaluate(IMAGES, verbose=0, return_dict=True)["loss"] > 0.0
    for own, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_allclose(own, old, atol=1e-6)


@pytest.mark.slow_except("unconditional-class_weight-array", "conditional-class_weight-PyDataset")
@pytest.mark.parametrize("source", [None, batches, Batches], ids=["array", "data set", "PyDataset"])
@pytest.mark.parametrize("weights", ["sample_weight", "class_weight"])
def test_weights_go_with_every_validation(eager, weights, source):
    """Weights of classes need labels; a validation may have labels too, and they weigh nothing."""

    def data(*rows):
        return rows if source is None else (source(*rows),)

    def validation(*rows):
        return (rows if len(rows) > 1 else rows[0]) if source is None else source(*rows)

    rows, options = (IMAGES, LABELS), {"batch_size": 2} if source is None else {}
    if weights == "class_weight":
        options["class_weight"] = {0: 0.5, 1: 1.0, 2: 2.0}
        if source is None:
            rows = (IMAGES, LABELS.tolist())
    elif source is None:
        options["sample_weight"] = np.ones(6)
    else:
        rows = (IMAGES, LABELS, np.ones(6))
    kinds = [({"validation_data": validation(*rows)}, 0)]
    if source is None:
        kinds.append(({"validation_split": 0.5}, 3))
    if eager.num_classes is None:
        kinds.append(({"validation_data": validation(IMAGES)}, 0))
    for given, first in kinds:
        found = eager.fit(*data(*rows), **options, **given, verbose=0).history["val_loss"]
        labels = None if eager.num_classes is None else LABELS[first:]
        expected = eager.evaluate(IMAGES[first:], labels, verbose=0, return_dict=True)["loss"]
        assert found == [pytest.approx(expected, rel=1e-4)], given


def test_labels_that_stand_for_no_weights_are_refused_in_a_validation(plain):
    for data in ((IMAGES, LABELS), batches(IMAGES, LABELS)):
        with pytest.raises(ValueError, match="labels must be left out"):
            plain.fit(IMAGES, validation_data=data, verbose=0)


# A refused call leaves the model as it was


@pytest.mark.slow_except("None")
@pytest.mark.parametrize("classes", [None, 3])
def test_a_refused_fit_does_not_break_the_next(classes):
    model = VAE(**SMALL, num_classes=classes)
    model.compile(jit_compile=False)
    labels = None if classes is None else LABELS
    refused = [(IMAGES / 255.0, labels), (IMAGES[:, 1:], labels)]
    refused.append((IMAGES, LABELS if classes is None else None))
    for images, wrong in refused:
        with pytest.raises(ValueError, match=r"must|required"):
            model.fit(images, wrong, verbose=0)
    assert np.isfinite(model.fit(IMAGES, labels, verbose=0).history["loss"]).all()


def test_a_step_that_fails_does_not_break_the_next(monkeypatch):
    """Also where the error comes from inside the step."""

    def fail(*_, **__):
        raise ValueError("broken on purpose")

    model = AutoEncoder(**SMALL)
    model.compile(jit_compile=False)
    with monkeypatch.context() as broken:
        broken.setattr(AutoEncoder, "losses_per_image", fail)
        with pytest.raises(ValueError, match="broken on purpose"):
            model.fit(IMAGES, verbose=0)
    assert np.isfinite(model.fit(IMAGES, verbose=0).history["loss"]).all()
