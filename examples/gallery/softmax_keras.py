"""A subclassed Keras network, 10 units, 10 units, softmax over 10 classes: a .keras file that needs its class.

From the repository's root:

    python examples/gallery/softmax_keras.py
    onnxserve convert build/gallery/softmax-keras.keras --class examples/gallery/softmax_keras.py:Softmax \\
        --input 'x=float32[batch,10]' --output probabilities --to models/softmax-keras
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
from data import Split, largest
from keras import layers
from training import accuracy, must_reach, parse_folder, write_answers


@keras.saving.register_keras_serializable("gallery")
class Softmax(keras.Model):
    """x float32 [batch, 10] to probabilities [batch, 10]."""

    def __init__(self, **named) -> None:
        super().__init__(**named)
        self.hidden = layers.Dense(10, activation="tanh")
        self.head = layers.Dense(10, activation="softmax")

    def call(self, x):
        """Return probabilities."""
        return self.head(self.hidden(x))


def train(data: Split) -> Softmax:
    """Return a network that predicts which coordinate is the largest."""
    keras.utils.set_random_seed(0)
    model = Softmax()
    model.compile(keras.optimizers.Adam(3e-2), "sparse_categorical_crossentropy")
    model.fit(data.x, data.y, batch_size=128, epochs=12, verbose=0)
    scores = model.predict(data.held_out_x, verbose=0)
    must_reach("subclassed network in Keras, accuracy on held-out points", accuracy(scores, data.held_out_y), 0.75)
    return model


def answers(model: Softmax, data: Split, path: Path) -> None:
    """Write the answers of the network for 5 and 17 held-out points."""
    write_answers(
        path,
        lambda feeds: {"probabilities": model.predict(feeds["x"], verbose=0)},
        [{"x": data.held_out_x[:rows]} for rows in (5, 17)],
    )


def main(folder: Path) -> None:
    """Write softmax-keras.keras."""
    data = largest()
    model = train(data)
    model.save(folder / "softmax-keras.keras")
    answers(model, data, folder / "softmax-keras.npz")


if __name__ == "__main__":
    main(parse_folder(__doc__))
