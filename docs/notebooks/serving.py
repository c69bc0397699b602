# %% [markdown]
# # Export a model and call it over the network
#
# A SavedModel needs neither Keras nor tfgen to run. TensorFlow Serving takes a folder of them;
# `tfgen serve` speaks the same protocol, for trying things out. It needs
# `pip install ".[serving]"` in the clone.

# %%
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np

import tfgen
from tfgen import plots
from tfgen.serving import Client

model = tfgen.load("vae_2d_mnist")
print(model.export("models/vae_2d_mnist").name)  # the version

# %% [markdown]
# In production, run TensorFlow Serving on this folder (which has
# [not been tried](../exports.md#what-was-never-run) yet):
#
# ```bash
# docker run -p 127.0.0.1:8501:8501 -v "$PWD/models:/models" \
#   -e MODEL_NAME=vae_2d_mnist tensorflow/serving
# ```
#
# Here we use the local server instead. Port 0 means any free port, which the server reports when
# it is ready.

# %%
server = subprocess.Popen(
    [
        *(sys.executable, "-m", "tfgen_command", "serve", "--models", "models"),
        *("--engine", "local", "--port", "0", "--grpc-port", "0"),
    ],
    stderr=subprocess.PIPE,
    text=True,
)
said = []
for line in server.stderr:
    said.append(line)
    if address := re.search(r"http://\S+:\d+", line):
        break
else:
    raise RuntimeError("".join(said))
print(address[0])

# %% [markdown]
# The client sends and receives arrays. The images have the same bytes as those of the model in
# Python, if the batch is the same.

# %%
with Client(address[0]) as client:
    images = client.predict("vae_2d_mnist", {"seed": [0, 1, 2, 3]}, "sample")["images"]
    latents = client.predict("vae_2d_mnist", {"images": images}, "encode")["latents"]
server.terminate()
server.wait()
plt.imshow(plots.grid(images, 4), cmap="gray")
plt.axis("off")
plt.show()
assert np.array_equal(images, model.sample(4, seed=0))
print(latents)
