"""Train, convert and publish the example of a generator: an LSTM that makes up given names, letter by letter.

    .venv/bin/pip install --constraint constraints.txt --editable '.[cpu,torch]'
    python examples/train_names.py

Reads data/names.txt and writes models/names/1; models/names/model.yaml says what goes from step to step. A step:

    letter       int64 [batch]          the letter before, a number in ALPHABET; 0 begins a name
    temperature  float32 [batch]        what the logits are divided by: 1 as trained, below it safer, above it bolder
    random       int64 [batch]          what the random generator gave last, or its seed: from 1 to 2147483646
    h, c         float32 [batch, 128]   the state after the letter before; zeros to begin with
      -> next_letter, next_random, h_out, c_out, and the probabilities that the letter was drawn with, [batch, 27]

The letter is drawn inside of the graph, so that the server can go from step to step by itself. Nothing is written
unless the names held out of training are foreseen well enough, and ONNX Runtime draws the letters that PyTorch draws.
The seed is fixed: on one machine, the same model comes out of every run.
"""

import argparse
import math
import sys
from pathlib import Path
from string import ascii_lowercase

import torch
from torch import nn

from onnxserve_converters import ConverterError, convert

ALPHABET = "." + ascii_lowercase  # "." begins and ends a name
UNITS = 128
SEED = 0
HELD_OUT = 70
EPOCHS = 15
BATCH = 16
MAX_PERPLEXITY = 10.0
HERE = Path(__file__).resolve().parent

# Lehmer's generator with the multiplier of S. K. Park, K. W. Miller and P. K. Stockmeyer, Communications of the ACM
# 36 (7), 1993, pp. 108-110: std::minstd_rand of C++. No product overflows an int64.
MULTIPLIER = 48_271
MODULUS = 2**31 - 1

DESCRIPTION = """\
LSTM that makes up given names letter by letter: each step draws the next one from the probabilities it gives. Letters \
are numbers in "{alphabet}"; 0 begins and ends a name. Trained on {train} names; perplexity of a letter of {held_out} \
held-out names: {perplexity:.2f}."""


class Speller(nn.Module):
    """Letters int64 [batch, time] and a state, h and c float32 [batch, 128], to logits [batch, time, 27] and state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), 32)
        self.lstm = nn.LSTM(32, UNITS, batch_first=True)
        self.dropout = nn.Dropout(0.4)
        self.head = nn.Linear(UNITS, len(ALPHABET))

    def forward(
        self, letters: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the logits of each next letter, and the state."""
        hidden, (h, c) = self.lstm(self.dropout(self.embedding(letters)), (h[None], c[None]))
        return self.head(self.dropout(hidden)), h[0], c[0]


class Generator(nn.Module):
    """One step of a speller, with the next letter drawn; the docstring of this file has its inputs and outputs."""

    def __init__(self, speller: Speller) -> None:
        super().__init__()
        self.speller = speller

    def forward(
        self, letter: torch.Tensor, temperature: torch.Tensor, random: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the letter, the random number it was drawn with, its probabilities, and the state."""
        logits, h, c = self.speller(letter[:, None], h, c)
        coldest = 1e-3  # in place of 0, which nothing can be divided by: the likeliest letter is all but certain
        probabilities = torch.softmax(logits[:, 0] / temperature.clamp(min=coldest)[:, None], dim=1)
        random = random * MULTIPLIER % MODULUS
        # The letter into whose share of the line from 0 to 1 the number falls. The end of the last share is left out:
        # it is 1, but for rounding.
        ends = probabilities.cumsum(dim=1)[:, :-1]
        letter = (ends <= (random.float() / MODULUS)[:, None]).sum(dim=1)
        return letter, random, probabilities, h, c


def main() -> None:
    """Train, prove, and only then publish."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the order of a sum is part of its result

    names = (HERE / "data/names.txt").read_text().split()
    shuffled = [names[i] for i in torch.randperm(len(names))]
    held_out, train = spelled(shuffled[:HELD_OUT]), spelled(shuffled[HELD_OUT:])
    speller = train_speller(train)
    with torch.no_grad():
        perplexity = math.exp(loss(speller, held_out).item())
    print(f"perplexity of a letter of {HELD_OUT} held-out names: {perplexity:.2f}")
    if perplexity > MAX_PERPLEXITY:
        sys.exit(f"nothing written: a perplexity of {perplexity:.2f} is above {MAX_PERPLEXITY}")
    publish(
        Generator(speller),
        DESCRIPTION.format(alphabet=ALPHABET, train=len(train), held_out=HELD_OUT, perplexity=perplexity),
    )


def spelled(names: list[str]) -> torch.Tensor:
    """Return names as int64 [names, longest + 2]: 0, their letters' numbers, and zeros behind them."""
    rows = [torch.tensor([0, *map(ALPHABET.index, name), 0]) for name in names]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)


def train_speller(names: torch.Tensor) -> Speller:
    """Train for a fixed number of epochs: the held-out names have no say in when to stop."""
    speller = Speller()
    optimizer = torch.optim.Adam(speller.parameters())
    steps = EPOCHS * -(-len(names) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(names)).split(BATCH):
            optimizer.zero_grad()
            loss(speller, names[rows]).backward()
            optimizer.step()
            schedule.step()
    return speller.eval()


def loss(speller: Speller, names: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of a letter, or of a name's end, in nats on average."""
    letters, following = names[:, :-1], names[:, 1:]
    state = torch.zeros(len(names), UNITS)
    logits, _, _ = speller(letters, state, state)
    # A name goes on after each of its letters, and after the 0 that begins it; not after the one that ends it.
    goes_on = (letters > 0).index_fill(1, torch.tensor(0), True)
    return nn.functional.cross_entropy(logits[goes_on], following[goes_on])


def publish(generator: Generator, description: str) -> None:
    """Convert the generator to models/names/1; exit where ONNX Runtime does not draw what PyTorch draws."""
    state = f"float32[batch,{UNITS}]"
    try:
        conversion = convert(
            generator.eval(),
            HERE / "models/names/1",
            inputs=[
                "letter=int64[batch]",
                "temperature=float32[batch]",
                "random=int64[batch]",
                f"h={state}",
                f"c={state}",
            ],
            outputs=["next_letter", "next_random", "probabilities", "h_out", "c_out"],
            ranges={"letter": (0, len(ALPHABET) - 1), "temperature": (0.2, 2.0), "random": (1, MODULUS - 1)},
            labels={"probabilities": ALPHABET},
            doc=description,
            replace=True,
        )
    except ConverterError as error:
        sys.exit(f"nothing written: {error}")
    cases = conversion.report["proof"]["cases"]
    print(f"ONNX Runtime draws the same letters as PyTorch in {cases} batches of different size")
    for path in sorted(conversion.path.iterdir()):
        print(f"{path.relative_to(HERE.parent)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
