"""Writes small networks of Keras 2 and their answers to a folder.

    python keras2_nets.py FOLDER

It runs in a process of its own, so that TensorFlow is not loaded into the tests' process. For each network there are
NAME.h5, the whole; NAME.json, its architecture; NAME.w.h5 and NAME.weights.h5, its weights in the older and the newer
layout; and NAME.npz.
"""

import os
import sys
from pathlib import Path

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
import numpy as np
import tf_keras as keras
from tf_keras import layers


def recurrent():
    """Layers that have time_major, among them one with the hard_sigmoid of Keras 2."""
    x = layers.Input((None, 4), name="x")
    both = layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)
    lstm, h, c = layers.LSTM(3, return_sequences=True, return_state=True, name="lstm")(x)
    return keras.Model(
        x,
        {
            "hard": layers.LSTM(3, recurrent_activation="hard_sigmoid", name="hard")(x),
            "continued": layers.LSTM(3, recurrent_dropout=0.5, name="continued")(lstm, initial_state=[h, c]),
            "steps": layers.TimeDistributed(layers.Dense(2, activation="hard_sigmoid"), name="steps")(both),
        },
    )


def cells():
    """Recurrent layers of other kinds, and a mask."""
    x = layers.Input((None, 4), name="x")
    masked = layers.Masking()(x)
    return keras.Model(
        x,
        {
            "stacked": layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], name="stacked")(x),
            "simple": layers.SimpleRNN(3, name="simple")(masked),
            "before": layers.GRU(3, reset_after=False, name="before")(masked),
        },
    )


def stateful():
    inputs = layers.Input(batch_shape=(5, None, 4), name="x")
    return keras.Model(inputs, layers.GRU(3, stateful=True, name="remembering")(inputs))


def block():
    """Attention with a mask given by keyword, and nested models of both kinds, one of them called twice."""
    tokens, padding = layers.Input((None, 8), name="tokens"), layers.Input((None, None), dtype="bool", name="padding")
    wide = keras.Sequential([layers.Dense(16, activation="gelu", input_shape=(None, 8)), layers.Dense(8)])
    given = layers.Input((None, 8))
    narrow = keras.Model(given, layers.Dense(4)(given))
    hidden = layers.MultiHeadAttention(2, 4)(tokens, tokens, attention_mask=padding)
    hidden = layers.LayerNormalization()(layers.Add()([tokens, wide(hidden)]))
    joined = layers.Concatenate()([narrow(hidden), narrow(tokens)])
    return keras.Model([tokens, padding], layers.Attention(name="mixed")([joined, joined]))


def image():
    """Layers whose arguments Keras 3 no longer has."""
    return keras.Sequential([
        layers.RandomFlip(input_shape=(8, 8, 3)),
        layers.SeparableConv2D(4, 3, padding="same"),
        layers.DepthwiseConv2D(3),
        layers.Conv2DTranspose(2, 3),
        layers.BatchNormalization(),
        layers.SpatialDropout2D(0.5),
        layers.GlobalMaxPooling2D(),
        layers.Dense(3, name="scores", dtype=keras.mixed_precision.Policy("float32")),
    ])  # fmt: skip


def base():
    """A functional model inside a Sequential."""
    given = layers.Input((4,))
    return keras.Sequential([keras.Model(given, layers.Dense(3)(given)), layers.Dense(2, name="scores")])


def uneven():
    """An average that takes no padding into account, as it should."""
    x = layers.Input((8, 8, 3), name="x")
    return keras.Model(x, layers.AveragePooling2D(3, 2, padding="same", name="average")(x))


class Doubling(layers.Layer):
    """x to 2 x."""

    def call(self, x):
        return x * 2


def own():
    """A model with a custom layer."""
    x = layers.Input((4,), name="x")
    return keras.Model(x, Doubling(name="doubled")(layers.Dense(2)(x)))


def operators():
    """Operators between tensors, which Keras 2 writes as layers of TensorFlow."""
    x = layers.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2, name="scores")(x * 2 + 1))


def main(folder):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)

    def keep(name, model, output=None, **inputs):
        weights = model.get_weights()
        model.set_weights([weight + rng.uniform(0, 0.3, weight.shape).astype(weight.dtype) for weight in weights])
        if name == "stateful":
            model.reset_states()
        outputs = model(inputs if len(inputs) > 1 else next(iter(inputs.values())), training=False)
        outputs = outputs if isinstance(outputs, dict) else {output: outputs}
        arrays = inputs | {name: np.asarray(value) for name, value in outputs.items()}
        np.savez(folder / f"{name}.npz", allow_pickle=False, **arrays)
        model.save(folder / f"{name}.h5")
        model.save_weights(folder / f"{name}.w.h5")
        model.save_weights(folder / f"{name}.weights.h5")
        (folder / f"{name}.json").write_text(model.to_json())

    def floats(*shape):
        return rng.normal(size=shape).astype("float32")

    steps, padded = floats(5, 8, 4), floats(5, 8, 4)
    padded[2:, 5:] = 0
    keep("recurrent", recurrent(), x=steps)
    keep("cells", cells(), x=padded)
    keep("stateful", stateful(), "remembering", x=steps)
    keep("block", block(), "mixed", tokens=floats(5, 8, 8), padding=np.tri(8, dtype=bool)[None].repeat(5, 0))
    keep("image", image(), "scores", x=floats(5, 8, 8, 3))
    keep("base", base(), "scores", x=floats(5, 4))
    keep("uneven", uneven(), "average", x=floats(5, 8, 8, 3))
    keep("own", own(), "doubled", x=floats(5, 4))
    keep("operators", operators(), "scores", x=floats(5, 4))
    operators().save(folder / "operators.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
