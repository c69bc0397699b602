# %% [markdown]
# # Quickstart
#
# Load a trained model, draw images, encode them, walk between them, and ask how probable they
# are.

# %%
import matplotlib.pyplot as plt

import tfgen
from tfgen import plots


def show(images, columns=None):
    """Shows a batch of uint8 images as one picture."""
    plt.figure(figsize=(7, 3))
    plt.imshow(plots.grid(images, columns), cmap="gray", vmin=0, vmax=255)
    plt.axis("off")
    plt.show()


print(tfgen.list_models())

# %% [markdown]
# Images are uint8 arrays (batch, height, width, channels). Image i of `sample(n, seed=s)` has the
# seed s + i, so every image can be asked for again.

# %%
model = tfgen.load("vae_mnist")
digits = model.sample(24, seed=0)
print(digits.dtype, digits.shape)
show(digits, columns=12)
assert (model.sample(1, seed=5)[0] == digits[5]).all()

# %% [markdown]
# `encode` gives 32 numbers per image, `decode` turns them back into an image.

# %%
latents = model.encode(digits)
again = model.decode(latents)
show([*digits[:12], *again[:12]], columns=12)

# %% [markdown]
# A straight line between the latents of two images passes through images that look like digits.

# %%
walk = model.interpolate(digits[:2], digits[2:4], 12)
show(walk.reshape(-1, *digits.shape[1:]), columns=12)

# %% [markdown]
# A VAE gives a lower bound of log p(x), in nats per image. More samples make it tighter. (These
# images are averages of p(x given z) with soft edges, so they are less likely than real digits.)

# %%
for num_samples in (1, 10):
    bound = model.log_likelihood(digits, num_samples, seed=0)
    print(f"{num_samples:3} samples: {bound.mean():.1f} nats per image")
