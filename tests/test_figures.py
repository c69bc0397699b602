"""Figures: what they show is what the model gives, and each can be drawn during a training."""

import itertools
import os

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image

from tfgen import GAN, VAE, PixelCNN, data, plots

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def images():
    return data.arrays("digits", "validation")[0]


@pytest.fixture(scope="module")
def vae():
    return laws.randomised(VAE(SHAPE, latent_dim=2, filters=(4,), num_blocks=0, dense_units=8))


@pytest.fixture(scope="module")
def pixel_cnn():
    return laws.randomised(PixelCNN(SHAPE, filters=4, num_blocks=1, head_units=4, num_mixtures=2))


def shown(figure):
    """The images of a figure, in the order of its axes."""
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_show(images):
    for given, found in zip(images[:5], shown(plots.show(images[:5], columns=3)), strict=True):
        np.testing.assert_array_equal(given[..., 0], found)
    colour = np.repeat(images[:1], 3, -1)
    np.testing.assert_array_equal(shown(plots.show(colour[0]))[0], colour[0])
    figure = plots.show(images[:2], captions=["a", "b"])
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    for labels in (np.array([0, 7]), np.array([0])):
        figure = plots.show(images[: len(labels)], captions=labels, rows=labels[:1])
        assert [ax.get_title() for ax in figure.axes[: len(labels)]] == list(map(str, labels))
    with pytest.raises(ValueError, match="captions must be one per image, 2"):
        plots.show(images[:2], captions=["a"])
    with pytest.raises(ValueError, match="uint8"):
        plots.show(images[:2] / 255.0)


def test_samples_reconstructions_and_walks(vae, images):
    drawn = shown(plots.samples(vae, 4, seed=3))
    np.testing.assert_array_equal(drawn, vae.sample(4, seed=3)[..., 0])
    drawn = shown(plots.reconstructions(vae, images[:3]))
    np.testing.assert_array_equal(drawn[:3], images[:3, ..., 0])
    np.testing.assert_array_equal(drawn[3:], vae.reconstruct(images[:3])[..., 0])
    drawn = shown(plots.interpolations(vae, images[:2], images[2:4], steps=3))
    expected = vae.interpolate(images[:2], images[2:4], 3)
    np.testing.assert_array_equal(drawn, expected.reshape(6, 8, 8))


def test_manifold_lies_like_a_map(vae):
    (drawn,) = shown(plots.manifold(vae, side=3))
    centre = vae.decode(np.zeros((1, 2), np.float32))[0, ..., 0]
    np.testing.assert_array_equal(drawn[8:16, 8:16], centre)
    top_right = vae.decode(plots.prior_plane(3))[2, ..., 0]
    np.testing.assert_array_equal(drawn[:8, 16:], top_right)
    plane = plots.prior_plane(3).reshape(3, 3, 2)
    assert np.all(np.diff(plane[..., 0], axis=1) > 0)  # grows to the right
    assert np.all(np.diff(plane[..., 1], axis=0) < 0)  # and upwards
    np.testing.assert_allclose(plane[1, 1], 0.0, atol=1e-7)


def test_a_model_without_a_plane_of_latents_has_no_manifold(pixel_cnn):
    with pytest.raises(ValueError, match="two latents; received one with 0"):
        plots.manifold(pixel_cnn)


def test_completions_and_surprise(pixel_cnn, images):
    drawn = shown(plots.completions(pixel_cnn, images[:2], ways=2))
    assert len(drawn) == 8
    for row in (drawn[:4], drawn[4:]):
        for image in row[:3]:
            np.testing.assert_array_equal(image[:4], row[3][:4])
        assert np.all(row[0][4:] == 96)  # what is not kept is grey
    drawn = shown(plots.surprise(pixel_cnn, images[:2]))
    bits = -pixel_cnn.log_likelihood(images[:2]) / np.log(2.0)
    np.testing.assert_allclose([drawn[2].sum(), drawn[3].sum()], bits, rtol=1e-4)


def test_neighbours_of_copies_are_themselves(images):
    class Copying:
        num_classes, image_shape = None, SHAPE

        def sample(self, count, **options):
            return images[5 : 5 + count]

    for real in (images, tf.constant(images)):
        drawn = shown(plots.neighbours(Copying(), real, 4))
        np.testing.assert_array_equal(drawn[:4], drawn[4:])
    with pytest.raises(ValueError, match="real must be uint8"):
        plots.neighbours(None, images / 255.0)  # before anything is drawn
    with pytest.raises(ValueError, match="real must have shape"):
        plots.neighbours(Copying(), images[:, :4], 4)


def test_a_conditional_model_draws_its_classes(images):
    model = GAN(SHAPE, latent_dim=2, filters=(4,), dense_units=8, num_classes=3)
    drawn = shown(plots.samples(model, 4))
    np.testing.assert_array_equal(drawn, model.sample(4, labels=[0, 1, 2, 0], seed=0)[..., 0])


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_figures_come_every_whole_number_of_epochs(every):
    with pytest.raises(ValueError, match="every must be an integer of at least 1"):
        plots.Draw(plots.samples, "never", every=every)


def test_nothing_cannot_be_shown():
    with pytest.raises(ValueError, match=r"images must have .*no empty axis; received \(0, 8, 8"):
        plots.show(np.zeros((0, 8, 8, 1), np.uint8))


