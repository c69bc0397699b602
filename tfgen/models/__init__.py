"""The families, by name."""

from tfgen.models.autoencoder import AutoEncoder
from tfgen.models.classifier import Classifier
from tfgen.models.gan import GAN
from tfgen.models.pixel_cnn import PixelCNN
from tfgen.models.pixel_rnn import PixelRNN
from tfgen.models.vae import VAE

__all__ = ["EVALUATORS", "FAMILIES", "family"]

FAMILIES = {cls.__name__: cls for cls in (AutoEncoder, VAE, GAN, PixelCNN, PixelRNN)}
EVALUATORS = {cls.__name__: cls for cls in (Classifier,)}


def family(name: str) -> type:
    """Returns the model class of that name, or raises ValueError with the names there are."""
    known = FAMILIES | EVALUATORS
    if name not in known:
        raise ValueError(f"family must be one of {', '.join(known)}; received {name!r}.")
    return known[name]
