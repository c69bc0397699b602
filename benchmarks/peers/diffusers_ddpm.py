"""A small U-Net of `diffusers` on MNIST: denoising diffusion, called as a package.

UNet2DModel with two layers a block of 32, 64 and 64 channels and attention in the two lower
blocks, Adam 1e-3 and batches of 128, as in the class-conditional model of Hugging Face's course on
diffusion, without its classes; 1,000 steps of noise, on DDPMScheduler's default, linear schedule,
where the course has a cosine; the squared error of the noise. --variant is the number of denoising
steps of DDIM with which images are drawn, 50 if not given: all 1,000 steps of DDPM take as many
times longer. It has no likelihood.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel

from peers import by_hand, contract

BATCH_SIZE = 128
STEPS = 50


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


def pipeline(unet) -> DDIMPipeline:
    made = DDIMPipeline(unet, DDIMScheduler.from_config(DDPMScheduler().config))
    made.set_progress_bar_config(disable=True)
    return made


def drawn(pipe, number: int, steps: int) -> np.ndarray:
    images = pipe(batch_size=number, num_inference_steps=steps, output_type="np").images
    return np.rint(255.0 * images).astype(np.uint8)


def reload(folder: Path, steps: int = STEPS):
    pipe = DDIMPipeline.from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    return lambda number: drawn(pipe, number, steps)


def serve(folder: Path) -> None:
    by_hand.serve(reload(folder))


# What the comparison adds


def build(data: contract.Data, given) -> contract.Side:
    torch.manual_seed(given.seed)
    steps = int(given.variant or STEPS)
    unet, scheduler = network(), DDPMScheduler()
    optimizer = torch.optim.Adam(unet.parameters(), 1e-3)
    images = torch.tensor(data.x_train.transpose(0, 3, 1, 2)).float() / 127.5 - 1.0
    pipe = pipeline(unet)

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
        sample=lambda number: drawn(pipe, number, steps),
        save=lambda folder: pipe.save_pretrained(str(folder)),
        reload=lambda folder: reload(folder, steps),
        parameters=sum(p.numel() for p in unet.parameters()),
        packages=("torch", "diffusers"),
        batch=50,
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
