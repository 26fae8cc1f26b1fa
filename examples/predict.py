"""Read one handwritten digit: `python examples/predict.py [HOST:PORT]`."""

import argparse
from pathlib import Path

import numpy as np

from onnxserve import Client

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("address", nargs="?", default="localhost:8500", metavar="HOST:PORT", help="default: %(default)s")
address = parser.parse_args().address

image = np.load(Path(__file__).parent / "data/digit.npy")  # float32 [1, 3, 32, 32]
with Client(address) as client:
    prediction = client.predict("digits", {"image": image}, timeout=1.0)
print("It is a", prediction["probabilities"].argmax())
print(prediction.receipt)
