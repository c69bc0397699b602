"""pythae's VAE, IWAE and VampPrior VAE (--variant VAE, IWAE or VAMP), called as a package.

The default networks (one hidden layer of 512 units), ten latents, AdamW 1e-3 and batches of 200, as
in the package's introduction. On binary images the loss is the Bernoulli likelihood, samples are
drawn from it, and nats are the package's own importance-weighted bound; on grey images the loss is
the squared error and samples are the decoder's means.
"""

import logging
import tempfile
import time

import numpy as np
import torch
from pythae import models, samplers
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback

from peers import contract

BATCH_SIZE = 200
IMPORTANCE_SAMPLES = 100


class OverError(Exception):
    """The time is over."""


class Clock(TrainingCallback):
    def __init__(self, seconds: float):
        self.end, self.steps = time.perf_counter() + seconds, 0

    def on_train_step_end(self, training_config, **kwargs):
        self.steps += 1
        if time.perf_counter() >= self.end:
            raise OverError


def build(data: contract.Data, given) -> contract.Side:
    logging.disable(logging.INFO)
    torch.manual_seed(given.seed)
    name = given.variant or "VAE"
    loss = "bce" if data.is_binary else "mse"
    config = getattr(models, f"{name}Config")(
        input_dim=(1, 28, 28), latent_dim=10, reconstruction_loss=loss
    )
    model = getattr(models, name)(config)
    images = as_floats(data.x_train)
    sampler = samplers.VAMPSampler if name == "VAMP" else samplers.NormalSampler

    def train(seconds: float) -> int:
        clock = Clock(seconds)
        with tempfile.TemporaryDirectory() as folder:
            training = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=10**6,
                learning_rate=1e-3,
                per_device_train_batch_size=BATCH_SIZE,
                optimizer_cls="AdamW",
                optimizer_params={"weight_decay": 0.05, "betas": (0.91, 0.995)},
                no_cuda=True,
            )
            try:
                TrainingPipeline(model=model, training_config=training)(
                    train_data=images, callbacks=[clock]
                )
            except OverError:
                model.eval()
        return clock.steps * BATCH_SIZE

    def sample(number: int) -> np.ndarray:
        means = sampler(model).sample(num_samples=number).detach()
        pixels = torch.bernoulli(means) if data.is_binary else means
        return np.rint(255.0 * pixels.numpy().transpose(0, 2, 3, 1)).astype(np.uint8)

    def nats(held_out: np.ndarray) -> float:
        with torch.no_grad():
            return -float(model.get_nll(torch.tensor(as_floats(held_out)), IMPORTANCE_SAMPLES))

    return contract.Side(
        train=train,
        sample=sample,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        packages=("torch", "pythae"),
        nats=nats if data.is_binary else None,
        nats_kind=f"importance-weighted bound, {IMPORTANCE_SAMPLES} samples",
    )


def as_floats(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 255.0


if __name__ == "__main__":
    contract.main(__doc__, build)
