"""A subclassed Keras model that is converted where it was trained, by a call and without a file.

From the repository's root:

    python examples/gallery/live_keras.py
"""

from pathlib import Path

from data import largest
from softmax_keras import answers, train
from training import parse_folder

from onnxserve_converters import convert


def main(folder: Path) -> None:
    """Publish models/softmax-live/1."""
    data = largest()
    model = train(data)
    to = folder / "models/softmax-live/1"
    convert(model, to, inputs=["x=float32[batch,10]"], outputs=["probabilities"], replace=True)
    answers(model, data, folder / "softmax-live.npz")


if __name__ == "__main__":
    main(parse_folder(__doc__))