def test_show_gives_a_figure_or_names_the_argument():
    counts = {(3, 2, 2, 1): (3, 2), (2, 2, 3): (1, 1)}  # images, and rows of the default
    shapes = [*counts, (0, 2, 2, 1), (2, 0, 2, 1), (2, 2, 2, 2), (2, 2, 2), (4,)]
    columns, texts = (None, -1, 0, 1.5, True), (0, 1, 2, 3)
    for shape, number, captions, rows in itertools.product(shapes, columns, texts, texts):
        arguments = (np.zeros(shape, np.uint8), number, ["a"] * captions, ["b"] * rows)
        count, num_rows = counts.get(shape, (-1, -1))
        fits = count > 0 and captions in (0, count) and rows in (0, num_rows)
        if fits and number is None:
            axes = plots.show(*arguments).axes
            assert [bool(ax.get_title()) for ax in axes].count(True) == captions
            assert [bool(ax.get_ylabel()) for ax in axes].count(True) == rows
        else:
            with pytest.raises(ValueError, match=r"^(images|columns|captions|rows) must "):
                plots.show(*arguments)


@pytest.mark.parametrize(
    "log",
    [
        {},
        {"loss": []},
        {"epoch": [], "loss": []},
        {"epoch": [0, 1], "loss": []},
        {"epoch": [0, 1]},
        {"epoch": [0, 1], "stage": [1, 1], "seconds": [2.0, 4.0]},
        {"seconds": [2.0, 4.0]},
    ],
)
@pytest.mark.parametrize("as_history", [False, True])
def test_curves_of_nothing(log, as_history):
    given = log
    if as_history:
        given = keras.callbacks.History()
        given.history, given.epoch = log, [0, 1]
    with pytest.raises(
        ValueError, match=r"^log must hold at least one epoch of a .*received none\."
    ):
        plots.curves(given)


@pytest.mark.parametrize("as_history", [False, True])
def test_curves_of_a_quantity_that_few_epochs_measure(as_history, tmp_path):
    """As `fit(validation_freq=2)` has it; its points stand at their epochs, from 1."""
    log = {"loss": [5.0, 4.0, 3.0, 2.0, 1.0], "val_loss": [6.0, 7.0]}
    first = 0
    if as_history:
        history, first = keras.callbacks.History(), 10
        history.history, history.epoch = log, list(range(10, 15))
        log = history
    (axes,) = plots.curves(log).axes
    loss, held_out = axes.lines
    assert loss.get_xdata().tolist() == [first + 1 + epoch for epoch in range(5)]
    assert held_out.get_xdata().tolist() == [first + 2, first + 4]
    draw = plots.Draw(plots.curves, tmp_path)
    for epoch in range(5):
        draw.on_epoch_end(epoch, {"loss": 1.0, **({"val_loss": 2.0} if epoch % 2 else {})})
    assert len(os.listdir(tmp_path)) == 5
    held_out = plots.curves(draw.log).axes[0].lines[1]
    assert held_out.get_xdata().tolist() == [2, 4]
    draw.on_epoch_end(0, {"loss": 3.0})  # of another `fit`
    assert draw.log == {"epoch": [0], "loss": [3.0]}  # nothing of what it does not measure


def test_a_single_epoch_can_be_seen(tmp_path):
    """A line of one point is none."""
    (axes,) = plots.curves({"loss": [5.0, 4.0, 3.0], "val_loss": [6.0]}).axes
    assert [line.get_marker() for line in axes.lines] == ["None", "o"]
    assert plots.curves({"loss": [2.0]}).axes[0].lines[0].get_marker() == "o"


def test_progress_of_drawn_figures(tmp_path):
    """matplotlib's files have an alpha, those of a training one channel or three."""
    draw = plots.Draw(plots.curves, tmp_path / "figures")
    for epoch in range(3):
        draw.on_epoch_end(epoch, {"loss": 1.0})
    written = plots.progress(tmp_path / "figures", tmp_path / "progress.png", 50)
    assert Image.open(written).mode == "RGB"


def test_small_images_are_shown_as_they_are():
    """matplotlib would smooth black and white into grey."""
    figure = plots.show(255 * np.eye(28, dtype=np.uint8)[None, ..., None])
    figure.canvas.draw()
    seen = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    assert np.isin(seen, (0, 255)).mean() > 0.99


def test_a_mask_needs_no_axis_of_channels(pixel_cnn, images):
    mask = np.arange(64).reshape(8, 8) % 3 == 0
    drawn = plots.completed(pixel_cnn, images[:2], mask, ways=1)
    np.testing.assert_array_equal(
        drawn, plots.completed(pixel_cnn, images[:2], mask[..., None], ways=1)
    )


def test_one_label_stands_for_all(images):
    arguments = {"filters": 4, "num_blocks": 1, "head_units": 4, "num_mixtures": 2}
    model = laws.randomised(PixelCNN(SHAPE, num_classes=3, **arguments))
    whole = plots.completed(model, images[:3], labels=1)
    np.testing.assert_array_equal(whole, plots.completed(model, images[:3], labels=[1, 1, 1]))


@pytest.mark.slow
def test_figures_of_a_training(vae, images, tmp_path):
    model = VAE(SHAPE, latent_dim=2, filters=(4,), num_blocks=0, dense_units=8)
    model.compile(jit_compile=False)
    callbacks = [
        plots.Draw(plots.samples, tmp_path / "samples", num_samples=4),
        plots.Draw(plots.reconstructions, tmp_path / "rebuilt", every=2, images=images[:3]),
        plots.Draw(plots.curves, tmp_path / "curves"),
    ]
    log = model.fit(images[:20], epochs=2, verbose=0, callbacks=callbacks)
    assert sorted(os.listdir(tmp_path / "samples")) == ["epoch_0001.png", "epoch_0002.png"]
    assert os.listdir(tmp_path / "rebuilt") == ["epoch_0002.png"]
    assert len(os.listdir(tmp_path / "curves")) == 2
    (axes, *_) = plots.curves(log).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), log.history[axes.get_title()])
    assert all(tick == int(tick) for tick in axes.get_xticks())
    with pytest.raises(ValueError, match="at least one epoch"):
        plots.curves({})
