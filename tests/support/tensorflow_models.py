"""Writes small TensorFlow and Keras 2 models and their answers to a folder.

    python tensorflow_models.py FOLDER

It runs in a process of its own, so that TensorFlow is not loaded into the tests' process.
"""

import os
import sys
from pathlib import Path

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers


class Scores(tf.Module):
    """x [batch, 3] to two outputs of different widths, with the exact GELU."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.narrow = tf.Variable(rng.normal(size=(3, 2)).astype("float32"))
        self.wide = tf.Variable(rng.normal(size=(3, 4)).astype("float32"))

    def __call__(self, x):
        hidden = tf.nn.gelu(tf.matmul(x, self.wide), approximate=False)
        return {"probabilities": tf.nn.softmax(tf.matmul(x, self.narrow)), "hidden": hidden}


class Words(tf.Module):
    """word [batch], strings, to their numbers, and -1 for unknown ones."""

    def __init__(self):
        words = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64))
        self.table = tf.lookup.StaticHashTable(words, -1)

    def __call__(self, word):
        return {"number": self.table.lookup(word), "again": tf.identity(word)}


def main(folder):
    tf_keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 3)).astype("float32")

    scores = Scores()
    save(scores, folder / "scores", serving_default=(scores, {"x": (None, 3)}))
    answers(folder / "scores.npz", {"x": x}, scores(x))
    save(scores, folder / "static", serving_default=(scores, {"x": (2, 3)}))
    save(scores, folder / "unranked", serving_default=(scores, {"x": None}))
    save(scores, folder / "two_signatures", first=(scores, {"x": (None, 3)}), second=(scores, {"x": (1, 3)}))
    save(scores, folder / "renamed", score=(scores, {"x": (None, 3)}))
    tf.saved_model.save(scores, str(folder / "no_signature"))

    words = Words()
    save(words, folder / "words", serving_default=(words, {"word": (None,)}), dtype=tf.string)

    recurrent = tf_keras.Sequential([layers.Input((None, 4), name="steps"), layers.LSTM(5), layers.Dense(2)])
    tf.saved_model.save(recurrent, str(folder / "recurrent"))
    steps = rng.normal(size=(5, 7, 4)).astype("float32")
    answers(folder / "recurrent.npz", {"steps": steps}, {"dense": recurrent(steps)})

    tokens = layers.Input((None, 8), name="tokens")
    mixed = layers.LayerNormalization()(tokens + layers.MultiHeadAttention(2, 4)(tokens, tokens))
    mixed = layers.Dense(8, activation=tf_keras.activations.gelu)(mixed)
    pooled = layers.GlobalAveragePooling1D()(mixed)
    attention = tf_keras.Model(tokens, [layers.Dense(3, name="wide")(pooled), layers.Dense(1, name="narrow")(pooled)])
    attention.save(folder / "attention.h5")
    given = rng.normal(size=(5, 7, 8)).astype("float32")
    answers(folder / "attention.npz", {"tokens": given}, dict(zip(("wide", "narrow"), attention(given), strict=True)))

    doubled = layers.Lambda(lambda array: array * 2)(layers.MultiHeadAttention(2, 4)(tokens, tokens))
    tf_keras.Model(tokens, doubled).save(folder / "lambda.h5")


def save(module, folder, dtype=tf.float32, **signatures):
    """Save a module as a SavedModel; a signature is what is called, and the shapes of its inputs by name."""
    concrete = {
        name: tf.function(call).get_concrete_function(
            **{given: tf.TensorSpec(shape, dtype, name=given) for given, shape in shapes.items()}
        )
        for name, (call, shapes) in signatures.items()
    }
    tf.saved_model.save(module, str(folder), signatures=concrete)


def answers(file, inputs, outputs):
    """Write arrays of inputs and outputs, by name."""
    np.savez(file, allow_pickle=False, **inputs, **{name: np.asarray(value) for name, value in outputs.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
