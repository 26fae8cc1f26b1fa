"""Read one handwritten digit: `python examples/predict.py [HOST:PORT]`, from the repository's root."""

import sys

import numpy as np

from onnxserve import Client

image = np.load("examples/data/digit.npy")  # float32 [1, 3, 32, 32]
with Client(sys.argv[1] if len(sys.argv) > 1 else "localhost:8500") as client:
    prediction = client.predict("digits", {"image": image}, timeout=1.0)
print("It is a", prediction["probabilities"].argmax())
print(prediction.receipt)
