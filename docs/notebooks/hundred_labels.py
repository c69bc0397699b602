# %% [markdown]
# # A classifier from 100 labels
#
# The encoder of `ae_mnist` has seen 50,000 digits without their labels. Here it becomes a
# classifier with ten labelled images of each class, next to the same network from scratch.
#
# This is one draw of the images and one learning rate, on 2,000 test images.
# `benchmarks/fine_tuning.py` compares more carefully (five draws, learning rates chosen on
# validation images); it has not been run on `ae_mnist` yet.

# %%
import keras
import numpy as np

import tfgen
from tfgen import data

images, labels = data.arrays("mnist", "train")
test_images, test_labels = (array[:2000] for array in data.arrays("mnist", "test"))
rng = np.random.default_rng(0)
chosen = np.concatenate(
    [rng.choice(np.flatnonzero(labels == label), 10, replace=False) for label in range(10)]
)


# %%
def accuracy(load_weights):
    """Trains a classifier on the 100 images; returns its test accuracy."""
    keras.utils.set_random_seed(0)
    encoder = tfgen.load("ae_mnist", load_weights=load_weights).encoder
    classifier = keras.Sequential([encoder, keras.layers.Dense(10)])
    classifier.compile(
        keras.optimizers.Adam(0.001),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    classifier.fit(images[chosen], labels[chosen], batch_size=20, epochs=25, verbose=0)
    return classifier.evaluate(test_images, test_labels, batch_size=500, verbose=0)[1]


pretrained, scratch = accuracy(True), accuracy(False)
print(f"pretrained {100 * pretrained:.1f} %, from scratch {100 * scratch:.1f} %")
assert pretrained > scratch
