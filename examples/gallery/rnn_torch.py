"""An LSTM and a GRU in PyTorch that spell made-up names letter by letter, their state going in and out.

From the repository's root:

    python examples/gallery/rnn_torch.py
    onnxserve convert build/gallery/lstm-torch.pth --class examples/gallery/rnn_torch.py:LstmSpeller \\
        --range ids=0:26 --input 'ids=int64[batch,time]' --input 'h=float32[batch,2,32]' \\
        --input 'c=float32[batch,2,32]' --output logits --output h_out --output c_out \\
        --to models/lstm-torch
    onnxserve convert build/gallery/gru-torch.pt --range ids=0:26 --input 'ids=int64[batch,time]' \\
        --input 'h=float32[batch,2,32]' --output logits --output h_out --to models/gru-torch

The state has the batch in front, [batch, layers, units], so that rows of several callers can share a run.
"""

from pathlib import Path

import numpy as np
import torch
from letters import ALPHABET, names, spelled
from torch import nn
from training import must_reach, parse_folder, write_answers

LAYERS, UNITS = 2, 32
STREAMS = 16
STEPS = 24


class LstmSpeller(nn.Module):
    """ids int64 [batch, time], state h and c float32 [batch, 2, 32] to logits [batch, time, 27] and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), UNITS)
        self.rnn = nn.LSTM(UNITS, UNITS, LAYERS, batch_first=True)
        self.head = nn.Linear(UNITS, len(ALPHABET))

    def forward(
        self, ids: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the logits of each next letter, and the state."""
        state = h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous()
        hidden, (h, c) = self.rnn(self.embedding(ids), state)
        return self.head(hidden), h.transpose(0, 1), c.transpose(0, 1)


class GruSpeller(nn.Module):
    """ids int64 [batch, time], state h float32 [batch, 2, 32] to logits [batch, time, 27] and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), UNITS)
        self.rnn = nn.GRU(UNITS, UNITS, LAYERS, batch_first=True)
        self.head = nn.Linear(UNITS, len(ALPHABET))

    def forward(self, ids: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of each next letter, and the state."""
        hidden, h = self.rnn(self.embedding(ids), h.transpose(0, 1).contiguous())
        return self.head(hidden), h.transpose(0, 1)


def train(speller: nn.Module, states: int) -> float:
    """Teach a speller, and return the likelihood of a next letter: its geometric mean over the last 20 steps."""
    letters = torch.tensor(spelled("".join(f"{name}." for name, _ in names(8000))))
    letters = letters[: len(letters) // STREAMS * STREAMS].view(STREAMS, -1)
    state = [torch.zeros(STREAMS, LAYERS, UNITS) for _ in range(states)]
    optimizer = torch.optim.Adam(speller.parameters(), lr=1e-2)
    losses = []
    for start in range(0, letters.shape[1] - STEPS - 1, STEPS):
        ids, following = letters[:, start : start + STEPS], letters[:, start + 1 : start + STEPS + 1]
        logits, *state = speller(ids, *(array.detach() for array in state))
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), following)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    speller.eval()
    return float(np.exp(-np.mean(losses[-20:])))


def answers(speller: nn.Module, states: list[str], path: Path) -> None:
    """Write what a speller answers to 5 texts of 23 letters from an empty state, and to 17 letters from a used one."""
    text = spelled("".join(f"{name}." for name, _ in names(200, seed=1)))

    @torch.no_grad()
    def run(feeds):
        logits, *state = (array.numpy() for array in speller(*map(torch.from_numpy, feeds.values())))
        return {"logits": logits} | {f"{name}_out": array for name, array in zip(states, state, strict=True)}

    def feeds(rows: int, length: int, state: dict[str, np.ndarray]):
        return {"ids": np.array(text[: rows * length]).reshape(rows, length), **state}

    begun = run(feeds(17, 3, {name: np.zeros((17, LAYERS, UNITS), np.float32) for name in states}))
    empty = {name: np.zeros((5, LAYERS, UNITS), np.float32) for name in states}
    used = {name: begun[f"{name}_out"] for name in states}
    write_answers(path, run, [feeds(5, 23, empty), feeds(17, 1, used)])


def main(folder: Path) -> None:
    """Write lstm-torch.pth, a state_dict, and gru-torch.pt, as TorchScript."""
    torch.manual_seed(0)
    lstm, gru = LstmSpeller(), GruSpeller()
    must_reach("LSTM in PyTorch, likelihood of a next letter", train(lstm, states=2), 0.4)
    torch.save(lstm.state_dict(), folder / "lstm-torch.pth")
    answers(lstm, ["h", "c"], folder / "lstm-torch.npz")
    must_reach("GRU in PyTorch, likelihood of a next letter", train(gru, states=1), 0.4)
    torch.jit.script(gru).save(str(folder / "gru-torch.pt"))
    answers(gru, ["h"], folder / "gru-torch.npz")


if __name__ == "__main__":
    main(parse_folder(__doc__))
