"""A gated PixelCNN in PyTorch (A. van den Oord et al., 2016), written here from the paper.

Two stacks, the gate tanh(a) sigmoid(b), masks by padding and cutting; a 7x7 layer, then six 3x3
layers with residual connections of the horizontal stack, a head of two 1x1 convolutions. The
paper's networks for 32x32 images have 15 layers of 128 features; this one has 7 of 32, as a user
of a CPU would take. Adam 1e-3, batches of 64, static binarised MNIST, the exact likelihood. Images
are drawn with a pass through the network for each pixel.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from peers import by_hand, contract

FEATURES = 32
NUM_LAYERS = 7
BATCH_SIZE = 64


def gated(x):
    values, gates = x.chunk(2, 1)
    return torch.tanh(values) * torch.sigmoid(gates)


class GatedLayer(nn.Module):
    """The vertical stack sees the rows up to its own, the horizontal one its own row so far.

    Args:
        inputs: Features that come in.
        size: Of the kernel.
        first: Whether the horizontal stack leaves out its own pixel, and nothing is added to it.
    """

    def __init__(self, inputs: int, size: int, first: bool):
        super().__init__()
        self.half, self.first = size // 2, first
        self.vertical = nn.Conv2d(inputs, 2 * FEATURES, (self.half + 1, size))
        self.horizontal = nn.Conv2d(inputs, 2 * FEATURES, (1, self.half + (not first)))
        self.between = nn.Conv2d(2 * FEATURES, 2 * FEATURES, 1)
        self.output = nn.Conv2d(FEATURES, FEATURES, 1)

    def forward(self, above, left):
        half, width = self.half, left.shape[-1]
        new_above = self.vertical(functional.pad(above, (half, half, half, 0)))
        before = functional.pad(new_above, (0, 0, 1, 0))[:, :, :-1]  # of the rows before its own
        new_left = self.horizontal(functional.pad(left, (half, 0, 0, 0)))[..., :width]
        new_left = self.output(gated(new_left + self.between(before)))
        return gated(new_above), new_left if self.first else left + new_left


class GatedPixelCNN(nn.Module):
    def __init__(self):
        super().__init__()
        others = (GatedLayer(FEATURES, 3, first=False) for _ in range(NUM_LAYERS - 1))
        self.layers = nn.ModuleList([GatedLayer(1, 7, first=True), *others])
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(FEATURES, FEATURES, 1), nn.ReLU(), nn.Conv2d(FEATURES, 1, 1)
        )

    def forward(self, images):
        above = left = images
        for layer in self.layers:
            above, left = layer(above, left)
        return self.head(left)


def nats_of(network, bits):
    """Returns -log p of each image."""
    logits = network(bits)
    losses = functional.binary_cross_entropy_with_logits(logits, bits, reduction="none")
    return losses.sum((1, 2, 3))


def step(network, optimizer, bits) -> None:
    optimizer.zero_grad()
    nats_of(network, bits).mean().backward()
    optimizer.step()


@torch.no_grad()
def drawn(network, number: int) -> np.ndarray:
    bits = torch.zeros(number, 1, 28, 28)
    for row in range(28):
        for column in range(28):
            chances = torch.sigmoid(network(bits)[:, :, row, column])
            bits[:, :, row, column] = torch.bernoulli(chances)
    return (255 * bits.numpy()).astype(np.uint8).transpose(0, 2, 3, 1)


def reload(folder: Path):
    network = GatedPixelCNN()
    network.load_state_dict(torch.load(folder / "pixelcnn.pt"))
    return lambda number: drawn(network, number)


def serve(folder: Path) -> None:
    by_hand.serve(reload(folder))


# What the comparison adds


def as_bits(images: np.ndarray):
    return torch.tensor((images > 0).astype(np.float32).transpose(0, 3, 1, 2))


def build(data: contract.Data, given) -> contract.Side:
    torch.manual_seed(given.seed)
    network, bits = GatedPixelCNN(), as_bits(data.x_train)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def train(seconds: float) -> int:
        for number in contract.ticks(seconds):
            at = number % (len(bits) // BATCH_SIZE)
            if at == 0:
                order = torch.randperm(len(bits))
            step(network, optimizer, bits[order[at * BATCH_SIZE : (at + 1) * BATCH_SIZE]])
        return (number + 1) * BATCH_SIZE

    @torch.no_grad()
    def nats(held_out: np.ndarray) -> float:
        batches = as_bits(held_out).split(100)
        return float(torch.cat([nats_of(network, batch) for batch in batches]).mean())

    @torch.no_grad()
    def one_pass(number: int):
        return network(torch.zeros(number, 1, 28, 28))

    return contract.Side(
        train=train,
        sample=lambda number: drawn(network, number),
        save=lambda folder: torch.save(network.state_dict(), folder / "pixelcnn.pt"),
        reload=reload,
        parameters=sum(p.numel() for p in network.parameters()),
        packages=("torch",),
        batch=100,
        nats=nats,
        nats_kind="exact",
        one_pass=one_pass,
        passes=28 * 28,
    )


if __name__ == "__main__":
    contract.main(__doc__, build)
