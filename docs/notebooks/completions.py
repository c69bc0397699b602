# %% [markdown]
# # Completions and surprise
#
# A PixelCNN computes the probability of each pixel given the pixels before it. So it can draw the
# rest of an image, and it can tell which pixels it did not expect.

# %%
import numpy as np

import tfgen
from tfgen import plots

model = tfgen.load("pixelcnn_binarized_mnist")
digits = model.sample(6, seed=0)

# %% [markdown]
# Keep the upper half, and draw the lower half four times:

# %%
plots.completions(model, digits[:4], ways=4)

# %% [markdown]
# The same by hand, with a mask that is true where pixels are kept:

# %%
mask = np.zeros((6, 28, 28, 1), bool)
mask[:, :14] = True
others = model.complete(digits, mask, seed=100)
assert (others[:, :14] == digits[:, :14]).all()

# %% [markdown]
# Surprise is -log2 p of a pixel given those before it, in bits. It is high where a stroke begins,
# turns or ends. The map reads the pixels in the first of the model's eight orders, so its bits are
# not those of `log_likelihood`, which mixes all of them.

# %%
plots.surprise(model, digits)

# %% [markdown]
# Now spoil the digits with a white bar, and look again.

# %%
spoiled = digits.copy()
spoiled[:, 20:22, 4:10] = 255
before, after = (-model.log_likelihood(batch).mean() for batch in (digits, spoiled))
print(f"{before:.0f} nats per digit, {after:.0f} with the bar")
assert after > before
plots.surprise(model, spoiled)

# %% [markdown]
# Only the start of the bar surprises: given its first pixels, the model expects it to go on. The
# scale is that of the brightest pixel, so the rest looks darker than before.
