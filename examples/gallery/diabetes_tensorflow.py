"""A tf.Module of TensorFlow that predicts the progression of an illness: a SavedModel folder.

From the repository's root:

    python examples/gallery/diabetes_tensorflow.py
    onnxserve convert build/gallery/diabetes-tensorflow --to models/diabetes-tensorflow
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
import tensorflow as tf
from data import diabetes
from training import must_reach, parse_folder, write_answers


class Progression(tf.Module):
    """patient float32 [batch, 10] to progression [batch, 1]; it stores the mean and scale of its training data."""

    def __init__(self, mean: float, scale: float) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.hidden = tf.Variable(rng.normal(scale=0.3, size=(10, 16)).astype(np.float32))
        self.hidden_bias = tf.Variable(tf.zeros(16))
        self.head = tf.Variable(rng.normal(scale=0.3, size=(16, 1)).astype(np.float32))
        self.mean, self.scale = tf.constant(mean), tf.constant(scale)

    @tf.function(input_signature=[tf.TensorSpec([None, 10], tf.float32, name="patient")])
    def predict(self, patient: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the progression within a year."""
        hidden = tf.tanh(patient @ self.hidden + self.hidden_bias)
        return {"progression": hidden @ self.head * self.scale + self.mean}


def train(x: np.ndarray, y: np.ndarray) -> Progression:
    """Return a module fitted by gradient descent."""
    module = Progression(float(y.mean()), float(y.std()))
    velocity = [tf.Variable(tf.zeros_like(weight)) for weight in module.trainable_variables]

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square((module.predict(x)["progression"] - y) / module.scale))
        gradients = tape.gradient(loss, module.trainable_variables)
        for weight, speed, gradient in zip(module.trainable_variables, velocity, gradients, strict=True):
            speed.assign(0.9 * speed + gradient)
            weight.assign_sub(0.03 * speed)

    for _ in range(60):
        step()
    return module


def main(folder: Path) -> None:
    """Write the folder diabetes-tensorflow."""
    data = diabetes()
    module = train(data.x, data.y)

    def run(feeds):
        return {"progression": module.predict(feeds["patient"])["progression"].numpy()}

    off = run({"patient": data.held_out_x})["progression"] - data.held_out_y
    must_reach(
        "module of TensorFlow, share of the variance explained", 1 - float(off.var() / data.held_out_y.var()), 0.3
    )
    tf.saved_model.save(module, str(folder / "diabetes-tensorflow"), signatures=module.predict)
    write_answers(folder / "diabetes-tensorflow.npz", run, [{"patient": data.held_out_x[:rows]} for rows in (5, 17)])


if __name__ == "__main__":
    main(parse_folder(__doc__))
