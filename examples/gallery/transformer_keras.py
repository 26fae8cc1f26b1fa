"""A Transformer encoder in Keras with padding mask, free batch and free length: architecture and weights apart.

From the repository's root:

    python examples/gallery/transformer_keras.py
    onnxserve convert build/gallery/transformer-keras.json \\
        --weights build/gallery/transformer-keras.weights.h5 \\
        --class examples/gallery/transformer_keras.py:Summary --range ids=0:3 \\
        --input 'ids=int32[batch,time]' --input 'mask=bool[batch,time]' --output logits \\
        --to models/transformer-keras

It predicts the most frequent of four letters in a word.
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
from keras import layers, ops
from letters import LETTERS, words
from training import accuracy, must_reach, parse_folder, write_answers

UNITS, HEADS, LAYERS, LONGEST = 32, 4, 2, 64


@keras.saving.register_keras_serializable("gallery")
class Summary(layers.Layer):
    """Puts a learnt summary in front of a word's letters, [batch, time, units], and adds to each its position."""

    def __init__(self, longest: int, units: int, **named) -> None:
        super().__init__(**named)
        self._longest, self._units = longest, units
        self.summary = self.add_weight((1, 1, units), "random_normal", name="summary")
        self.places = self.add_weight((longest + 1, units), "random_normal", name="places")

    def call(self, letters):
        """Return the letters with the summary in front."""
        first = ops.broadcast_to(self.summary, (ops.shape(letters)[0], 1, self._units))
        x = ops.concatenate([first, letters], axis=1)
        return x + self.places[: ops.shape(x)[1]]

    def compute_output_shape(self, input_shape):
        """Return the shape of the result of call()."""
        rows, time, units = input_shape
        return rows, None if time is None else time + 1, units

    def get_config(self):
        """Return the arguments, for saving."""
        return {**super().get_config(), "longest": self._longest, "units": self._units}


def network() -> keras.Model:
    """Return an untrained encoder.

    It takes ids int32 [batch, time] and mask bool [batch, time], True where there is a letter, and gives logits
    [batch, 4].
    """
    ids = keras.Input((None,), dtype="int32", name="ids")
    mask = keras.Input((None,), dtype="bool", name="mask")
    x = Summary(LONGEST, UNITS)(layers.Embedding(LETTERS, UNITS)(ids))
    seen = ops.expand_dims(ops.pad(mask, ((0, 0), (1, 0)), constant_values=True), 1)  # the summary is seen always
    for _ in range(LAYERS):
        attended = layers.MultiHeadAttention(HEADS, UNITS // HEADS)(x, x, attention_mask=seen)
        x = layers.LayerNormalization()(x + attended)
        x = layers.LayerNormalization()(x + layers.Dense(UNITS)(layers.Dense(2 * UNITS, activation="gelu")(x)))
    return keras.Model([ids, mask], layers.Dense(LETTERS, name="logits")(x[:, 0]))


def train() -> keras.Model:
    """Return an encoder trained on words of up to 24 letters."""
    keras.utils.set_random_seed(0)
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    for step in range(300):
        ids, mask, right = words(64, 24, seed=step)
        model.train_on_batch([ids.astype("int32"), mask], right)
    return model


def main(folder: Path) -> None:
    """Write transformer-keras.json and transformer-keras.weights.h5."""
    model = train()

    def run(feeds):
        return {"logits": keras.ops.convert_to_numpy(model([feeds["ids"], feeds["mask"]], training=False))}

    ids, mask, right = words(500, 20, seed=1000)
    reached = accuracy(run({"ids": ids.astype("int32"), "mask": mask})["logits"], right)
    must_reach("Transformer in Keras, share of right words", reached, 0.9)
    (folder / "transformer-keras.json").write_text(model.to_json())
    model.save_weights(folder / "transformer-keras.weights.h5")
    asked = [words(rows, length, seed=2000) for rows, length in ((5, 23), (17, 3), (2, 1))]
    write_answers(
        folder / "transformer-keras.npz",
        run,
        [{"ids": ids.astype("int32"), "mask": mask} for ids, mask, _ in asked],
    )


if __name__ == "__main__":
    main(parse_folder(__doc__))
