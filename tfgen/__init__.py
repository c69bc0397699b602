"""tfgen: deep generative image models for Keras 3 and TensorFlow, trained and measured."""

from tfgen.models.vae import VAE

__version__ = "0.1.0"
