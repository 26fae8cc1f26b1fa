"""Small Keras networks, and a writer of their files and answers.

    python keras_nets.py FOLDER

It runs in a process of its own, so that the tests' process needs no Keras. Conversions of the files import classes from
here.
"""

import os
import random
import shutil
import sys
from pathlib import Path

os.environ |= {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": "cpu"}
import keras
import numpy as np
import torch
from keras import layers, ops

from onnxserve_converters.in_memory import source_file


class Softmax(keras.Model):
    """x [batch, 10] to probabilities [batch, 10]; it has no graph, and no get_config() either."""

    def __init__(self, **options):
        super().__init__(**options)
        self.hidden = layers.Dense(10, activation="relu")
        self.scores = layers.Dense(10, activation="softmax")

    def call(self, x):
        return self.scores(self.hidden(x))


class Gates(keras.Model):
    """left [batch, 4] and right [batch, 6], as arguments of their own, to a sum and a gate."""

    def __init__(self, units=3, **options):
        super().__init__(**options)
        self.units = units
        self.left = layers.Dense(units)
        self.right = layers.Dense(units, activation="sigmoid")

    def call(self, left, right):
        gate = self.right(right)
        return {"sum": self.left(left) + gate, "gate": gate}

    def get_config(self):
        return {"units": self.units}


class Pairs(keras.Model):
    """[u, v], both [batch, 4], or {"u": u, "v": v}, to a list of two."""

    def __init__(self, by_name=True, **options):
        super().__init__(**options)
        self.by_name = by_name
        self.mixed = layers.Dense(5)

    def call(self, inputs):
        u, v = (inputs["u"], inputs["v"]) if self.by_name else inputs
        return [self.mixed(u) + self.mixed(v), v * 2]


class Doubling(layers.Layer):
    """x to 2 x."""

    def call(self, x):
        return x * 2


class Leaping(layers.Layer):
    """A recurrent cell that leaves torch at each step, so that no exporter can follow it."""

    state_size = output_size = 4

    def call(self, x, states):
        state = torch.tensor(np.tanh(x.detach().numpy() + states[0].detach().numpy()))
        return state, [state]


def dense():
    return keras.Sequential([
        keras.Input((2,), name="x"),
        layers.Dense(64, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(32, activation="relu"),
        layers.Dense(1, activation="sigmoid", name="probability"),
    ])  # fmt: skip


def image():
    return keras.Sequential([
        keras.Input((8, 8, 3), name="image"),
        layers.Rescaling(0.5),
        layers.RandomFlip(),
        layers.Conv2D(4, 3, strides=2, padding="same"),
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        layers.AveragePooling2D(2, padding="same"),
        layers.Flatten(),
        layers.Dense(3, name="scores"),
    ])  # fmt: skip


def recurrent():
    x = keras.Input((None, 4), name="x")
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    dropping = {"dropout": 0.2, "recurrent_dropout": 0.2, "use_bias": False}
    return keras.Model(
        x,
        {
            "lstm": layers.LSTM(5, return_sequences=True, **dropping)(x),
            "gru": layers.GRU(5, go_backwards=True, use_bias=False)(x),
            "steps": layers.TimeDistributed(layers.Dense(2))(both),
        },
    )


def scanned():
    x, ids = keras.Input((None, 4), name="x"), keras.Input((None,), dtype="int32", name="ids")
    words = layers.Embedding(7, 4, mask_zero=True)(ids)
    return keras.Model(
        [x, ids],
        {
            "simple": layers.SimpleRNN(3, return_sequences=True)(x),
            "relu": layers.LSTM(3, activation="relu")(x),
            "stacked": layers.RNN([layers.LSTMCell(3), layers.GRUCell(2, reset_after=False)])(x),
            "masked": layers.Bidirectional(layers.LSTM(3, return_sequences=True))(words),
            "zeroed": layers.GRU(3, return_sequences=True, zero_output_for_mask=True)(words),
        },
    )


def block():
    tokens, mask = keras.Input((None, 8), name="tokens"), keras.Input((None,), dtype="bool", name="mask")
    attended = layers.MultiHeadAttention(2, 4)(tokens, tokens, attention_mask=ops.expand_dims(mask, 1))
    hidden = layers.LayerNormalization()(tokens + attended)
    wide = layers.Activation("gelu")(layers.Dense(16)(hidden))
    return keras.Model([tokens, mask], layers.LayerNormalization(name="encoded")(hidden + layers.Dense(8)(wide)))


def pair():
    b, a = keras.Input((4,), name="b"), keras.Input((3,), name="a")
    both = layers.Concatenate()([b, a])
    return keras.Model({"b": b, "a": a}, {"q": layers.Dense(2)(both), "p": layers.Dense(1)(both)})


def stateful():
    return keras.Sequential([
        keras.Input(batch_shape=(5, None, 4), name="x"),
        layers.LSTM(3, stateful=True, name="remembering"),
    ])  # fmt: skip


def alone(layer, *shape):
    return keras.Sequential([keras.Input(shape, name="x"), layer])


def main(folder):
    random.seed(0)  # Keras draws its seeds from it
    rng = np.random.default_rng(0)

    def keep(name, model, output=None, **inputs):
        """Write a model and its answers, by its own names or as the one output."""
        answer(model, inputs)  # creates the variables of a subclassed model
        model.set_weights([weight + noise(weight) for weight in model.get_weights()])
        model.save(folder / f"{name}.keras")
        outputs = answer(model, inputs)
        outputs = outputs if isinstance(outputs, dict) else {output: outputs}
        np.savez(folder / f"{name}.npz", **inputs, **{name: ops.convert_to_numpy(outputs[name]) for name in outputs})
        return model

    def noise(weight):
        return rng.uniform(0, 0.3, weight.shape).astype(weight.dtype) if weight.dtype.kind == "f" else 0

    def floats(*shape):
        return rng.normal(size=shape).astype("float32")

    steps, ids = floats(5, 8, 4), rng.integers(0, 3, (5, 8)).astype("int32")
    keep("dense", dense(), "probability", x=floats(5, 2))
    keep("softmax", Softmax(), "output", x=floats(5, 10))
    keep("recurrent", recurrent(), x=steps)
    keep("scanned", scanned(), x=steps, ids=ids)
    keep("block", block(), "encoded", tokens=floats(5, 8, 8), mask=ids > 0)
    keep("stateful", stateful(), "remembering", x=steps)
    keep("lambda", alone(layers.Lambda(lambda x: x * 2, name="doubled"), 3), "doubled", x=floats(5, 3))
    keep("doubling", alone(Doubling(name="doubled"), 3), "doubled", x=floats(5, 3))
    keep("leaping", alone(layers.RNN(Leaping(), name="last"), None, 4), "last", x=steps)
    gates = keep("gates", Gates(units=6), left=floats(5, 4), right=floats(5, 6))
    gates.save_weights(folder / "gates.weights.h5")
    deep = keep("image", image(), "scores", image=floats(5, 8, 8, 3))
    deep.save(folder / "image.h5")
    deep.save_weights(folder / "image.weights.h5")
    both = keep("pair", pair(), b=floats(5, 4), a=floats(5, 3))
    both.save_weights(folder / "pair.weights.h5")
    (folder / "pair.json").write_text(both.to_json())

    pairs = Pairs()
    pairs({name: floats(5, 4) for name in ("u", "v")})
    pairs.save_weights(folder / "pairs.weights.h5")
    with source_file(gates) as file:
        shutil.copytree(file.path.parent, folder / "in_memory")
    called = keras.Sequential([layers.Dense(2)])
    called(floats(2, 3))
    called.save(folder / "called.keras")
    alone(layers.AveragePooling2D(3, 2, padding="same"), 8, 8, 3).save(folder / "averages.keras")
    alone(layers.Resizing(4, 4, "bicubic"), 8, 8, 3).save(folder / "bicubic.keras")
    x = keras.Input((3,))
    keras.Model(x, layers.Dense(3)(x) + x).save(folder / "sum.h5")
    keras.Model(x, ops.relu(x)).save(folder / "function.h5")


def answer(model, inputs):
    """Return a model's outputs, as for inference and from zero states."""
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_state()
    with torch.no_grad():
        if isinstance(model, Gates):
            return model(**inputs, training=False)
        return model(inputs if len(inputs) > 1 else next(iter(inputs.values())), training=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
