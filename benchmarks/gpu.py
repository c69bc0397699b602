"""Prepares a measurement on a machine with a GPU that has JAX and no TensorFlow.

    python benchmarks/gpu.py OUT [--entries vae_mnist gan_mnist ...] [--batches 1 16 256 1024]
    python benchmarks/gpu/measure.py OUT        # on the GPU's machine: needs numpy and jax alone

For each entry and batch size OUT receives a StableHLO export and, next to it, inputs and the
answers of this machine's CPU. For each entry whose training is asked for it receives one step in
float32 and one in bfloat16, as gpu/lower.py writes them. measure.py compares the GPU's answers with
the CPU's and times each call.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).with_name("gpu")))

import lower
import numpy as np

import tfgen

ENDPOINTS = ("sample", "decode", "log_likelihood")
# One entry for each family but PixelEnsemble, whose training step is one for every hidden class.
ENTRIES = (
    *("ae_mnist", "vae_2d_mnist", "vae_mnist", "gan_mnist"),
    *("cpixelcnn_mnist", "pixelrnn_binarized_mnist"),
)
TRAINED = ("vae_2d_mnist", "gan_mnist", "cpixelcnn_mnist")
PRECISIONS = ("float32", "mixed_bfloat16")


def images_of(model, batch: int) -> np.ndarray:
    """Images that the model draws itself: it gives others no sensible likelihood."""
    labels = None if model.num_classes is None else np.arange(batch) % model.num_classes
    if "sample" in model.endpoints():
        return model.sample(batch, seed=1, labels=labels)
    latents = np.random.default_rng(1).standard_normal((batch, model.latent_dim))
    return model.decode(latents.astype(np.float32))


def inputs(specs: dict, images: np.ndarray, num_classes: int | None) -> dict[str, np.ndarray]:
    """Inputs of an endpoint: seeds 0, 1, ..., normal latents, these images."""
    batch = len(images)
    draw = np.random.default_rng(0)
    made = {}
    for name, spec in specs.items():
        shape = (batch, *spec["shape"][1:])
        if name == "seed":
            value = np.arange(batch)
        elif name == "labels":
            value = np.arange(batch) % num_classes
        elif name == "latents":
            value = draw.standard_normal(shape)
        else:
            value = images
        made[name] = value.astype(spec["dtype"])
    return made


def prepare(model, folder: Path, batch: int, endpoints: list[str]) -> None:
    model.export(folder, format="stablehlo", batch=batch, endpoints=endpoints)
    described = json.loads((folder / "signatures.json").read_text())
    graphs, answers, images = model.signatures(), {}, images_of(model, batch)
    for name, endpoint in described["endpoints"].items():
        given = inputs(endpoint["inputs"], images, model.num_classes)
        answers |= {f"{name}.in.{key}": value for key, value in given.items()}
        (output,) = graphs[name](*given.values()).values()
        answers[f"{name}.out"] = output.numpy()
    np.savez(folder / "answers.npz", **answers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--entries", nargs="*", default=ENTRIES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 256, 1024])
    parser.add_argument("--train", nargs="*", default=TRAINED, help="entries or recipe files")
    parser.add_argument("--count", type=int, default=4096, help="images for the training")
    options = parser.parse_args()
    for given in (options.entries, options.train):
        if len({Path(name).stem for name in given}) < len(given):
            parser.error(f"two names end alike, so one would replace the other: {', '.join(given)}")
    for entry in options.entries:
        model = tfgen.load(entry)
        endpoints = [name for name in ENDPOINTS if name in model.endpoints()]
        for batch in options.batches:
            folder = options.out / f"{Path(entry).stem}.{batch}"
            prepare(model, folder, batch, endpoints)
            print(f"{folder}: {', '.join(endpoints)}", flush=True)
    for name in options.train:
        for precision in PRECISIONS:
            recipe = dataclasses.replace(tfgen.zoo.load_recipe(name), precision=precision)
            folder = options.out / f"train.{Path(name).stem}.{precision}"
            lower.prepare(recipe, folder, options.count)
            print(f"{folder}: one step", flush=True)


if __name__ == "__main__":
    main()
