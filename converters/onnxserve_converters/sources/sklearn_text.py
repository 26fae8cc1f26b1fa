"""scikit-learn models that read texts: which do, how skl2onnx is to export them, and texts to try them with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import get_tags

from onnxserve_converters.errors import BadRequest

# By skl2onnx's own choice, words end at letters that ASCII lacks and have one letter, too; and the locale that lower
# case is made with is one that few machines have. C.UTF-8 knows the same letters, and comes with Debian, Ubuntu and
# Red Hat, and their container images.
_LOCALE = "C.UTF-8"
_PATTERN = CountVectorizer().token_pattern
_PATTERN_OF_RE2 = r"[\p{L}\p{N}_]{2,}"

_MOST_WORDS = 64
_ODD_WORDS = ("a", "Don't", "e-mail", "café", "Über", "2.0", ",", "")


def reads_texts(estimator: Any) -> bool:
    """Say whether it takes texts, one a row, in place of a table."""
    first = getattr(estimator, "best_estimator_", estimator)
    while isinstance(first, Pipeline | FeatureUnion):
        first = first.steps[0][1] if isinstance(first, Pipeline) else first.transformer_list[0][1]
    if not isinstance(first, BaseEstimator):  # "passthrough"
        return False
    takes = get_tags(first).input_tags
    return bool(takes.string and not takes.two_d_array)


def vectorizers(estimator: Any) -> Iterator[CountVectorizer]:
    """Give what counts words, TfidfVectorizer among it, wherever in the estimator it is."""
    match getattr(estimator, "best_estimator_", estimator):
        case CountVectorizer() as found:
            yield found
        case Pipeline(steps=parts) | FeatureUnion(transformer_list=parts) | ColumnTransformer(transformers_=parts):
            for part in parts:
                yield from vectorizers(part[1])


def check(path: Path, estimator: Any) -> None:
    """Refuse what would be exported without a word and do something else.

    Raises:
        BadRequest: it leaves out stop words before it puts words in groups; ONNX has no way to do so.
    """
    for found in vectorizers(estimator):
        if found.analyzer == "word" and found.ngram_range[1] > 1 and found.get_stop_words():
            raise BadRequest(
                f"{path}: its {type(found).__name__} has stop_words and the ngram_range {found.ngram_range}: in ONNX "
                "the words around a stop word would form no group; train it with one of the two"
            )


def options(estimator: Any) -> dict[int, dict[str, str]]:
    """Return how skl2onnx is to export what counts words, so that it splits texts as scikit-learn does."""
    told = {}
    for found in vectorizers(estimator):
        by_pattern = found.analyzer == "word" and found.token_pattern == _PATTERN
        told[id(found)] = {"locale": _LOCALE} | ({"tokenexp": _PATTERN_OF_RE2} if by_pattern else {})
    return told


def words(estimator: Any) -> tuple[str, ...]:
    """Return words to try it with: some that it knows, in lower and upper case, and some that are hard to split.

    () where nothing in it counts words.
    """
    known = sorted(word for found in vectorizers(estimator) for word in found.vocabulary_)
    some = known[:: 1 + len(known) // _MOST_WORDS]
    return (*some, *(word.upper() for word in some), *_ODD_WORDS) if known else ()
