"""The families. Importing them enters them in Keras' registry, where `tfgen.families` looks."""

from tfgen.models.autoencoder import AutoEncoder
from tfgen.models.classifier import Classifier
from tfgen.models.gan import GAN
from tfgen.models.hierarchical_vae import HierarchicalVAE
from tfgen.models.pixel_cnn import PixelCNN
from tfgen.models.pixel_ensemble import PixelEnsemble
from tfgen.models.pixel_rnn import PixelRNN
from tfgen.models.vae import VAE

__all__ = [
    "GAN",
    "VAE",
    "AutoEncoder",
    "Classifier",
    "HierarchicalVAE",
    "PixelCNN",
    "PixelEnsemble",
    "PixelRNN",
]
