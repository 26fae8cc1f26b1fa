"""A small residual network with batch normalisation in Keras: a .keras file.

From the repository's root:

    python examples/gallery/resnet_keras.py
    onnxserve convert build/gallery/resnet-keras.keras --to models/resnet-keras
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
from data import digits
from keras import layers
from training import accuracy, must_reach, parse_folder, write_answers


def network(width: int) -> keras.Model:
    """Return an untrained network from image float32 [batch, 32, 32, 3] to logits [batch, 10]."""
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(width, 4, strides=4, use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = block(block(x, width, 1), 2 * width, 2)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x))


def block(x, width: int, stride: int):
    """Return two convolutions whose result is added to what came in; where the size changes, a third makes it fit."""
    y = layers.Conv2D(width, 3, stride, "same", use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
    y = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(width, 3, padding="same", use_bias=False)(y))
    if stride > 1:
        x = layers.Conv2D(width, 1, stride, use_bias=False)(x)
    return layers.ReLU()(layers.Add()([x, y]))


def train(images, labels) -> keras.Model:
    """Return a network that reads the digits."""
    keras.utils.set_random_seed(0)
    model = network(width=16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(images, labels, epochs=6, verbose=0)
    return model


def main(folder: Path) -> None:
    """Write resnet-keras.keras."""
    data = digits()
    images, held_out = (array.transpose(0, 2, 3, 1) for array in (data.x, data.held_out_x))
    model = train(images, data.y)

    def run(feeds):
        return {"logits": model.predict(feeds["image"], verbose=0)}

    read = run({"image": held_out})["logits"]
    must_reach("residual network in Keras, accuracy on held-out digits", accuracy(read, data.held_out_y), 0.9)
    model.save(folder / "resnet-keras.keras")
    write_answers(folder / "resnet-keras.npz", run, [{"image": held_out[:rows]} for rows in (5, 17)])


if __name__ == "__main__":
    main(parse_folder(__doc__))
