"""tfgen: deep generative image models for Keras 3 and TensorFlow, trained and measured."""

from importlib.metadata import version

from tfgen import data, pixels, zoo
from tfgen.models.autoencoder import AutoEncoder
from tfgen.models.gan import GAN
from tfgen.models.generative import GenerativeModel
from tfgen.models.pixel_cnn import PixelCNN
from tfgen.models.pixel_rnn import PixelRNN
from tfgen.models.vae import VAE

__all__ = [
    "GAN",
    "VAE",
    "AutoEncoder",
    "GenerativeModel",
    "PixelCNN",
    "PixelRNN",
    "data",
    "pixels",
    "zoo",
]
__version__ = version("tfgen")
