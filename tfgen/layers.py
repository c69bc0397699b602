"""Layers and networks that two or more families use."""

import math

import keras
import numpy as np
import tensorflow as tf

from tfgen import noise

__all__ = [
    "GreyToPixels",
    "MaskedConv2D",
    "MaskedDense",
    "SpectralNormalization",
    "SubPixel",
    "coupling_network",
    "decoder_network",
    "dropped",
    "encoder_network",
    "matmul",
    "one_hot",
    "outputs_per_channel",
    "residual_block",
]

ACTIVATION = "elu"
MASKS = ("A", "B", "vertical_A", "vertical_B", "horizontal_A", "horizontal_B")


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


@keras.saving.register_keras_serializable("tfgen")
class MaskedConv2D(keras.layers.Layer):
    """A convolution over a grid that sees only what comes before its own position in raster order.

    `#` is a tap, `.` a tap that the mask multiplies by zero, `o` the output's own position where it
    is no tap, `@` where it is one. Rows are counted from the top, the own position's row last:

        "A", (3, 5)      "B", (3, 5)      "vertical_A", (2, 3)   "vertical_B", (2, 3)
         # # # # #        # # # # #              # # #                  # # #
         # # # # #        # # # # #              # # #                  # @ #
         # # o . .        # # @ . .                o

                      "horizontal_A", (1, 3)   "horizontal_B", (1, 3)
                             # # # o                  # # @

    A and B (van den Oord et al., "Pixel recurrent neural networks", 2016) are what the first and
    the other layers of one stack need; such stacks are blind to a wedge to the right above. The
    vertical and horizontal pairs (van den Oord et al., "Conditional image generation with PixelCNN
    decoders", 2016) leave no blind spot: rows above go through the vertical ones, in which "B"
    includes the own row because that row's features hold the rows above alone, and the own row
    through the horizontal ones.

        out(i, j) = bias + sum_rs mask(r, s) kernel(r, s) x(i + r, j + s)

    Input and output: float (batch, rows, columns, channels), the same grid; outside it are zeros.

    Args:
        filters: Channels of the output.
        kernel_size: (rows, columns) of the kernel; columns odd but for the horizontal ones.
        mask: "A", "B", "vertical_A", "vertical_B", "horizontal_A" or "horizontal_B".
        use_bias: Whether to add a bias.

    Raises:
        ValueError: An unknown mask, or a kernel size that it cannot have.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: tuple[int, int],
        mask: str,
        use_bias: bool = True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if mask not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}; received {mask!r}.")
        rows, columns = kernel_size
        horizontal = mask.startswith("horizontal")
        if rows < 1 or columns < 1 or (rows != 1 if horizontal else columns % 2 == 0):
            rule = "(1, columns)" if horizontal else "(rows, an odd number of columns)"
            raise ValueError(
                f"kernel_size must be {rule} for mask {mask!r}; received {kernel_size!r}."
            )
        self.filters, self.kernel_size, self.mask = filters, (rows, columns), mask
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        strict = mask.endswith("A")
        # Offsets of the kernel's first row and column from the own position.
        self.first_row = -rows if mask == "vertical_A" else 1 - rows
        self.first_column = (-columns if strict else 1 - columns) if horizontal else -(columns // 2)
        self.allowed = np.ones((rows, columns), bool)
        if mask in ("A", "B"):
            self.allowed[-1, columns // 2 + (not strict) :] = False
        own_row = mask in ("A", "B") or horizontal
        # Of the kernel's rows, the last one if it is the own one and is seen from left to right.
        self.rows_above = rows - own_row
        self.left = -self.first_column if own_row else 0  # columns to the left in the own row
        self.sees_itself = own_row and not strict

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, input_shape[-1], self.filters),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def masked_kernel(self):
        """Returns mask * kernel, (rows, columns, input channels, filters)."""
        kernel = keras.ops.cast(self.kernel, self.compute_dtype)
        if self.allowed.all():
            return kernel
        return kernel * self.allowed[..., None, None].astype("float32")

    def call(self, x):
        rows, columns = self.kernel_size
        last_row, last_column = self.first_row + rows - 1, self.first_column + columns - 1
        height, width = x.shape[1:3]
        x = x[:, : height + last_row, : width + min(last_column, 0)]
        padding = [[0, 0], [-self.first_row, 0], [-self.first_column, max(last_column, 0)], [0, 0]]
        x = keras.ops.conv(keras.ops.pad(x, padding), self.masked_kernel(), padding="valid")
        return x + keras.ops.cast(self.bias, x.dtype) if self.use_bias else x

    def above(self, history):
        """Returns what the rows above give to a row of outputs, with the bias.

        Args:
            history: (rows_above, columns, batch, channels), the nearest row last.

        Returns:
            (columns, batch, filters).
        """
        columns = self.kernel_size[1]
        width = history.shape[1]
        right = max(self.first_column + columns - 1, 0)
        padded = tf.pad(history, [[0, 0], [-self.first_column, right], [0, 0], [0, 0]])
        taps = [
            padded[row, column : column + width]
            for row in range(self.rows_above)
            for column in range(columns)
        ]
        kernel = self.masked_kernel()[: self.rows_above]
        kernel = tf.reshape(kernel, (-1, self.filters))
        out = matmul(tf.concat(taps, -1), kernel)
        return out + tf.cast(self.bias, out.dtype) if self.use_bias else out

    def kernel_beside(self) -> tf.Tensor:
        """Returns what `beside` multiplies by, (columns * channels, filters).

        A loop that calls `beside` should take it from outside: XLA runs a product of one row with a
        weight that is reshaped in the loop element by element.
        """
        count = self.left + self.sees_itself
        kernel = self.masked_kernel()[-1, :count]
        return tf.reshape(kernel, (count * self.kernel.shape[2], self.filters))

    def beside(
        self, columns: list[tf.Tensor], kernel: tf.Tensor | None = None
    ) -> tf.Tensor | float:
        """Returns what the own row gives to one output, without the bias.

        Args:
            columns: The `left` columns before the own one, the nearest last, and the own one if
                the layer `sees_itself`, each (batch, channels).
            kernel: `kernel_beside()`.

        Returns:
            (batch, filters); 0 for no columns.
        """
        if not columns:  # mask A one column wide
            return 0.0
        return tf.matmul(tf.concat(columns, -1), self.kernel_beside() if kernel is None else kernel)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "mask": self.mask,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable("tfgen")
class MaskedDense(keras.layers.Layer):
    """A dense layer between groups of units, in which a group sees only the groups before it.

    Three groups, the colour channels of a pixel say; rows are inputs, columns outputs:

             A  R G B        B  R G B
             R  . # #        R  # # #
             G  . . #        G  . # #
             B  . . .        B  . . #

    As a 1x1 convolution on every position these are the channel masks of PixelRNN and PixelCNN
    (van den Oord et al., 2016): A from the pixel's own values, B in the layers after that.

    Input: float (..., groups * any); output: float (..., groups * units).

    Args:
        units: Outputs per group.
        groups: How many groups.
        mask: "A": a group sees those before it; "B": itself too.
        use_bias: Whether to add a bias.

    Raises:
        ValueError: An unknown mask.
    """

    def __init__(self, units: int, groups: int, mask: str, use_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        if mask not in ("A", "B"):
            raise ValueError(f"mask must be 'A' or 'B'; received {mask!r}.")
        self.units, self.groups, self.mask, self.use_bias = units, groups, mask, use_bias

    def build(self, input_shape):
        self.width = input_shape[-1] // self.groups  # inputs per group
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], self.groups * self.units)
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.groups * self.units,), initializer="zeros"
            )
        allowed = np.triu(np.ones((self.groups, self.groups)), 1 if self.mask == "A" else 0)
        self.allowed = allowed[:, None, :, None].astype("float32")

    def call(self, x):
        kernel = keras.ops.cast(self.kernel, self.compute_dtype)
        shape = kernel.shape
        # By groups: a mask of the kernel's own size would stand in every exported graph.
        kernel = keras.ops.reshape(kernel, (self.groups, self.width, self.groups, self.units))
        x = keras.ops.matmul(x, keras.ops.reshape(kernel * self.allowed, shape))
        return x + keras.ops.cast(self.bias, x.dtype) if self.use_bias else x

    def group(self, x, index: int):
        """Returns one group's outputs, (batch, units).

        Args:
            x: (batch, channels): the groups that it sees, in order.
            index: Which group, one that sees any.
        """
        seen = index + (self.mask == "B")
        own = slice(index * self.units, (index + 1) * self.units)
        x = tf.matmul(x, tf.cast(self.kernel, self.compute_dtype)[: seen * self.width, own])
        return x + tf.cast(self.bias[own], x.dtype) if self.use_bias else x

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.groups * self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "groups": self.groups,
            "mask": self.mask,
            "use_bias": self.use_bias,
        }


def matmul(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns x (..., n) times kernel (n, m) as one product of two matrices, (..., m)."""
    if x.shape.rank == 2:
        return tf.matmul(x, kernel)
    leading = tf.shape(x)[:-1]
    product = tf.matmul(tf.reshape(x, (-1, kernel.shape[0])), kernel)
    return tf.reshape(product, tf.concat([leading, [kernel.shape[1]]], 0))


