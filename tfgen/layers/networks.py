"""Networks that two or more families use."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras

from tfgen import checks
from tfgen.layers.basic import GreyToPixels, SubPixel

__all__ = [
    "check_image_shape",
    "check_strides",
    "decoder_network",
    "encoder_network",
    "grid_of",
    "join_labels",
    "network_inputs",
    "one_hot",
    "residual_block",
]

ACTIVATION = "elu"


def residual_block(
    x: keras.KerasTensor,
    filters: int,
    name: str,
    wrap: Callable[[keras.layers.Layer], keras.layers.Layer] = lambda layer: layer,
) -> keras.KerasTensor:
    """x + conv(elu(conv(elu(x)))), the last kernel starting small so that depth starts linear.

    `wrap` is put around each convolution, e.g. `SpectralNormalization`.
    """
    y = keras.layers.Activation(ACTIVATION, name=f"{name}_activation_1")(x)
    y = wrap(keras.layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv_1"))(y)
    y = keras.layers.Activation(ACTIVATION, name=f"{name}_activation_2")(y)
    small = keras.initializers.VarianceScaling(0.1)
    y = wrap(
        keras.layers.Conv2D(
            filters, 3, padding="same", kernel_initializer=small, name=f"{name}_conv_2"
        )
    )(y)
    return keras.layers.Add(name=f"{name}_add")([x, y])


def check_image_shape(image_shape: Iterable[int]) -> tuple[int, int, int]:
    """Returns (height, width, channels) as ints, or raises ValueError.

    Channels are 1 or 3, and all are integers of at least 1, in whatever holds them: a tuple, a
    list, an array, a `TensorShape`.
    """
    try:
        shape = tuple(image_shape)
        checks.sizes(1, 3, image_shape=shape)
    except (TypeError, ValueError):  # not iterable, or not three sizes
        shape = (0, 0, 0)
    if shape[2] not in (1, 3):
        raise ValueError(
            "image_shape must be (height, width, channels), integers of at least 1, with 1 or 3 "
            f"channels; received {image_shape!r}."
        )
    height, width, channels = map(int, shape)
    return height, width, channels


def check_strides(
    image_shape: tuple[int, int, int],
    filters: tuple[int, ...],
    decoder_filters: tuple[int, ...] | None = None,
    may_be_dense: bool = False,
) -> None:
    """Raises ValueError unless every stage of stride 2 divides height and width.

    A decoder may have one stage more than its encoder, on the whole image. With `may_be_dense`,
    `filters` may be empty: then no stage halves the image.
    """
    check_image_shape(image_shape)
    if not (may_be_dense and isinstance(filters, (list, tuple)) and not filters):
        checks.sizes(1, filters=filters)
    factor = 2 ** len(filters)
    if image_shape[0] % factor or image_shape[1] % factor:
        raise ValueError(
            f"image_shape must be divisible by {factor} = 2^{len(filters)}, one stride of 2 for "
            f"each entry of filters; received {tuple(image_shape)} with filters={tuple(filters)}. "
            "Pad the images or use fewer filters."
        )
    if decoder_filters is not None:
        checks.sizes(1, decoder_filters=decoder_filters)
        if len(decoder_filters) > len(filters) + 1:
            raise ValueError(
                "decoder_filters must have at most one entry more than filters, which has "
                f"{len(filters)}; received {tuple(decoder_filters)}."
            )


def encoder_network(
    image_shape: tuple[int, int, int],
    filters: tuple[int, ...],
    num_blocks: int,
    dense_units: int,
    num_classes: int | None = None,
    stem: int = 0,
) -> keras.Model:
    """Builds the trunk of an encoder.

    Stages of a 3x3 convolution with stride 2 and `num_blocks` residual blocks, then one dense
    layer: grey images (batch, *image_shape) [and labels (batch,)] -> (batch, dense_units). Without
    `filters` the dense layer reads the pixels. With `stem` above 0, a convolution of that many
    channels and one residual block come first, at full size.
    """
    check_strides(image_shape, filters, may_be_dense=True)
    given = network_inputs(image_shape, "images", num_classes)
    x = GreyToPixels(name="pixels")(given if num_classes is None else given[0])
    if stem:
        x = keras.layers.Conv2D(stem, 3, padding="same", name="stem_conv")(x)
        x = residual_block(x, stem, "stem_block")
        x = keras.layers.Activation(ACTIVATION, name="stem_activation")(x)
    for stage, width in enumerate(filters):
        x = keras.layers.Conv2D(width, 3, 2, "same", name=f"stage_{stage}_conv")(x)
        for block in range(num_blocks):
            x = residual_block(x, width, f"stage_{stage}_block_{block}")
        x = keras.layers.Activation(ACTIVATION, name=f"stage_{stage}_activation")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = join_labels(x if num_classes is None else [x, given[1]], num_classes)
    x = keras.layers.Dense(dense_units, activation=ACTIVATION, name="dense")(x)
    return keras.Model(given, x, name="encoder_trunk")


def decoder_network(
    latent_dim: int,
    image_shape: tuple[int, int, int],
    filters: tuple[int, ...],
    num_stages: int,
    num_blocks: int,
    dense_units: int,
    num_outputs: int,
    num_classes: int | None = None,
) -> keras.Model:
    """Builds a decoder: the encoder's stages in reverse, upsampling by sub-pixels.

    latents (batch, latent_dim) [and labels (batch,)] -> float32 (batch, height, width,
    num_outputs). It starts on the grid of height / 2^num_stages; each entry of `filters` is a
    stage at twice the size of the one before, and the last convolution upsamples the rest at once.
    Without `filters` it is two dense layers, the second of which gives all outputs.
    """
    given = network_inputs((latent_dim,), "latents", num_classes)
    x = join_labels(given, num_classes)
    x = keras.layers.Dense(dense_units, activation=ACTIVATION, name="dense")(x)
    if not filters:
        outputs = (*image_shape[:2], num_outputs)
        x = keras.layers.Dense(math.prod(outputs), name="to_pixels")(x)
        x = keras.layers.Reshape(outputs, dtype="float32", name="pixels")(x)
        return keras.Model(given, x, name="decoder")
    x = grid_of(x, image_shape, num_stages, filters[0])
    for stage, stage_filters in enumerate(filters):
        if stage:
            x = keras.layers.Conv2D(4 * stage_filters, 3, padding="same", name=f"grow_{stage}")(x)
            x = SubPixel(2, name=f"grow_{stage}_sub_pixel")(x)
        for block in range(num_blocks):
            x = residual_block(x, stage_filters, f"stage_{stage}_block_{block}")
        x = keras.layers.Activation(ACTIVATION, name=f"stage_{stage}_activation")(x)
    factor = 2 ** (num_stages - len(filters) + 1)
    x = keras.layers.Conv2D(factor**2 * num_outputs, 3, padding="same", name="to_pixels")(x)
    x = SubPixel(factor, dtype="float32", name="pixels")(x)
    return keras.Model(given, x, name="decoder")


def grid_of(
    x: keras.KerasTensor, image_shape: tuple[int, int, int], num_stages: int, filters: int
) -> keras.KerasTensor:
    """Turns vectors, by a dense layer, into maps that `num_stages` doublings make an image."""
    height, width = (side // 2**num_stages for side in image_shape[:2])
    x = keras.layers.Dense(height * width * filters, name="to_grid")(x)
    return keras.layers.Reshape((height, width, filters), name="grid")(x)


def network_inputs(shape: tuple[int, ...], name: str, num_classes: int | None) -> Any:
    """Returns the symbolic inputs of a network: a tensor, or [tensor, labels]."""
    x = keras.Input(shape, name=name)
    return x if num_classes is None else [x, keras.Input((), dtype="int64", name="labels")]


def join_labels(given: Any, num_classes: int | None, **options: Any) -> Any:
    """Returns a tensor as it is, or [tensor, labels] as one, with labels as one-hot rows."""
    if num_classes is None:
        return given
    x = [given[0], one_hot(given[1], num_classes)]
    return keras.layers.Concatenate(name="with_labels", **options)(x)


def one_hot(labels: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Returns labels (batch,) as one-hot rows (batch, num_classes)."""
    return keras.layers.CategoryEncoding(num_classes, "one_hot", name="one_hot")(labels)
