"""Layers and networks that two or more families use."""

import keras
import tensorflow as tf

__all__ = [
    "GreyToPixels",
    "SpectralNormalization",
    "SubPixel",
    "coupling_network",
    "decoder_network",
    "encoder_network",
    "one_hot",
    "outputs_per_channel",
    "residual_block",
]

ACTIVATION = "elu"


@keras.saving.register_keras_serializable("tfgen")
class GreyToPixels(keras.layers.Layer):
    """Maps grey values [0, 255] to pixels [-1, 1], and refuses images that were scaled before.

    Keras casts a model's inputs to float before a layer can see their dtype, so that images in
    [0, 1] would be taken as black. They are told by their values: not whole numbers, outside
    [0, 255], or a batch whose largest value lies in (0, 1].

    Input and output: float (batch, height, width, channels).

    Raises:
        ValueError: The values are not grey values (InvalidArgumentError inside a graph; XLA
            drops the check).
    """

    def call(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, self.compute_dtype)
        largest = tf.reduce_max(images)
        whole = tf.reduce_all(
            tf.equal(images, tf.round(images)) & (images >= 0.0) & (images <= 255.0)
        )
        fine = whole & ~((largest > 0.0) & (largest <= 1.0))
        message = (
            "images must be grey values, whole numbers in [0, 255] (uint8); received floats that "
            "look scaled already. Multiply by 255, round and cast to uint8."
        )
        if tf.executing_eagerly():
            if tf.size(images) > 0 and not bool(fine):
                raise ValueError(message)
        else:
            with tf.control_dependencies([tf.debugging.Assert(fine, [message])]):
                images = tf.identity(images)
        return images * (2.0 / 255.0) - 1.0

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("tfgen")
class SubPixel(keras.layers.Layer):
    """Turns channels into space (Shi et al., 2016).

        (batch, h, w, factor^2 c) -> (batch, factor h, factor w, c)

    Args:
        factor: By how much height and width grow.
    """

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return keras.ops.depth_to_space(inputs, self.factor, data_format="channels_last")

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, height * self.factor, width * self.factor, channels // self.factor**2

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("tfgen")
class SpectralNormalization(keras.layers.SpectralNormalization):
    """Keras' layer, whose state may also move on several replicas; it is the same on each."""

    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, **{"aggregation": "only_first_replica", **kwargs})


def residual_block(x, filters: int, name: str, wrap=lambda layer: layer):
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


def check_strides(image_shape: tuple[int, int, int], filters: tuple[int, ...]) -> None:
    """Raises ValueError unless every stage of stride 2 divides height and width."""
    if len(image_shape) != 3 or image_shape[2] not in (1, 3):
        raise ValueError(
            "image_shape must be (height, width, channels) with 1 or 3 channels; "
            f"received {tuple(image_shape)}."
        )
    if not filters or any(int(f) < 1 for f in filters):
        raise ValueError(f"filters must hold one positive width per stage; received {filters!r}.")
    factor = 2 ** len(filters)
    if image_shape[0] % factor or image_shape[1] % factor:
        raise ValueError(
            f"image_shape must be divisible by {factor} = 2^{len(filters)}, one stride of 2 for "
            f"each entry of filters; received {tuple(image_shape)} with filters={tuple(filters)}. "
            "Pad the images or use fewer filters."
        )


def encoder_network(
    image_shape: tuple[int, int, int],
    filters: tuple[int, ...],
    num_blocks: int,
    dense_units: int,
    num_classes: int | None = None,
) -> keras.Model:
    """Builds the convolutional trunk of an encoder.

    Stages of a 3x3 convolution with stride 2 and `num_blocks` residual blocks, then one dense
    layer: grey images (batch, *image_shape) [and labels (batch,)] -> (batch, dense_units).
    """
    check_strides(image_shape, filters)
    images = keras.Input(image_shape, name="images")
    x = GreyToPixels(name="pixels")(images)
    for stage, width in enumerate(filters):
        x = keras.layers.Conv2D(width, 3, 2, "same", name=f"stage_{stage}_conv")(x)
        for block in range(num_blocks):
            x = residual_block(x, width, f"stage_{stage}_block_{block}")
        x = keras.layers.Activation(ACTIVATION, name=f"stage_{stage}_activation")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    inputs = images
    if num_classes is not None:
        labels = keras.Input((), dtype="int64", name="labels")
        x = keras.layers.Concatenate(name="with_labels")([x, one_hot(labels, num_classes)])
        inputs = [images, labels]
    x = keras.layers.Dense(dense_units, activation=ACTIVATION, name="dense")(x)
    return keras.Model(inputs, x, name="encoder_trunk")


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
    """Builds a convolutional decoder: the encoder's stages in reverse, growing by sub-pixels.

    latents (batch, latent_dim) [and labels (batch,)] -> float32 (batch, height, width,
    num_outputs). It starts on the grid of height / 2^num_stages; each entry of `filters` is a
    stage at twice the size of the one before, and the last convolution grows the rest at once.
    """
    latents = keras.Input((latent_dim,), name="latents")
    inputs, x = latents, latents
    if num_classes is not None:
        labels = keras.Input((), dtype="int64", name="labels")
        x = keras.layers.Concatenate(name="with_labels")([x, one_hot(labels, num_classes)])
        inputs = [latents, labels]
    height, width = (side // 2**num_stages for side in image_shape[:2])
    x = keras.layers.Dense(dense_units, activation=ACTIVATION, name="dense")(x)
    x = keras.layers.Dense(height * width * filters[0], name="to_grid")(x)
    x = keras.layers.Reshape((height, width, filters[0]), name="grid")(x)
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
    return keras.Model(inputs, x, name="decoder")


def outputs_per_channel(pixel_distribution: str, num_levels: int, num_mixtures: int) -> int:
    """Returns how many network outputs a channel of a pixel needs for its distribution."""
    return {
        "bernoulli": 1,
        "categorical": num_levels,
        "discretized_logistic_mixture": 3 * num_mixtures,
        "gaussian": 1,
    }[pixel_distribution]


def coupling_network(latent_dim: int, units: int, name: str) -> keras.Model:
    """Builds a RealNVP coupling: the first latent_dim // 2 -> (shift, log scale) of the rest.

    The last layer starts at zero, so that the flow starts as the identity; |log scale| <= 2.
    """
    kept = latent_dim // 2
    x = inputs = keras.Input((kept,), name="kept")
    for index in range(2):
        x = keras.layers.Dense(units, activation=ACTIVATION, name=f"dense_{index}")(x)
    shift = keras.layers.Dense(
        latent_dim - kept, kernel_initializer="zeros", dtype="float32", name="shift"
    )(x)
    log_scale = keras.layers.Dense(
        latent_dim - kept,
        kernel_initializer="zeros",
        activation="tanh",
        dtype="float32",
        name="log_scale",
    )(x)
    log_scale = keras.layers.Rescaling(2.0, dtype="float32", name="bounded")(log_scale)
    return keras.Model(inputs, [shift, log_scale], name=name)


def one_hot(labels, num_classes: int):
    """Returns labels (batch,) as one-hot rows (batch, num_classes)."""
    return keras.layers.CategoryEncoding(num_classes, "one_hot", name="one_hot")(labels)
