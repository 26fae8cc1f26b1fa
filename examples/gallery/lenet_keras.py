"""LeNet-5 in Keras, reading handwritten digits: the architecture as JSON, the weights beside it.

From the repository's root:

    python examples/gallery/lenet_keras.py
    onnxserve convert build/gallery/lenet-keras.json --weights build/gallery/lenet-keras.weights.h5 \\
        --to models/lenet-keras

Keras has the channels last: image is float32 [batch, 32, 32, 3].
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
from data import digits
from keras import layers
from training import accuracy, must_reach, parse_folder, write_answers


def train(images, labels) -> keras.Model:
    """Return a network from image float32 [batch, 32, 32, 3] to probabilities [batch, 10]."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3), name="image"),
            *(layers.Conv2D(6, 5, activation="relu"), layers.MaxPooling2D()),
            *(layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D()),
            *(layers.Flatten(), layers.Dense(120, activation="relu"), layers.Dense(84, activation="relu")),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=4, verbose=0)
    return model


def main(folder: Path) -> None:
    """Write lenet-keras.json and lenet-keras.weights.h5."""
    data = digits()
    images, held_out = (array.transpose(0, 2, 3, 1) for array in (data.x, data.held_out_x))
    model = train(images, data.y)

    def run(feeds):
        return {"probabilities": model.predict(feeds["image"], verbose=0)}

    read = run({"image": held_out})["probabilities"]
    must_reach("LeNet in Keras, accuracy on held-out digits", accuracy(read, data.held_out_y), 0.9)
    (folder / "lenet-keras.json").write_text(model.to_json())
    model.save_weights(folder / "lenet-keras.weights.h5")
    write_answers(folder / "lenet-keras.npz", run, [{"image": held_out[:rows]} for rows in (5, 17)])


if __name__ == "__main__":
    main(parse_folder(__doc__))
