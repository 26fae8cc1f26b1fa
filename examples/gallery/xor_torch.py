"""Two inputs, four tanh units, one output: the exclusive or, in PyTorch, saved by torch.export.

From the repository's root:

    python examples/gallery/xor_torch.py
    onnxserve convert build/gallery/xor.pt2 --trust-code --input 'x=float32[batch,2]' --output probability \\
        --to models/xor
"""

from pathlib import Path

import torch
from data import xor
from torch import nn
from training import must_reach, parse_folder, write_answers


class Xor(nn.Module):
    """x float32 [batch, 2] to the probability, [batch, 1], that one of them is 1 and not both."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return probabilities."""
        return self.head(self.hidden(x).tanh()).sigmoid()


def train() -> Xor:
    """Return a network that has learnt the four cases."""
    torch.manual_seed(0)
    network = Xor()
    x, y = map(torch.from_numpy, xor())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy(network(x), y).backward()
        optimizer.step()
    must_reach("xor, share of right cases", float(((network(x) > 0.5) == y).float().mean()), 1.0)
    return network.eval()


def answers(network: Xor, path: Path) -> None:
    """Write what the network answers to 5 and 17 points."""

    @torch.no_grad()
    def run(feeds):
        return {"probability": network(torch.from_numpy(feeds["x"])).numpy()}

    generator = torch.Generator().manual_seed(0)
    write_answers(path, run, [{"x": torch.rand(rows, 2, generator=generator).numpy()} for rows in (5, 17)])


def main(folder: Path) -> None:
    """Write xor.pt2, whose batch is free because it is declared so here."""
    network = train()
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (torch.rand(3, 2),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "xor.pt2")
    answers(network, folder / "xor.npz")


if __name__ == "__main__":
    main(parse_folder(__doc__))
