"""Shared by the gallery's training files: where they write, how well a model must score, files of its answers."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]


def parse_folder(about: str | None) -> Path:
    """Read the command line, and return the folder to write to; it exists.

    Args:
        about: the docstring of the training file.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--to", type=Path, default=Path("build/gallery"), help="directory to write to (default: %(default)s)"
    )
    folder: Path = parser.parse_args().to
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def must_reach(what: str, score: float, minimum: float) -> None:
    """Print a model's score, and end the program where it is too low."""
    print(f"{what}: {score:.3f}")
    if not score >= minimum:
        sys.exit(f"{what}: {score:.3f}, expected at least {minimum}")


def accuracy(scores: np.ndarray, right: np.ndarray) -> float:
    """Return the share of rows [n, classes] whose largest score is that of the right class [n]."""
    return float((scores.argmax(axis=-1) == right).mean())


def write_answers(path: Path, run: Callable[[Arrays], Arrays], cases: Sequence[Arrays]) -> None:
    """Write an .npz file of a model's outputs, in its own framework, for arrays by input name.

    The arrays' names in the file are case/in/input and case/out/output, the cases being numbered from 0.
    """
    arrays = {}
    for number, feeds in enumerate(cases):
        arrays |= {f"{number}/in/{name}": array for name, array in feeds.items()}
        arrays |= {f"{number}/out/{name}": array for name, array in run(feeds).items()}
    np.savez(path, **arrays)


def read_answers(path: Path) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Return the cases of a file of write_answers(): inputs and outputs."""
    cases: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = []
    with np.load(path) as arrays:
        for key in arrays.files:
            number, side, name = key.split("/", 2)
            while len(cases) <= int(number):
                cases.append(({}, {}))
            cases[int(number)][side == "out"][name] = arrays[key]
    return cases
