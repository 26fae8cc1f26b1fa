"""Writes Keras models that begin with layers of strings, with TensorFlow, to the folder that is the argument."""

import os
import sys
from pathlib import Path

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

import keras

layers = keras.layers
folder = Path(sys.argv[1])

learned = layers.TextVectorization(output_sequence_length=8, name="words_of_reviews")
learned.adapt(["a good film", "a bad story so sad"])
sequential = keras.Sequential([
    keras.Input((1,), dtype="string"), learned, layers.Embedding(20, 4), layers.GlobalAveragePooling1D(),
    layers.Dense(1, activation="sigmoid"),
])  # fmt: skip
sequential.save(folder / "sequential.keras")

colour, number = keras.Input((1,), dtype="string", name="colour"), keras.Input((3,), name="number")
known = layers.StringLookup(vocabulary=["red", "green"], name="known")(colour)
both = layers.Concatenate()([layers.Flatten()(layers.Embedding(5, 4)(known)), number])
keras.Model([colour, number], layers.Dense(1)(both)).save(folder / "functional.keras")
