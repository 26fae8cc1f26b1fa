"""Parts of a text (its words), and of a sequence of token ids (its positions)."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from onnxserve._models import TensorSpec
from onnxserve.explain._arrays import ExplainError
from onnxserve.explain._switches import Switches
from onnxserve.tensor import Array, strings_array

WORD = r"\w+(?:['\u2019-]\w+)*"
"""The regular expression of a word."""


class Words:
    """A text whose words can be hidden.

    Args:
        name: the input.
        instance: the text, one string, [1, ...].
        mask: the text that replaces a hidden word.
        word: the regular expression of a word; text between words is never hidden.
    """

    def __init__(self, name: str, instance: Array, *, mask: str, word: str) -> None:
        text = str(instance.item())
        spans = [match.span() for match in re.finditer(word, text) if match.group()]
        if not spans:
            raise ExplainError(f"input {name!r}: no word in {text!r}")
        self.shape = (1, len(spans))
        self.regions = np.arange(len(spans))
        self.names = tuple(text[first:last] for first, last in spans)
        self._name, self._row, self._mask = name, instance.shape[1:], mask
        ends = [0, *(end for span in spans for end in span), len(text)]
        self._between = [text[first:last] for first, last in pairwise(ends)][::2]

    def inputs(self, shown: Switches) -> Mapping[str, Array]:
        """Return the text for each row of switches."""
        return {self._name: strings_array([self._text(row) for row in shown], (len(shown), *self._row))}

    def _text(self, shown: Switches) -> str:
        words = [word if is_shown else self._mask for word, is_shown in zip(self.names, shown, strict=True)]
        return self._between[0] + "".join(
            f"{word}{after}" for word, after in zip(words, self._between[1:], strict=True)
        )


class Tokens:
    """A sequence of token ids whose positions can be hidden.

    Args:
        name: the input.
        instance: the ids, integers [1, positions].
        mask: the id that replaces a hidden one.
        names: the names of the positions; None: position and id.
    """

    def __init__(self, name: str, instance: Array, *, mask: int, names: Sequence[str] | None) -> None:
        if not instance.size:
            raise ExplainError(f"input {name!r} has no positions")
        if names is not None and len(names) != instance.size:
            raise ExplainError(f"expected {instance.size} names, one for each position, not {len(names)}")
        limits = np.iinfo(instance.dtype.name)
        if not limits.min <= mask <= limits.max:
            raise ExplainError(f"the mask {mask} is out of range for {instance.dtype}")
        self.shape = (1, instance.size)
        self.regions = np.arange(instance.size)
        self.names = tuple(names or (f"{position}: {number}" for position, number in enumerate(instance[0].tolist())))
        self._name, self._ids, self._hidden = name, instance, np.array(mask, instance.dtype)

    def inputs(self, shown: Switches) -> Mapping[str, Array]:
        """Return the ids for each row of switches."""
        return {self._name: np.where(shown, self._ids, self._hidden)}


def is_text(spec: TensorSpec) -> bool:
    """Whether an input is one text a row."""
    return spec.dtype == "string" and spec.shape[1:] in {(), (1,)} and spec.batch_axis == 0


def is_tokens(spec: TensorSpec) -> bool:
    """Whether an input may be token ids."""
    return spec.dtype in {"int32", "int64"} and len(spec.shape) == 2 and spec.batch_axis == 0
