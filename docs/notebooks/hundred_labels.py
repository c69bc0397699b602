# %% [markdown]
# # A classifier from 100 labels
#
# The encoder of `ae_mnist` has seen 50,000 digits without their labels. With ten labelled images
# of each class it makes a better classifier than the same network from scratch.
# `benchmarks/fine_tuning.py` does this with care: five draws, learning rates chosen on validation
# images.
#
# (`vae_mnist` would not be fair here: half of its training images came with their labels.)

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
