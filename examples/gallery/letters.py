"""Made-up names and words, for the models of letters."""

import numpy as np

Array = np.ndarray

ALPHABET = ".abcdefghijklmnopqrstuvwxyz"  # "." ends a name
LANGUAGES = ("north", "south", "island")
LETTERS = 4

# The languages are made up: a name is two or three of a language's syllables.
_SYLLABLES = {
    "north": ("thor", "grim", "rik", "bjar", "ulf", "skal", "hild", "var"),
    "south": ("ella", "rino", "cora", "lio", "mara", "vito", "dona", "setta"),
    "island": ("ka", "lani", "moa", "keo", "nui", "hana", "pua", "loa"),
}


def names(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Return made-up names and the number of the language of each."""
    rng = np.random.default_rng(seed)
    languages = rng.integers(len(LANGUAGES), size=count)
    return [
        ("".join(rng.choice(_SYLLABLES[LANGUAGES[language]], rng.integers(2, 4))), int(language))
        for language in languages
    ]


def spelled(text: str) -> list[int]:
    """Return the numbers of a text's letters in ALPHABET."""
    return [ALPHABET.index(letter) for letter in text]


def words(count: int, length: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Return words of 1 to `length` letters, and the most frequent letter of each.

    Returns:
        letters int64 [count, length], from 0 to LETTERS - 1, at random behind a word's end; mask bool
        [count, length], True where a word has a letter; and the most frequent letters, int64 [count].
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(LETTERS, size=(count, length))
    mask = np.arange(length) < rng.integers(1, length + 1, size=(count, 1))
    counts = ((ids[:, :, None] == np.arange(LETTERS)) & mask[:, :, None]).sum(axis=1)
    return ids, mask, counts.argmax(axis=1)
