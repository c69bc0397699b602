# %% [markdown]
# # A GAN, watched while it trains
#
# A GAN has no single loss that says whether it gets better, so you look at its samples. Here a
# small one learns scikit-learn's 8x8 digits; a Keras callback draws the same seeds every
# twelve epochs.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

import tfgen
from tfgen import data, plots

images, _ = data.arrays("digits", "train")
print(images.shape)

# %%
model = tfgen.GAN(
    image_shape=(8, 8, 1), latent_dim=16, filters=(32, 64), r1=1.0, ema_momentum=0.98, num_levels=17
)
model.compile()


class Watch(keras.callbacks.Callback):
    """Keeps what eight fixed seeds look like."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 12 == 0:
            self.rows.append(self.model.sample(8, seed=0))
            print(f"epoch {epoch + 1}: " + ", ".join(f"{k} {v:.2f}" for k, v in logs.items()))


watch = Watch()
history = model.fit(images, batch_size=64, epochs=61, callbacks=[watch], verbose=0)

# %% [markdown]
# One row per drawing, one column per seed:

# %%
plt.figure(figsize=(5, 4))
plt.imshow(plots.grid(np.concatenate(watch.rows), 8, padding=1), cmap="gray")
plt.axis("off")
plt.show()

# %% [markdown]
# The losses do not fall to 0: they are a balance between the two networks. Where the discriminator
# can no longer tell, it says 1/2: its loss is 2 log 2 = 1.39 (plus the R1 penalty), the generator's
# is log 2 = 0.69, and both accuracies are about a half. Accuracies that go back to 1 late in a
# training are a warning: look at the samples.

# %%
assert len(np.unique(watch.rows[-1], axis=0)) == 8, "the generator has collapsed"
plots.curves(history)