def dropped(x, rate: float, seeds: tf.Tensor | None, stream: int):
    """Zeroes a share of `x` (batch, ...) by each image's own seed, and scales up the rest.

    A byte of noise decides on each number, so the share is `rate` to 1/256. Without seeds it
    returns `x`.
    """
    threshold = round(rate * 256)
    if seeds is None or not threshold:
        return x
    count = math.prod(x.shape[1:])
    words = noise.bits(seeds, -(-count // 4), stream)  # (batch, words)
    drawn = tf.reshape(tf.bitcast(words, tf.uint8), (tf.shape(words)[0], -1))[:, :count]
    kept = tf.reshape(tf.cast(drawn, tf.int32) >= threshold, tf.shape(x))
    return tf.where(kept, x * (256.0 / (256 - threshold)), tf.zeros_like(x))


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
    stem: int = 0,
) -> keras.Model:
    """Builds the convolutional trunk of an encoder.

    Stages of a 3x3 convolution with stride 2 and `num_blocks` residual blocks, then one dense
    layer: grey images (batch, *image_shape) [and labels (batch,)] -> (batch, dense_units). With
    `stem` above 0, a convolution of that many channels and one residual block come first, at full
    size.
    """
    check_strides(image_shape, filters)
    images = keras.Input(image_shape, name="images")
    x = GreyToPixels(name="pixels")(images)
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
