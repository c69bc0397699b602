"""pythae's VAE, IWAE and VampPrior VAE (--variant VAE, IWAE or VAMP), called as a package.

The default networks (one hidden layer of 512 units), ten latents, AdamW 1e-3, halved after five
epochs without a better training loss, and batches of 200, as in the package's introduction. There
two processes load the images; here the training process does. On binary images the loss is the
Bernoulli likelihood, samples are its means, rounded to black or white as ours are, and nats are the
package's own importance-weighted bound; on grey images the loss is the squared error and samples
are the decoder's means. The introduction also hands the trainer validation images, by whose loss it
lowers the rate and keeps the best weights, and has the squared error as its loss; here nothing is
held out and the last weights count. Samplers are the package's, but for the VampPrior's (see
`TrainedPrior`).
"""

import contextlib
import logging
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from pythae import models, samplers
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback

from peers import by_hand, contract

BATCH_SIZE = 200
IMPORTANCE_SAMPLES = 100


def made(name: str, loss: str):
    config = getattr(models, f"{name}Config")
    return getattr(models, name)(
        config(input_dim=(1, 28, 28), latent_dim=10, reconstruction_loss=loss)
    )


def fit(model, images: np.ndarray, folder: str, callbacks: list) -> None:
    training = BaseTrainerConfig(
        output_dir=folder,
        num_epochs=10**6,
        learning_rate=1e-3,
        per_device_train_batch_size=BATCH_SIZE,
        optimizer_cls="AdamW",
        optimizer_params={"weight_decay": 0.05, "betas": (0.91, 0.995)},
        scheduler_cls="ReduceLROnPlateau",
        scheduler_params={"patience": 5, "factor": 0.5},
        no_cuda=True,
    )
    TrainingPipeline(model=model, training_config=training)(
        train_data=as_floats(images), callbacks=callbacks
    )


def sampler_of(model):
    model.eval()
    return (TrainedPrior if model.model_name == "VAMP" else samplers.NormalSampler)(model)


@torch.inference_mode()
def drawn(sampler, number: int) -> np.ndarray:
    means = sampler.sample(num_samples=number)
    binary = sampler.model.model_config.reconstruction_loss == "bce"
    pixels = torch.round(means) if binary else means
    return np.rint(255.0 * pixels.numpy().transpose(0, 2, 3, 1)).astype(np.uint8)


def as_floats(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 255.0


def reload(folder: Path):
    sampler = sampler_of(models.AutoModel.load_from_folder(str(folder)))
    return lambda number: drawn(sampler, number)


def serve(folder: Path) -> None:
    by_hand.serve(reload(folder))


# What the comparison adds


class TrainedPrior(samplers.VAMPSampler):
    """Draws from the VampPrior that was trained.

    `VAMPSampler` takes the learned images in turn, from the first, and the tanh of their log
    variances, so that its latents are not those of the prior.
    """

    def sample(self, num_samples: int = 1, **kwargs) -> torch.Tensor:
        model, count = self.model, self.model.number_components
        place = index = torch.randint(count, (num_samples,))
        if num_samples < count:
            place = torch.arange(num_samples)
        else:
            index = torch.arange(count)
        images = model.pseudo_inputs(model.idle_input[index])
        posterior = model.encoder(images.reshape(-1, *model.model_config.input_dim))
        mean, scale = posterior.embedding[place], torch.exp(posterior.log_covariance[place] / 2)
        return model.decoder(mean + scale * torch.randn_like(mean))["reconstruction"]


class OverError(Exception):
    """The time is over."""


class Clock(TrainingCallback):
    """Ends the training after some seconds, which begin with the first batch."""

    def __init__(self, seconds: float):
        self.seconds, self.steps = seconds, 0
        self.start = self.now = math.nan

    def on_train_step_begin(self, training_config, **kwargs):  # once an epoch
        if math.isnan(self.start):
            self.start = time.perf_counter()

    def on_train_step_end(self, training_config, **kwargs):
        self.steps, self.now = self.steps + 1, time.perf_counter()
        if self.now >= self.start + self.seconds:
            raise OverError


def build(data: contract.Data, given) -> contract.Side:
    logging.disable(logging.INFO)
    torch.manual_seed(given.seed)
    model = made(given.variant or "VAE", "bce" if data.is_binary else "mse")
    sampler = sampler_of(model)

    def train(seconds: float) -> tuple[int, float]:
        clock = Clock(seconds)
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OverError):
            fit(model, data.x_train, folder, [clock])
        model.eval()  # as `sampler_of` left it
        return clock.steps * BATCH_SIZE, clock.now - clock.start

    def nats(held_out: np.ndarray) -> float:
        with torch.no_grad():
            return -float(model.get_nll(torch.tensor(as_floats(held_out)), IMPORTANCE_SAMPLES))

    return contract.Side(
        train=train,
        sample=lambda number: drawn(sampler, number),
        save=lambda folder: model.save(str(folder)),
        reload=reload,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        packages=("torch", "pythae"),
        nats=nats if data.is_binary else None,
        nats_kind=f"importance-weighted bound, {IMPORTANCE_SAMPLES} samples",
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
