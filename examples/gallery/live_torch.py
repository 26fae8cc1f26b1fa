"""A PyTorch module that is converted where it was trained, by a call and without a file.

From the repository's root:

    python examples/gallery/live_torch.py
"""

from pathlib import Path

from training import parse_folder
from xor_torch import answers, train

from onnxserve_converters import convert


def main(folder: Path) -> None:
    """Publish models/xor-live/1."""
    network = train()
    to = folder / "models/xor-live/1"
    convert(network, to, inputs=["x=float32[batch,2]"], outputs=["probability"], replace=True)
    answers(network, folder / "xor-live.npz")


if __name__ == "__main__":
    main(parse_folder(__doc__))
