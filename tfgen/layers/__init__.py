"""Layers and networks that two or more families use."""

from tfgen.layers.basic import (
    GreyToPixels,
    SpectralNormalization,
    SubPixel,
    checked_greys,
    cut,
    leading_shape,
    matmul,
    seeded_dropout,
)
from tfgen.layers.masked import MASKS, MaskedConv2D, MaskedDense
from tfgen.layers.networks import (
    check_image_shape,
    check_strides,
    decoder_network,
    encoder_network,
    one_hot,
    residual_block,
)

__all__ = [
    "MASKS",
    "GreyToPixels",
    "MaskedConv2D",
    "MaskedDense",
    "SpectralNormalization",
    "SubPixel",
    "check_image_shape",
    "check_strides",
    "checked_greys",
    "cut",
    "decoder_network",
    "encoder_network",
    "leading_shape",
    "matmul",
    "one_hot",
    "residual_block",
    "seeded_dropout",
]
