"""A network for CIFAR-10 that others trained with Keras 2, from the package cifar-10-model: a whole-model .h5.

From the repository's root:

    pip install --no-deps cifar-10-model
    python examples/gallery/cifar10_keras.py
    onnxserve convert build/gallery/cifar10-keras.h5 --to models/cifar10-keras
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
import numpy as np
from training import parse_folder, write_answers

PACKAGE = "cifar_10_model"


def main(folder: Path) -> None:
    """Copy the package's file to cifar10-keras.h5. There are no images of CIFAR-10 here to score it with."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        sys.exit("pip install --no-deps cifar-10-model")
    file = folder / "cifar10-keras.h5"
    shutil.copyfile(Path(found.origin).parent / "trained_models/cnn_model.h5", file)
    model = keras.saving.load_model(file, compile=False)

    def run(feeds):
        return {model.layers[-1].name: model.predict(feeds[model.inputs[0].name], verbose=0)}

    rng = np.random.default_rng(0)
    images = [rng.random((rows, 32, 32, 3), np.float32) for rows in (5, 17)]
    write_answers(folder / "cifar10-keras.npz", run, [{model.inputs[0].name: some} for some in images])


if __name__ == "__main__":
    main(parse_folder(__doc__))
