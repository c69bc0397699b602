# %% [markdown]
# # Anomaly detection by likelihood, and its known failure
#
# A model that knows p(x) should give strange images a low probability. It often does, and
# sometimes fails badly. Both are shown here with the exact likelihoods of a PixelCNN. Digits drawn
# by `gan_mnist` stand in for real ones, so that nothing has to be downloaded.

# %%
import matplotlib.pyplot as plt
import numpy as np

import tfgen
from tfgen import plots

model = tfgen.load("pixelcnn_binarized_mnist")
rng = np.random.default_rng(0)


def binary(images):
    """Returns images of the model's two levels."""
    return np.where(images > 127, 255, 0).astype("uint8")


digits = binary(tfgen.load("gan_mnist").sample(40, seed=0))
groups = {
    "digits": digits,
    "flipped digits": digits[:, ::-1],
    "two digits at once": np.maximum(digits, digits[::-1]),
    "noise": binary(rng.integers(0, 256, digits.shape)),
    "nearly black": np.where(rng.random(digits.shape) < 0.002, 255, 0).astype("uint8"),
    "black": np.zeros_like(digits),
}
plt.figure(figsize=(7, 5))
plt.imshow(plots.rows(*(images[:8] for images in groups.values())), cmap="gray")
plt.axis("off")
plt.show()

# %% [markdown]
# Two digits at once and noise are found: their likelihood is lower. Flipped digits are harder,
# since some look the same. The area under the ROC curve is the chance that a strange image has a
# lower likelihood than a digit; 0.5 is guessing.
#
# (The digits' mean is above the -79.60 of the model's card. Cut at a threshold, they have smoother
# edges than the randomly binarised images that the model was trained on. Preparing images in
# another way moves a likelihood as much as flipping them does, so compare only images that were
# prepared alike.)

# %%
log_p = {name: model.log_likelihood(images) for name, images in groups.items()}
area = {name: np.mean(values[:, None] < log_p["digits"]) for name, values in log_p.items()}
for name, values in log_p.items():
    print(f"{name:20} log p {values.mean():9.1f}   area {area[name]:.2f}")
assert area["noise"] == 1.0
assert area["two digits at once"] > 0.9
assert 0.5 < area["flipped digits"] < area["two digits at once"]

# %% [markdown]
# **The failure**: black images are not digits, yet they have a higher likelihood than nearly
# every digit. Simple images are easy to predict pixel by pixel, so a density is high where there is
# little to say (Nalisnick et al., "Do deep generative models know what they don't know?", 2019).

# %%
assert area["black"] < 0.1
assert area["nearly black"] < 0.3

# %% [markdown]
# A partial remedy is to ask whether the likelihood is *typical*, neither too low nor too high:

# %%
centre, spread = np.median(log_p["digits"]), log_p["digits"].std()
typical = {name: np.abs(values - centre) / spread for name, values in log_p.items()}
for name, distance in typical.items():
    print(f"{name:20} {distance.mean():5.1f} standard deviations from typical")
assert typical["black"].mean() > typical["digits"].mean()

# %% [markdown]
# Black images are now far from typical, but flipped digits are hardly farther than digits: they
# still pass.
