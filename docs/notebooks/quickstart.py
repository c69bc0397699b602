# %% [markdown]
# # Quickstart
#
# Load a trained model, draw images, encode them, walk between them, and ask how probable they
# are.

# %%
import tfgen
from tfgen import plots

print(tfgen.list_models())

# %% [markdown]
# Images are uint8 arrays (batch, height, width, channels). Image i of `sample(n, seed=s)` has the
# seed s + i, so every image can be asked for again.

# %%
model = tfgen.load("vae_mnist")
digits = model.sample(24, seed=0)
print(digits.dtype, digits.shape)
print((model.sample(1, seed=5)[0] == digits[5]).mean())  # 1.0, or almost: batches round differently
plots.show(digits, columns=12)

# %% [markdown]
# `encode` gives one vector of latents per image, `decode` turns it back into an image. This model
# has latents at several resolutions, from the kind of digit down to the edges of its strokes.

# %%
latents = model.encode(digits)
print(latents.shape, model.decode(latents).shape)
plots.reconstructions(model, digits[:12])

# %% [markdown]
# A straight line between the latents of two images passes through images that look like digits.

# %%
plots.interpolations(model, digits[:2], digits[2:4], 12)

# %% [markdown]
# A VAE gives a lower bound of log p(x), in nats per image. More samples make it tighter. (These
# images are averages of p(x given z), so their likelihood differs from that of real digits.)

# %%
for num_samples in (1, 10):
    bound = model.log_likelihood(digits, num_samples=num_samples, seed=0)
    print(f"{num_samples:3} samples: {bound.mean():.1f} nats per image")
