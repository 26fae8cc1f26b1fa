"""A Transformer encoder in PyTorch with padding mask, free batch and free length: a state_dict.

From the repository's root:

    python examples/gallery/transformer_torch.py
    onnxserve convert build/gallery/transformer-torch.pt \\
        --class examples/gallery/transformer_torch.py:Encoder --range ids=0:3 \\
        --input 'ids=int64[batch,time]' --input 'mask=bool[batch,time]' --output logits \\
        --to models/transformer-torch

It predicts the most frequent of four letters in a word.
"""

from pathlib import Path

import torch
from letters import LETTERS, words
from torch import nn
from training import accuracy, must_reach, parse_folder, write_answers

UNITS, HEADS, LAYERS, LONGEST = 32, 4, 2, 64


class Encoder(nn.Module):
    """ids int64 [batch, time] and mask bool [batch, time], True where there is a letter, to logits [batch, 4].

    A summary stands in front of each word and is what is read in the end. It is never masked, so that no row is empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(LETTERS, UNITS)
        self.places = nn.Embedding(LONGEST + 1, UNITS)
        self.summary = nn.Parameter(torch.zeros(1, 1, UNITS))
        layer = nn.TransformerEncoderLayer(UNITS, HEADS, 2 * UNITS, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS)
        self.head = nn.Linear(UNITS, LETTERS)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the logits of the most frequent letter."""
        rows, time = ids.shape
        x = torch.cat([self.summary.expand(rows, 1, UNITS), self.letters(ids)], dim=1)
        x = x + self.places(torch.arange(time + 1, device=ids.device))
        padding = torch.cat([torch.zeros_like(mask[:, :1]), ~mask], dim=1)
        return self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])


def train() -> Encoder:
    """Return an encoder trained on words of up to 24 letters."""
    torch.manual_seed(0)
    encoder = Encoder()
    optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-3)
    for step in range(200):
        ids, mask, right = map(torch.from_numpy, words(64, 24, seed=step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(encoder(ids, mask), right).backward()
        optimizer.step()
    return encoder.eval()


def main(folder: Path) -> None:
    """Write transformer-torch.pt."""
    encoder = train()

    @torch.no_grad()
    def run(feeds):
        return {"logits": encoder(*map(torch.from_numpy, feeds.values())).numpy()}

    ids, mask, right = words(500, 20, seed=1000)
    reached = accuracy(run({"ids": ids, "mask": mask})["logits"], right)
    must_reach("Transformer in PyTorch, share of right words", reached, 0.9)
    torch.save(encoder.state_dict(), folder / "transformer-torch.pt")
    asked = [words(rows, length, seed=2000) for rows, length in ((5, 23), (17, 3), (2, 1))]
    write_answers(
        folder / "transformer-torch.npz", run, [{"ids": some_ids, "mask": its_mask} for some_ids, its_mask, _ in asked]
    )


if __name__ == "__main__":
    main(parse_folder(__doc__))
