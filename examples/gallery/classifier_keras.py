"""Dense layers of 64, 32 and 1 units in Keras that classify tumours as benign or malignant: a whole-model .h5.

From the repository's root:

    python examples/gallery/classifier_keras.py
    onnxserve convert build/gallery/classifier-keras.h5 --to models/classifier-keras
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
from data import tumours
from keras import layers
from training import must_reach, parse_folder, write_answers


def train(x, y) -> keras.Model:
    """Return a network from measurements float32 [batch, 30] to the probability of benign, [batch, 1]."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((30,), name="measurements"),
            layers.Dense(64, activation="relu"),
            layers.Dense(32, activation="relu"),
            layers.Dense(1, activation="sigmoid", name="benign"),
        ]
    )
    model.compile("adam", "binary_crossentropy")
    model.fit(x, y, epochs=15, verbose=0)
    return model


def main(folder: Path) -> None:
    """Write classifier-keras.h5."""
    data = tumours()
    model = train(data.x, data.y)

    def run(feeds):
        return {"benign": model.predict(feeds["measurements"], verbose=0)}

    benign = run({"measurements": data.held_out_x})["benign"] > 0.5
    must_reach("classifier in Keras, accuracy on held-out tumours", float((benign == data.held_out_y).mean()), 0.9)
    model.save(folder / "classifier-keras.h5")
    write_answers(folder / "classifier-keras.npz", run, [{"measurements": data.held_out_x[:rows]} for rows in (5, 17)])


if __name__ == "__main__":
    main(parse_folder(__doc__))
