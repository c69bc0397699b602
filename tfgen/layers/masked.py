"""Masked layers: what a position, or a group of units, may see of the others."""

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks
from tfgen.layers.basic import cut, matmul

__all__ = ["MASKS", "MaskedConv2D", "MaskedDense"]

MASKS = ("A", "B", "vertical_A", "vertical_B", "horizontal_A", "horizontal_B")


@keras.saving.register_keras_serializable("tfgen")
class MaskedConv2D(keras.layers.Layer):
    """A convolution over a grid that sees only what comes before its position in raster order.

    `#` is a tap, `.` a tap that the mask multiplies by zero, `o` the current position where it is
    not a tap, `@` where it is. Rows are counted from the top, the current row last:

        "A", (3, 5)      "B", (3, 5)      "vertical_A", (2, 3)   "vertical_B", (2, 3)
         # # # # #        # # # # #              # # #                  # # #
         # # # # #        # # # # #              # # #                  # @ #
         # # o . .        # # @ . .                o

                      "horizontal_A", (1, 3)   "horizontal_B", (1, 3)
                             # # # o                  # # @

    A and B (van den Oord et al., "Pixel recurrent neural networks", 2016) are what the first and
    the other layers of one stack need; such stacks are blind to a wedge to the right above. The
    vertical and horizontal pairs (van den Oord et al., "Conditional image generation with PixelCNN
    decoders", 2016) leave no blind spot: rows above go through the vertical ones, the current row
    through the horizontal ones.

        out(i, j) = bias + sum_rs mask(r, s) kernel(r, s) x(i + r, j + s)

    Input and output: float (batch, rows, columns, channels), the same grid; outside it are zeros.

    Args:
        filters: int. Channels of the output.
        kernel_size: (rows, columns) of the kernel; an odd number of columns except for the
            horizontal masks.
        mask: str. "A", "B", "vertical_A", "vertical_B", "horizontal_A" or "horizontal_B".
        use_bias: bool. Whether to add a bias. Defaults to True.

    Raises:
        ValueError: An unknown mask, or a kernel size that it cannot have.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: tuple[int, int],
        mask: str,
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        checks.one_of("mask", mask, MASKS)
        rows, columns = kernel_size
        horizontal = mask.startswith("horizontal")
        if rows < 1 or columns < 1 or (rows != 1 if horizontal else columns % 2 == 0):
            rule = "(1, columns)" if horizontal else "(rows, an odd number of columns)"
            raise ValueError(
                f"kernel_size must be {rule} for mask {mask!r}; received {kernel_size!r}."
            )
        self.filters, self.kernel_size, self.mask = filters, (rows, columns), mask
        self.use_bias = use_bias
        strict = mask.endswith("A")
        # Offsets of the kernel's first row and column from the current position.
        self.first_row = -rows if mask == "vertical_A" else 1 - rows
        self.first_column = (-columns if strict else 1 - columns) if horizontal else -(columns // 2)
        self.allowed = np.ones((rows, columns), bool)
        if mask in ("A", "B"):
            self.allowed[-1, columns // 2 + (not strict) :] = False
        # Whether the kernel's last row is the current one, known to the left only.
        current_row = mask in ("A", "B") or horizontal
        self.rows_above = rows - current_row
        self.num_left = -self.first_column if current_row else 0  # columns of the current row
        self.includes_center = current_row and not strict

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, input_shape[-1], self.filters),
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def masked_kernel(self) -> tf.Tensor:
        """Returns mask * kernel, (rows, columns, input channels, filters)."""
        kernel = keras.ops.cast(self.kernel, self.compute_dtype)
        if self.allowed.all():
            return kernel
        return kernel * self.allowed[..., None, None].astype("float32")

    def call(self, x):
        rows, columns = self.kernel_size
        last_row, last_column = self.first_row + rows - 1, self.first_column + columns - 1
        for axis, last in ((1, last_row), (2, min(last_column, 0))):
            x = cut(x, axis, 0, last) if last else x
        padding = [[0, 0], [-self.first_row, 0], [-self.first_column, max(last_column, 0)], [0, 0]]
        x = keras.ops.conv(keras.ops.pad(x, padding), self.masked_kernel(), padding="valid")
        return x + keras.ops.cast(self.bias, x.dtype) if self.use_bias else x

    def apply_rows_above(self, history: tf.Tensor) -> tf.Tensor:
        """Returns what the rows above add to a row of outputs, with the bias.

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

    def left_kernel(self) -> tf.Tensor:
        """Returns the matrix that `apply_left` multiplies by, (columns * channels, filters).

        Compute it outside the loop that calls `apply_left`: XLA multiplies element by element,
        slowly, by a weight that is reshaped inside the loop.
        """
        count = self.num_left + self.includes_center
        kernel = self.masked_kernel()[-1, :count]
        return tf.reshape(kernel, (count * self.kernel.shape[2], self.filters))

    def apply_left(self, columns: list[tf.Tensor], kernel: tf.Tensor) -> tf.Tensor | float:
        """Returns what the current row adds to one output, without the bias.

        Args:
            columns: The `num_left` columns to the left, the nearest last, and the current one if
                the layer `includes_center`; each (batch, channels).
            kernel: `left_kernel()`.

        Returns:
            (batch, filters); 0 for no columns.
        """
        if not columns:  # mask A one column wide
            return 0.0
        return tf.matmul(tf.concat(columns, -1), kernel)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "mask": self.mask,
            "use_bias": self.use_bias,
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
        units: int. Outputs per group.
        groups: int. How many groups.
        mask: str. "A": a group sees the groups before it; "B": itself too.
        use_bias: bool. Whether to add a bias. Defaults to True.

    Raises:
        ValueError: An unknown mask.
    """

    def __init__(self, units: int, groups: int, mask: str, use_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        checks.one_of("mask", mask, ("A", "B"))
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
        # By groups, or exports would hold a mask of the kernel's size.
        kernel = keras.ops.reshape(kernel, (self.groups, self.width, self.groups, self.units))
        x = keras.ops.matmul(x, keras.ops.reshape(kernel * self.allowed, shape))
        return x + keras.ops.cast(self.bias, x.dtype) if self.use_bias else x

    def group(self, x: tf.Tensor, index: int) -> tf.Tensor:
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
