"""LeNet-5 in PyTorch, reading handwritten digits: a state_dict.

From the repository's root:

    python examples/gallery/lenet_torch.py
    onnxserve convert build/gallery/lenet-torch.pt --class examples/gallery/lenet_torch.py:LeNet \\
        --input 'image=float32[batch,3,32,32]' --output probabilities --to models/lenet-torch
"""

from pathlib import Path

import torch
from data import Split, digits
from torch import nn
from training import accuracy, must_reach, parse_folder, write_answers


class LeNet(nn.Module):
    """LeCun's LeNet-5 (1998) as it is built today: image float32 [batch, 3, 32, 32] to probabilities [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Linear(400, 120), nn.ReLU()),
            *(nn.Linear(120, 84), nn.ReLU()),
            nn.Linear(84, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return probabilities."""
        return self.classifier(self.features(image).flatten(1)).softmax(dim=1)


def train(data: Split) -> LeNet:
    """Return a network that reads the digits."""
    torch.manual_seed(0)
    network = LeNet()
    images, labels = torch.from_numpy(data.x), torch.from_numpy(data.y)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(5):
        for rows in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            nn.functional.nll_loss(network(images[rows]).log(), labels[rows]).backward()
            optimizer.step()
    return network.eval()


def main(folder: Path) -> None:
    """Write lenet-torch.pt."""
    data = digits()
    network = train(data)

    @torch.no_grad()
    def run(feeds):
        return {"probabilities": network(torch.from_numpy(feeds["image"])).numpy()}

    read = run({"image": data.held_out_x})["probabilities"]
    must_reach("LeNet in PyTorch, accuracy on held-out digits", accuracy(read, data.held_out_y), 0.9)
    torch.save(network.state_dict(), folder / "lenet-torch.pt")
    write_answers(folder / "lenet-torch.npz", run, [{"image": data.held_out_x[:rows]} for rows in (5, 17)])


if __name__ == "__main__":
    main(parse_folder(__doc__))
