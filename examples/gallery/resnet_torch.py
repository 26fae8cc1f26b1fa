"""A small residual network with batch normalisation in PyTorch: weights in a safetensors file.

From the repository's root:

    python examples/gallery/resnet_torch.py
    onnxserve convert build/gallery/resnet-torch.safetensors \\
        --class examples/gallery/resnet_torch.py:ResNet --class-args '{"width": 16}' \\
        --input 'image=float32[batch,3,32,32]' --output logits --to models/resnet-torch
"""

from pathlib import Path

import torch
from data import Split, digits
from safetensors.torch import save_file
from torch import nn
from training import accuracy, must_reach, parse_folder, write_answers

WIDTH = 16


class Block(nn.Module):
    """Two convolutions whose result is added to what came in; where the size changes, a third one makes it fit."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()),
            *(nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)),
        )
        fits = inside == outside and stride == 1
        self.skip = nn.Identity() if fits else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's maps."""
        return torch.relu(self.body(x) + self.skip(x))


class ResNet(nn.Sequential):
    """image float32 [batch, 3, 32, 32] to logits [batch, 10].

    Args:
        width: channels of the first block; the second one has twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            *(nn.Conv2d(3, width, 4, 4, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(Block(width, width, 1), Block(width, 2 * width, 2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
        )


def train(data: Split) -> ResNet:
    """Return a network that reads the digits."""
    torch.manual_seed(0)
    network = ResNet(WIDTH)
    images, labels = torch.from_numpy(data.x), torch.from_numpy(data.y)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(6):
        for rows in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return network.eval()


def main(folder: Path) -> None:
    """Write resnet-torch.safetensors."""
    data = digits()
    network = train(data)

    @torch.no_grad()
    def run(feeds):
        return {"logits": network(torch.from_numpy(feeds["image"])).numpy()}

    read = run({"image": data.held_out_x})["logits"]
    must_reach("residual network in PyTorch, accuracy on held-out digits", accuracy(read, data.held_out_y), 0.95)
    save_file(network.state_dict(), folder / "resnet-torch.safetensors")
    write_answers(folder / "resnet-torch.npz", run, [{"image": data.held_out_x[:rows]} for rows in (5, 17)])


if __name__ == "__main__":
    main(parse_folder(__doc__))
