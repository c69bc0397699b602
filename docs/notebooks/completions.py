# %% [markdown]
# # Completions and surprise
#
# A PixelCNN computes the probability of each pixel given the pixels before it. So it can draw the
# rest of an image, and it can tell which pixels it did not expect.

# %%
import matplotlib.pyplot as plt
import numpy as np

import tfgen
from tfgen import plots

model = tfgen.load("pixelcnn_binarized_mnist")
digits = model.sample(6, seed=0)

# %% [markdown]
# Keep the upper half, and draw the lower half four times:

# %%
mask = np.zeros((6, 28, 28, 1), bool)
mask[:, :14] = True
hidden = np.where(mask, digits, 128).astype("uint8")
ways = [model.complete(digits, mask, seed=100 * way) for way in range(4)]
plt.figure(figsize=(5, 5))
plt.imshow(plots.rows(hidden, *ways, digits), cmap="gray")
plt.axis("off")
plt.show()
assert all((way[:, :14] == digits[:, :14]).all() for way in ways)

# %% [markdown]
# Surprise is -log p of a pixel given those before it, in nats. It lights up where a stroke turns
# or ends. Now spoil one digit with a white bar, and look again.

# %%
spoiled = digits.copy()
spoiled[:, 20:22, 4:10] = 255
surprise = [-model.log_likelihood_map(batch) for batch in (digits, spoiled)]
figure, axes = plt.subplots(2, 6, figsize=(8, 3))
for row, batch in zip(axes, surprise, strict=True):
    for axis, picture in zip(row, batch, strict=True):
        axis.imshow(np.squeeze(picture), vmin=0, vmax=4)
        axis.axis("off")
plt.show()
print([f"{batch.reshape(6, -1).sum(1).mean():.0f} nats" for batch in surprise])
assert surprise[1].sum() > surprise[0].sum()
