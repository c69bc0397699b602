# %% [markdown]
# # Latent maps and interpolation
#
# A VAE with two latents can be drawn as a map: every point of a plane is an image.

# %%
import matplotlib.pyplot as plt
import numpy as np

import tfgen
from tfgen import plots

model = tfgen.load("vae_2d_mnist")

# %% [markdown]
# The plane, in equal steps of the prior's probability: each of the 12 x 12 cells is equally
# likely under the prior. The first latent grows to the right, the second upwards, both from -1.7
# to 1.7.

# %%
plots.manifold(model, side=12)

# %% [markdown]
# Where do digits of each class lie? A conditional GAN draws labelled digits, so no data set is
# needed.

# %%
labels = np.repeat(np.arange(10), 30)
digits = tfgen.load("cgan_mnist").sample(300, labels=labels, seed=0)
latents = np.asarray(model.encode(digits))
plt.figure(figsize=(6, 6))
for label in range(10):
    plt.scatter(*latents[labels == label].T, s=40, marker=f"${label}$")
plt.xlabel("first latent")
plt.ylabel("second latent")
plt.show()
spread = [latents[labels == label].std(0).mean() for label in range(10)]
print(f"all classes: spread {latents.std(0).mean():.2f}; within a class: {np.mean(spread):.2f}")

# %% [markdown]
# The prior's spread is 1, that of the digits 1.6: many of them lie outside the plane above, and the
# prior draws its crowded middle, where classes blend, too often. This is one reason why samples of
# a VAE are smeared.

# %% [markdown]
# Two latents are few: walks between classes pass through blends. A hierarchical VAE has far more,
# and its walks look better.

# %%
plots.interpolations(model, digits[:4], digits[-4:], 10)

# %%
plots.interpolations(tfgen.load("vae_mnist"), digits[:4], digits[-4:], 10)
