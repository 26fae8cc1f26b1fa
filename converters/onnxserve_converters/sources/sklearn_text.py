"""scikit-learn models that read texts: detection, options of skl2onnx for their export, words to test them on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import get_tags

from onnxserve_converters.errors import BadRequest

# By default skl2onnx ends words at letters outside ASCII, accepts words of one letter, and lowercases by a locale that
# few machines have. C.UTF-8 has the same letters, and comes with Debian, Ubuntu and Red Hat and their container images.
_LOCALE = "C.UTF-8"
_PATTERN = CountVectorizer().token_pattern
_PATTERN_OF_RE2 = r"[\p{L}\p{N}_]{2,}"

_MAX_WORDS = 64
_ODD_WORDS = ("a", "Don't", "e-mail", "café", "Über", "2.0", ",", "")


def reads_texts(estimator: Any) -> bool:
    """Whether an estimator takes texts, one a row, in place of a table."""
    first = getattr(estimator, "best_estimator_", estimator)
    while isinstance(first, Pipeline | FeatureUnion):
        first = first.steps[0][1] if isinstance(first, Pipeline) else first.transformer_list[0][1]
    if not isinstance(first, BaseEstimator):  # "passthrough"
        return False
    takes = get_tags(first).input_tags
    return bool(takes.string and not takes.two_d_array)


def vectorizers(estimator: Any) -> Iterator[CountVectorizer]:
    """Yield the CountVectorizers (TfidfVectorizer is one) anywhere in an estimator."""
    match getattr(estimator, "best_estimator_", estimator):
        case CountVectorizer() as found:
            yield found
        case Pipeline(steps=parts) | FeatureUnion(transformer_list=parts) | ColumnTransformer(transformers_=parts):
            for part in parts:
                yield from vectorizers(part[1])


def check(path: Path, estimator: Any) -> None:
    """Refuse estimators whose export would silently give other results.

    Raises:
        BadRequest: a vectorizer has both stop words and groups of words, which ONNX cannot combine.
    """
    for found in vectorizers(estimator):
        if found.analyzer == "word" and found.ngram_range[1] > 1 and found.get_stop_words():
            raise BadRequest(
                f"{path}: {type(found).__name__} has both stop_words and ngram_range={found.ngram_range}, which ONNX "
                "cannot combine: words around a stop word would form no group; train it with one of the two"
            )


def options(estimator: Any) -> dict[int, dict[str, str]]:
    """Return skl2onnx's options by vectorizer, so that it splits texts as scikit-learn does."""
    chosen = {}
    for found in vectorizers(estimator):
        by_pattern = found.analyzer == "word" and found.token_pattern == _PATTERN
        chosen[id(found)] = {"locale": _LOCALE} | ({"tokenexp": _PATTERN_OF_RE2} if by_pattern else {})
    return chosen


def words(estimator: Any) -> tuple[str, ...]:
    """Return words to test on: some of the vocabulary, in lower and upper case, and some that are hard to split.

    () without a vectorizer.
    """
    known = sorted(word for found in vectorizers(estimator) for word in found.vocabulary_)
    some = known[:: 1 + len(known) // _MAX_WORDS]
    return (*some, *(word.upper() for word in some), *_ODD_WORDS) if known else ()
