"""Make up names, letter by letter: a recurrent network that the server lets run on what it gave before.

    .venv/bin/pip install --constraint constraints.txt --editable '.[cpu]'
    python examples/generate_names.py                                        # 10 names
    python examples/generate_names.py 3 --begin mar --temperature 0.5 --seed 7
    python examples/generate_names.py --address localhost:8500               # of a server that serves examples/models

A name is one request: the server draws a letter, feeds it back and keeps the state, until the name ends. All names are
made at the same time, and their steps share runs, whatever their lengths. The same seed gives the same names.
"""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from demo import running_server

from onnxserve import Client, OnnxserveError, State, Stop

MODEL = "names"
END = 0  # the letter that begins and ends a name
MAX_LETTERS = 30  # letters
MAX_NAMES = 128
MAX_RANDOM = 2**31 - 2  # of the model's random numbers; the smallest is 1
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Serve the network, have it make up names, print them as their letters come."""
    arguments = read_arguments()
    with contextlib.ExitStack() as server:
        address = arguments.address or server.enter_context(running_server(HERE / "models"))[1]
        with Client(address) as client:
            try:
                make_up(client, arguments.names, arguments.begin.lower(), arguments.temperature, arguments.seed)
            except OnnxserveError as error:
                sys.exit(f"The example failed: {error}")


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="?", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--begin", default="", metavar="LETTERS", help="what each name begins with")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="0: the likeliest name; 1: as trained; above: bolder"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a server that has the model; else one is started")
    arguments = parser.parse_args()
    if not 1 <= arguments.names <= MAX_NAMES:
        parser.error(f"names: {arguments.names} is not between 1 and {MAX_NAMES}")
    if not 0 <= arguments.temperature < math.inf:
        parser.error(f"--temperature: {arguments.temperature} is not a number of 0 or above")
    if arguments.seed < 0:
        parser.error(f"--seed: {arguments.seed} is below 0")
    return arguments


def make_up(client: Client, count: int, begin: str, temperature: float, seed: int) -> None:
    """Print names, a line each. All are made at once; the letters of those behind the one in print wait in queues."""
    alphabet = letters_of(client)
    if strange := set(begin).difference(alphabet[END + 1 :]):
        sys.exit(f"--begin: unknown letter {min(strange)!r}; the network's letters are {''.join(alphabet[END + 1 :])}")
    *before, last = END, *map(alphabet.index, begin)
    state = state_after(client, before)
    lines = [SimpleQueue[int]() for _ in range(count)]

    def spell(random: int, line: SimpleQueue[int]) -> None:
        try:
            for letter in generate(client, inputs(last, temperature, random), state):
                line.put(letter)
        finally:
            line.put(END)  # also after a name that is too long, or failed

    with ThreadPoolExecutor(count) as threads:
        randoms = first_randoms(seed, count)
        names = [threads.submit(spell, random, line) for random, line in zip(randoms, lines, strict=True)]
        for name, line in zip(names, lines, strict=True):
            print(begin, end="", flush=True)
            for letter in iter(line.get, END):
                print(alphabet[letter], end="", flush=True)
            name.result()  # raises what went wrong
            print()


def letters_of(client: Client) -> tuple[str, ...]:
    """Return the letters by their numbers."""
    outputs = {output.name: output for output in client.model(MODEL).outputs}
    return outputs["probabilities"].labels


def first_randoms(seed: int, count: int) -> list[int]:
    """Return a number for each name, from which its random numbers go on."""
    return [int(number) for number in np.random.default_rng(seed).integers(1, MAX_RANDOM, count, endpoint=True)]


def state_after(client: Client, letters: Sequence[int]) -> State | None:
    """Return the network's state after these letters; None: it has read none yet."""
    with client.sequence(MODEL, outputs=["next_letter"]) as sequence:
        for letter in letters:
            sequence.step(inputs(letter), snapshot=True)
        return sequence.state


def generate(client: Client, first: Mapping[str, np.ndarray], state: State | None) -> Iterator[int]:
    """Yield the letters that follow as the server draws them, and END if the name ends within MAX_LETTERS letters."""
    with client.sequence(MODEL, outputs=["next_letter"], state=state) as sequence:
        for step in sequence.generate(first, max_steps=MAX_LETTERS, stop=Stop("next_letter", END)):
            yield int(step["next_letter"][0])


def inputs(letter: int, temperature: float = 1.0, random: int = 1) -> dict[str, np.ndarray]:
    """Return what a step takes beside the state: the letter before, and how to draw the next one."""
    return {
        "letter": np.array([letter]),
        "temperature": np.array([temperature], np.float32),
        "random": np.array([random]),
    }


if __name__ == "__main__":
    main()
