"""Figures of a model for notebooks, papers and the progress of a training.

Each function returns a matplotlib figure, which a notebook shows and `figure.savefig("a.pdf")`
writes. Each that takes a model first can be drawn after every epoch by `Draw`, a Keras callback:

    model.fit(images, epochs=10, callbacks=[plots.Draw(plots.samples, "progress", seed=3)])
"""

import io
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfgen import checks, pixels
from tfgen.plots.raster import checked, columns_for, points, read_log, save_figure

if TYPE_CHECKING:
    from tfgen.models.autoregressive import AutoregressiveModel
    from tfgen.models.generative import GenerativeModel

__all__ = [
    "Draw",
    "completed",
    "completions",
    "curves",
    "history",
    "interpolations",
    "manifold",
    "neighbours",
    "prior_plane",
    "reconstructions",
    "samples",
    "show",
    "surprise",
]

INCHES = 0.8  # width and height of an image
HIDDEN_GREY = 96  # what stands in for pixels that are not kept


class NotebookFigure(Figure):
    """A figure outside pyplot, which keeps global state, that notebooks show all the same."""

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def show(
    images: np.ndarray,
    columns: int | None = None,
    captions: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> Figure:
    """Shows images in a grid.

    >>> len(show(np.zeros((5, 8, 8, 1), np.uint8), columns=3).axes)
    6

    Args:
        images: uint8 (batch, height, width, channels) in [0, 255], 1 or 3 channels; or one image.
        columns: Images per row. None: the square root of their number, rounded up.
        captions: One above each image; none if empty.
        rows: One left of each row; none if empty.

    Raises:
        ValueError: Another dtype or shape, no column, or captions that are not as many.
    """
    images, captions, rows = np.asarray(images), list(map(str, captions)), list(map(str, rows))
    images = checked(images[None] if images.ndim == 3 else images, "images", 4)
    columns = columns_for(len(images), columns)
    num_rows = -(-len(images) // columns)
    wanted = ("captions", captions, "image", len(images)), ("rows", rows, "row", num_rows)
    for name, texts, noun, count in wanted:
        if texts and len(texts) != count:
            raise ValueError(
                f"{name} must be one per {noun}, {count}; received {len(texts)}. Pass as many, or "
                "none."
            )
    sharp = "nearest" if max(images.shape[1:3]) <= 64 else None  # or matplotlib smooths pixels
    figure = NotebookFigure(
        INCHES * columns + 0.8 * bool(rows), (INCHES + 0.3 * bool(captions)) * num_rows
    )
    axes = figure.subplots(num_rows, columns, squeeze=False)
    for index, ax in enumerate(axes.flat):
        ax.set(xticks=[], yticks=[], frame_on=False)
        if index < len(images):
            ax.imshow(_pixels(images[index]), "gray", vmin=0, vmax=255, interpolation=sharp)
            ax.set_title(captions[index] if captions else "", fontsize=8)
    for row, text in enumerate(rows):
        axes[row, 0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def _pixels(image: np.ndarray) -> np.ndarray:
    """Returns an image as imshow takes it: grey without the axis of channels."""
    return image[..., 0] if image.shape[-1] == 1 else image


def samples(
    model: "GenerativeModel",
    num_samples: int = 36,
    labels: Sequence[int] | int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
) -> Figure:
    """Shows samples; a conditional model without `labels` draws its classes in turn.

    Args:
        model: A model that can be sampled from.
        num_samples: How many.
        labels: Classes, for a conditional model.
        seed: Image i is drawn from seed + i.
        temperature: Scale of the noise.
    """
    if labels is None and model.num_classes is not None:
        labels = np.arange(num_samples) % model.num_classes
    return show(model.sample(num_samples, labels=labels, seed=seed, temperature=temperature))


def reconstructions(
    model: "GenerativeModel", images: np.ndarray, labels: Sequence[int] | None = None
) -> Figure:
    """Shows images above their reconstructions.

    Args:
        model: A model with an encoder.
        images: uint8 (batch, height, width, channels).
        labels: Classes, for a conditional model.
    """
    rebuilt = model.reconstruct(images, labels=labels)
    return show(np.concatenate([images, rebuilt]), len(images), rows=["original", "reconstruction"])


def interpolations(
    model: "GenerativeModel",
    a: np.ndarray,
    b: np.ndarray,
    steps: int = 8,
    labels: Sequence[int] | None = None,
) -> Figure:
    """Shows walks in latent space, a row for each pair.

    Args:
        model: A model with latents.
        a: What `model.interpolate` takes: images, or latents for a GAN.
        b: As `a`.
        steps: Images from one end to the other, both included.
        labels: Classes of the pairs, for a conditional model.
    """
    walks = model.interpolate(a, b, steps, labels=labels)
    return show(walks.reshape(-1, *walks.shape[2:]), steps)


def manifold(model: "GenerativeModel", side: int = 20, label: int | None = None) -> Figure:
    """Shows the plane of two latents at equal steps of the standard normal's probability.

    Args:
        model: A model with `latent_dim=2`.
        side: Images along each axis.
        label: Class, for a conditional model.

    Raises:
        ValueError: The model has another number of latents.
    """
    if (count := getattr(model, "latent_dim", 0)) != 2:
        raise ValueError(f"model must have two latents; received one with {count}.")
    side, images = int(side), model.decode(prior_plane(side), labels=label)
    height, width, channels = images.shape[1:]
    tiles = images.reshape(side, side, height, width, channels).transpose(0, 2, 1, 3, 4)
    figure = show(tiles.reshape(side * height, side * width, channels))
    figure.set_size_inches(6, 6 * height / width)
    return figure


def prior_plane(side: int) -> np.ndarray:
    """Returns latents (side^2, 2) at the standard normal's quantiles (i + 1/2) / side.

    The first axis grows to the right, the second one upwards.
    """
    side, quantile = checks.positive("side", side), statistics.NormalDist().inv_cdf
    at = np.array([quantile((i + 0.5) / side) for i in range(side)])
    right, up = np.meshgrid(at, at[::-1])
    return np.stack([right, up], -1).reshape(-1, 2).astype(np.float32)


def completed(
    model: "AutoregressiveModel",
    images: np.ndarray,
    mask: np.ndarray | None = None,
    ways: int = 4,
    labels: Sequence[int] | np.ndarray | int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Returns a row for each image: what is kept of it, completions of that, and the image.

    Args:
        model: A model that can complete images.
        images: uint8 (batch, height, width, channels).
        mask: bool (height, width[, 1]), True where a pixel is kept. None: the upper half.
        ways: Completions of each image.
        labels: Classes, for a conditional model.
        seed: Completion j of image i is drawn from seed + i ways + j.

    Returns:
        uint8 (batch, ways + 2, height, width, channels).
    """
    height, width, _ = model.image_shape
    mask = np.arange(height)[:, None, None] < height // 2 if mask is None else np.asarray(mask)
    mask = mask[..., None] if mask.ndim == 2 else mask
    masks = np.broadcast_to(mask, (len(images), height, width, 1))
    drawn = model.complete(
        np.repeat(images, ways, 0),
        np.repeat(masks, ways, 0),
        labels=np.repeat(labels, ways) if np.ndim(labels) else labels,
        seed=seed,
    ).reshape(len(images), ways, *model.image_shape)
    kept = np.where(masks, images, np.uint8(HIDDEN_GREY))
    return np.concatenate([kept[:, None], drawn, images[:, None]], 1)


def completions(
    model: "AutoregressiveModel",
    images: np.ndarray,
    mask: np.ndarray | None = None,
    ways: int = 4,
    labels: Sequence[int] | int | None = None,
    seed: int = 0,
) -> Figure:
    """Shows what `completed` returns for the same arguments.

    A row for each image: what is kept of it, completions of that, and the image.
    """
    shown = completed(model, images, mask, ways, labels, seed)
    captions = ["kept", *[""] * ways, "original"] * len(images)
    return show(shown.reshape(-1, *model.image_shape), ways + 2, captions)


def surprise(
    model: "AutoregressiveModel", images: np.ndarray, labels: Sequence[int] | None = None
) -> Figure:
    """Shows images above the information of each pixel given those before it, in bits.

        surprise = -log2 p(x_i | x_<i),   summed over channels

    Args:
        model: A PixelCNN or a PixelRNN.
        images: uint8 (batch, height, width, channels).
        labels: Classes, for a conditional model.
    """
    bits = -model.log_likelihood_map(images, labels=labels).sum(-1) / np.log(2.0)
    count = len(images)
    figure = NotebookFigure(1.2 * count + 0.8, 2.6)
    axes = figure.subplots(2, count, squeeze=False)
    for column in range(count):
        axes[0, column].imshow(_pixels(images[column]), cmap="gray", vmin=0, vmax=255)
        drawn = axes[1, column].imshow(bits[column], cmap="magma", vmin=0, vmax=bits.max())
        axes[1, column].set_xlabel(f"{bits[column].sum():.0f} bits", fontsize=8)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=list(axes[1]), label="bits per pixel")
    return figure


def neighbours(
    model: "GenerativeModel",
    real: np.ndarray,
    num_samples: int = 8,
    labels: Sequence[int] | int | None = None,
    seed: int = 0,
) -> Figure:
    """Shows samples above their nearest real images: copies of training images would show.

    Args:
        model: A model that can be sampled from.
        real: uint8 (count, height, width, channels), e.g. the training images.
        num_samples: How many samples.
        labels: Classes, for a conditional model.
        seed: Image i is drawn from seed + i.
    """
    real = checked(real, "real", 4)
    pixels.check_format(real, model.image_shape, "real")
    if labels is None and model.num_classes is not None:
        labels = np.arange(num_samples) % model.num_classes
    drawn = model.sample(num_samples, labels=labels, seed=seed)
    queries, references = (x.reshape(len(x), -1).astype(np.float32) for x in (drawn, real))
    # |q - r|^2 = |q|^2 - 2 q r + |r|^2, of which |q|^2 does not matter
    squares = np.einsum("ij,ij->i", references, references)
    nearest = np.argmin(squares - 2.0 * queries @ references.T, 1)
    both = np.concatenate([drawn, real[nearest]])
    return show(both, num_samples, rows=["sample", "nearest real image"])


def curves(log: str | Path | Mapping[str, Sequence[float]] | keras.callbacks.History) -> Figure:
    """Shows training curves: axes for each quantity, which it shares with its `val_` twin.

    >>> len(curves({"loss": [2.0, 1.0], "val_loss": [2.5, 1.5]}).axes)
    1

    Args:
        log: The path of a run's log.csv, what `fit` returns, or its `history`. A shorter list is
            taken for that of a `validation_freq` that fits its length.

    Raises:
        ValueError: There is no epoch in it, or no quantity.
    """
    own = getattr(log, "epoch", None)  # of a `History`; only of its last `fit`
    found = log.history if isinstance(log, keras.callbacks.History) else log
    values = dict(read_log(Path(found).expanduser()) if isinstance(found, (str, Path)) else found)
    for name in ("stage", "seconds"):  # of `tfgen.training.CSVLog`, not losses
        values.pop(name, None)
    if not any(len(series) for name, series in values.items() if name != "epoch"):
        raise ValueError(
            "log must hold at least one epoch of a quantity such as loss; received none. Train "
            "first."
        )
    count = max(map(len, values.values()))
    epochs = values.pop("epoch", own if own and len(own) == count else range(count))
    panels = [name for name in values if name.removeprefix("val_") not in values.keys() - {name}]
    columns = min(3, len(panels))
    num_rows = -(-len(panels) // columns)
    figure = NotebookFigure(4.5 * columns, 3.2 * num_rows)
    for index, name in enumerate(panels):
        axes = figure.add_subplot(num_rows, columns, index + 1, title=name, xlabel="epoch")
        twins = [twin for twin in (name, f"val_{name}") if twin in values]
        for twin in twins:
            x, y = points(epochs, values[twin])
            axes.plot(x + 1, y, marker="o" if len(x) == 1 else None, label=twin)
        if len(twins) > 1:
            axes.legend()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # no half epochs
        axes.grid(alpha=0.3)
    return figure


def history(csv_path: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> Path:
    """Draws the training curves in a run's log.csv to a PNG file; see `curves`.

    Args:
        csv_path: The log, of `tfgen.training.CSVLog` or of Keras' CSVLogger.
        out_path: The picture to write. Its name must end in `.png`.

    Returns:
        The path of the picture.

    Raises:
        ValueError: The log holds no epoch or is no such log, or `out_path` breaks its rule.
        OSError: The log cannot be read, or the picture cannot be written.
    """
    return save_figure(curves(Path(csv_path)), out_path)


class Draw(keras.callbacks.Callback):
    """Draws a figure of the model after each epoch, from the same arguments every time.

    Args:
        figure: A function of this module that takes a model first, a function of your own that
            returns a figure, or `curves`, which is given the log so far.
        folder: PNG files epoch_0001.png, epoch_0002.png, ... go here.
        every: Epochs between two figures.
        **arguments: Further arguments of `figure`.
    """

    def __init__(
        self, figure: Callable[..., Figure], folder: str | Path, every: int = 1, **arguments: Any
    ):
        super().__init__()
        checks.at_least(1, every=every)
        self.figure, self.arguments = figure, arguments
        self.folder, self.every = Path(folder), every
        self.log: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Writes the epoch's figure."""
        count = sum(before < epoch for before in self.log.get("epoch", ()))  # of this `fit`
        self.log = {name: values[:count] for name, values in self.log.items() if count}
        for name, value in {"epoch": epoch, **(logs or {})}.items():
            self.log.setdefault(name, [np.nan] * count).append(float(value))
        for values in self.log.values():  # what this epoch did not measure
            values.extend([np.nan] * (count + 1 - len(values)))
        if (epoch + 1) % self.every == 0:
            drawn = self.figure(self.log if self.figure is curves else self.model, **self.arguments)
            save_figure(drawn, self.folder / f"epoch_{epoch + 1:04d}.png")
