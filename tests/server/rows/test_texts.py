"""Texts that are filled up to the longest of all rows: whether that matters is a question of the vocabulary."""

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxserve_server.rows.analysis import analyse
from onnxserve_server.spec import Rows, RowVerdict
from support.brute_force import specs

TEXTS = ["good", "", "good day", "a bad # good   day", "day day bad day good bad", "#", "good bad"]
ATTRIBUTES = 'mincharnum = 1, pad_value = "#"'
SPLITS = {
    "at spaces": f't = com.microsoft.Tokenizer <mark = 0, separators = [" "], {ATTRIBUTES}> (flat)',
    "between marks": f't = com.microsoft.Tokenizer <mark = 1, separators = [" "], {ATTRIBUTES}> (flat)',
    "by an expression": f't = com.microsoft.Tokenizer <mark = 0, tokenexp = "[a-z]+", {ATTRIBUTES}> (flat)',
    "into pieces": "t, n = StringSplit (flat)",
}
FLAT = "w = Flatten (t)"
LAST = """minus = Constant <value_ints = [-1]> ()  one = Constant <value_ints = [1]> ()
    far = Constant <value_ints = [2147483647]> ()  w = Slice (t, minus, far, one)"""


def model(vocabulary, *, split="at spaces", between=FLAT, skips=0):
    """Counts of single words and of pairs, with up to `skips` words between the two."""
    count, places = len(vocabulary), list(range(2 * len(vocabulary)))
    pool = ", ".join(f'"{word}"' for word in (*vocabulary, *vocabulary, *vocabulary[::-1]))
    return onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (string[batch, 1] x) => (float[batch, {2 * count}] y) {{
        to = Constant <value_ints = [-1]> ()  flat = Reshape (x, to)  {SPLITS[split]}  {between}
        y = TfIdfVectorizer <mode = "TF", min_gram_length = 1, max_gram_length = 2, max_skip_count = {skips},
            ngram_counts = [0, {count}], ngram_indexes = {places}, pool_strings = [{pool}]> (w) }}""")


def alone_and_together(made):
    session = onnxruntime.InferenceSession(made.SerializeToString())
    texts = np.array(TEXTS, object).reshape(-1, 1)
    alone = [session.run(None, {"x": text.reshape(1, 1)})[0] for text in texts]
    return np.concatenate(alone), session.run(None, {"x": texts})[0]


@pytest.mark.parametrize("skips", [0, 1, 3])
@pytest.mark.parametrize("split", SPLITS)
def test_what_fills_up_texts_changes_nothing_if_it_is_in_no_vocabulary(split, skips):
    made = model(["good", "bad", "day", "a"], split=split, skips=skips)
    assert analyse(made, *specs(made)) == RowVerdict(Rows.INDEPENDENT)
    alone, together = alone_and_together(made)
    assert np.array_equal(alone, together)
    assert alone.any(axis=1).sum() > 4


@pytest.mark.parametrize(
    ("vocabulary", "options"),
    [
        (["good", "#"], {}),
        (["good", ""], {"split": "into pieces"}),
        (["good", "bad"], {"between": LAST}),
    ],
    ids=["a word for the filling", "a text for the filling", "the last word of the longest"],
)
def test_what_fills_up_texts_is_found_where_it_matters(vocabulary, options):
    made = model(vocabulary, **options)
    assert analyse(made, *specs(made)).rows is Rows.MEET
    alone, together = alone_and_together(made)
    assert not np.array_equal(alone, together)


def test_how_many_pieces_a_text_has_depends_on_no_other():
    made = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        g (string[batch] x) => (int64[batch] n) { t, n = StringSplit (x) }""")
    assert analyse(made, *specs(made)).rows is Rows.INDEPENDENT


@pytest.mark.parametrize("use", ["y = Shape (t)", "y = Identity (t)", "y = own.unknown (t)", "y = StringConcat (t, t)"])
def test_texts_that_are_filled_up_meet_in_whatever_else_is_done_with_them(use):
    made = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "own" : 1]>
        g (string[batch] flat) => (string[batch, words] y) {{ {SPLITS["at spaces"]}  {use} }}""")
    assert analyse(made, *specs(made)).rows is Rows.MEET
