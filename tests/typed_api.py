"""A user's code, with the types that an editor must know. Pyright checks it; nothing runs it."""

from pathlib import Path
from typing import assert_type

import numpy as np

import tfgen
from tfgen import GAN, VAE, GenerativeModel, PixelCNN, Recipe, zoo
from tfgen.models.classifier import Classifier


def use() -> None:
    model = tfgen.load("vae_mnist")
    assert_type(model, GenerativeModel)
    assert_type(tfgen.list_models("vae_*"), list[str])
    assert_type(zoo.load_evaluator("classifier_mnist"), Classifier)

    images = model.sample(3, seed=0)
    assert_type(images, np.ndarray)
    assert_type(model.log_likelihood(images, num_samples=5), np.ndarray)
    assert_type(model.reconstruct(images), np.ndarray)
    assert_type(model.encode(images), np.ndarray)
    assert_type(model.interpolate(images, images, steps=4), np.ndarray)
    assert_type(model.capabilities, frozenset[str])
    assert_type(model.save_to_preset("folder", half=True), Path)
    assert_type(model.export("folder"), Path)
    assert_type(model.freeze("encoder"), list[str])
    assert_type(VAE.from_preset("vae_2d_mnist"), VAE)
    assert_type(GAN.from_preset("gan_mnist").score(images), np.ndarray)
    assert_type(PixelCNN((8, 8, 1)).complete(images, images > 0), np.ndarray)
    assert_type(zoo.load_recipe("vae_mnist"), Recipe)
