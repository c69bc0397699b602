"""The families, by name."""

from tfgen.models.autoencoder import AutoEncoder
from tfgen.models.vae import VAE

__all__ = ["FAMILIES", "family"]

FAMILIES = {cls.__name__: cls for cls in (AutoEncoder, VAE)}


def family(name: str) -> type:
    """Returns the model class of that name, or raises ValueError with the names there are."""
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; received {name!r}.")
    return FAMILIES[name]
