"""A small U-Net of `diffusers` on MNIST: denoising diffusion, called as a package.

UNet2DModel with two layers a block of 32, 64 and 64 channels and attention in the two lower
blocks, Adam 1e-3 and batches of 128, as in the class-conditional model of Hugging Face's course on
diffusion, without its classes; 1,000 steps of noise; the squared error of the noise. --variant is
the schedule of the noise: `linear`, the package's default, if none is given, or `cosine`, that of
the course. Images are drawn in 50 steps of DDIM: the 1,000 of DDPM would take 20 times as long. It
has no likelihood.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel

from peers import by_hand, contract

BATCH_SIZE = 128
STEPS = 50
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # as the package calls them


def network() -> UNet2DModel:
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def step(unet, scheduler, optimizer, images) -> None:
    noise = torch.randn_like(images)
    times = torch.randint(0, scheduler.config.num_train_timesteps, (len(images),))
    predicted = unet(scheduler.add_noise(images, noise, times), times).sample
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(predicted, noise).backward()
    optimizer.step()


def pipeline(unet, scheduler) -> DDIMPipeline:
    made = DDIMPipeline(unet, DDIMScheduler.from_config(scheduler.config))
    made.set_progress_bar_config(disable=True)
    return made


def drawn(pipe, number: int) -> np.ndarray:
    images = pipe(batch_size=number, num_inference_steps=STEPS, output_type="np").images
    return np.rint(255.0 * images).astype(np.uint8)


def reload(folder: Path):
    pipe = DDIMPipeline.from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    return lambda number: drawn(pipe, number)


def serve(folder: Path) -> None:
    by_hand.serve(reload(folder))


# What the comparison adds


def build(data: contract.Data, given) -> contract.Side:
    torch.manual_seed(given.seed)
    unet = network()
    scheduler = DDPMScheduler(beta_schedule=SCHEDULES[given.variant or "linear"])
    optimizer = torch.optim.Adam(unet.parameters(), 1e-3)
    images = torch.tensor(data.x_train.transpose(0, 3, 1, 2)).float() / 127.5 - 1.0
    pipe = pipeline(unet, scheduler)

    def train(seconds: float) -> int:
        for number in contract.ticks(seconds):
            at = number % (len(images) // BATCH_SIZE)
            if at == 0:
                order = torch.randperm(len(images))
            batch = images[order[at * BATCH_SIZE : (at + 1) * BATCH_SIZE]]
            step(unet, scheduler, optimizer, batch)
        return (number + 1) * BATCH_SIZE

    return contract.Side(
        train=train,
        sample=lambda number: drawn(pipe, number),
        save=lambda folder: pipe.save_pretrained(str(folder)),
        reload=reload,
        parameters=sum(p.numel() for p in unet.parameters()),
        packages=("torch", "diffusers"),
        batch=50,
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
