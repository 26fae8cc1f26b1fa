"""An LSTM and a GRU in Keras that classify the language of a made-up name of any length.

From the repository's root:

    python examples/gallery/rnn_keras.py
    onnxserve convert build/gallery/lstm-keras.keras --range ids=0:26 --input 'ids=int32[batch,time]' \\
        --output probabilities --to models/lstm-keras
    onnxserve convert build/gallery/gru-keras.h5 --range ids=0:26 --input 'ids=int32[batch,time]' \\
        --output probabilities --to models/gru-keras
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # the usual one; files are the same with all
import keras
import numpy as np
from keras import layers
from letters import ALPHABET, LANGUAGES, names, spelled
from training import accuracy, must_reach, parse_folder, write_answers


def network(recurrent: layers.Layer) -> keras.Model:
    """Return an untrained network from ids int32 [batch, time] to probabilities [batch, 3]."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="ids"),
            layers.Embedding(len(ALPHABET), 16),
            recurrent,
            layers.Dense(len(LANGUAGES), activation="softmax", name="probabilities"),
        ]
    )


def batches(count: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give `count` names and their languages, 32 at a time at most: ids int32 [n, time], all of one length."""
    waiting = defaultdict(list)
    for name, language in names(count, seed):
        group = waiting[len(name)]
        group.append((spelled(name), language))
        if len(group) == 32:
            yield _stacked(group)
            group.clear()
    yield from (_stacked(group) for group in waiting.values() if group)


def train(model: keras.Model) -> float:
    """Train a network, and return its accuracy on new names."""
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    for ids, languages in batches(2000):
        model.train_on_batch(ids, languages)
    shares = [accuracy(model.predict_on_batch(ids), languages) for ids, languages in batches(300, seed=1)]
    return float(np.mean(shares))


def answers(model: keras.Model, path: Path) -> None:
    """Write the answers of a network for 5 names of 23 letters, 17 of 3 and 2 of a single one."""
    text = spelled("".join(name for name, _ in names(200, seed=2)))
    asked = [np.array(text[: rows * time], np.int32).reshape(rows, time) for rows, time in ((5, 23), (17, 3), (2, 1))]
    write_answers(
        path,
        lambda feeds: {"probabilities": keras.ops.convert_to_numpy(model(feeds["ids"], training=False))},
        [{"ids": ids} for ids in asked],
    )


def _stacked(group: list[tuple[list[int], int]]) -> tuple[np.ndarray, np.ndarray]:
    ids, languages = zip(*group, strict=True)
    return np.array(ids, np.int32), np.array(languages)


def main(folder: Path) -> None:
    """Write lstm-keras.keras and gru-keras.h5."""
    keras.utils.set_random_seed(0)
    lstm, gru = network(layers.LSTM(24)), network(layers.GRU(24))
    must_reach("LSTM in Keras, accuracy on new names", train(lstm), 0.9)
    lstm.save(folder / "lstm-keras.keras")
    answers(lstm, folder / "lstm-keras.npz")
    must_reach("GRU in Keras, accuracy on new names", train(gru), 0.9)
    gru.save(folder / "gru-keras.h5")
    answers(gru, folder / "gru-keras.npz")


if __name__ == "__main__":
    main(parse_folder(__doc__))
