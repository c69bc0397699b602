"""tfgen: deep generative image models for Keras 3 and TensorFlow, trained and measured.

The families are imported at once, because `keras.models.load_model` finds classes only in Keras'
registry. All else is imported when it is first used.
"""

import importlib as _importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from tfgen import backend as _backend  # noqa: F401, the first import: it checks Keras' settings
from tfgen import optimizers as _optimizers  # noqa: F401, part of what `load_model` has to find
from tfgen.models.autoencoder import AutoEncoder
from tfgen.models.classifier import Classifier
from tfgen.models.gan import GAN
from tfgen.models.generative import GenerativeModel
from tfgen.models.hierarchical_vae import HierarchicalVAE
from tfgen.models.pixel_cnn import PixelCNN
from tfgen.models.pixel_ensemble import PixelEnsemble
from tfgen.models.pixel_rnn import PixelRNN
from tfgen.models.vae import VAE
from tfgen.recipe import Recipe
from tfgen.zoo import list_models, load

if TYPE_CHECKING:
    from tfgen import data, evaluation, export, pixels, plots, serving, training, zoo

__all__ = [
    "GAN",
    "VAE",
    "AutoEncoder",
    "Classifier",
    "GenerativeModel",
    "HierarchicalVAE",
    "PixelCNN",
    "PixelEnsemble",
    "PixelRNN",
    "Recipe",
    "__version__",
    "data",
    "evaluation",
    "export",
    "list_models",
    "load",
    "pixels",
    "plots",
    "serving",
    "training",
    "zoo",
]
__version__ = _version("tfgen")


def __getattr__(name: str):
    if name in __all__:
        return _importlib.import_module(f"tfgen.{name}")
    raise AttributeError(f"module 'tfgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
