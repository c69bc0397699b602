"""Layers and networks that two or more families use."""

from tfgen.layers.basic import (
    CHECKED,
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
    grid_of,
    join_labels,
    network_inputs,
    one_hot,
    residual_block,
)

__all__ = [
    "CHECKED",
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
    "grid_of",
    "join_labels",
    "leading_shape",
    "matmul",
    "network_inputs",
    "one_hot",
    "residual_block",
    "seeded_dropout",
]
