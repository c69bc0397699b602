# %% [markdown]
# # Fine-tune on your own images
#
# A folder of images is all it takes. This notebook makes one, of thick dark digits on white, and
# goes on training a model of the zoo with it. For your own images, put the path of your folder into
# the recipe. If they are not 28x28, also add `size=28`, which scales and crops them. For images in
# colour set `model={**start.model, "image_shape": (28, 28, 3)}`, too: the layers that no longer fit
# start from scratch.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import tfgen
from tfgen import Recipe, plots, training

folder = Path("thick_digits")
for label in range(10):
    (folder / str(label)).mkdir(parents=True, exist_ok=True)
labels = np.repeat(np.arange(10), 40)
digits = tfgen.load("cgan_mnist").sample(400, labels=labels, seed=0)
for index, (digit, label) in enumerate(zip(digits, labels, strict=True)):
    thick = np.maximum(digit, np.roll(digit, 1, 1))
    Image.fromarray(255 - thick[..., 0]).save(folder / str(label) / f"{index:04}.png")

# %% [markdown]
# The recipe starts from the weights of `vae_2d_mnist` (`init_from`) and runs for a few epochs. With
# `resume=True` a second run of the cell loads the trained model. To train again, for example on
# other images, delete `runs/thick_digits`.

# %%
start = tfgen.zoo.load_recipe("vae_2d_mnist")
recipe = Recipe(
    family=start.family,
    model=start.model,
    data=str(folder),
    init_from="vae_2d_mnist",
    batch_size=50,
    epochs=10,
    warmup_steps=5,
    learning_rate=0.002,
    ema_momentum=0.5,
)
model = training.train(recipe, "runs/thick_digits", resume=True, verbose=0)

# %% [markdown]
# Before and after:

# %%
before = tfgen.load("vae_2d_mnist").sample(10, seed=0)
after = model.sample(10, seed=0)
plt.figure(figsize=(7, 2))
pair = [images.repeat(after.shape[-1] // images.shape[-1], -1) for images in (before, after)]
plt.imshow(plots.rows(*pair), cmap="gray")
plt.axis("off")
plt.show()
print(f"mean grey value before {before.mean():.0f}, after {after.mean():.0f}")
assert after.mean() > before.mean() + 50, "these images have a white background; yours may not"
