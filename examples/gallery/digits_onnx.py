"""A model that is ONNX already, the digits of examples/models: adopted, that is checked, annotated and published.

From the repository's root:

    python examples/gallery/digits_onnx.py
    onnxserve convert build/gallery/digits-onnx.onnx --to models/digits-onnx
"""

import shutil
from pathlib import Path

from data import digits
from onnx.reference import ReferenceEvaluator
from training import accuracy, must_reach, parse_folder, write_answers

SHIPPED = Path(__file__).parent.parent / "models/digits/1/model.onnx"


def main(folder: Path) -> None:
    """Copy the file to digits-onnx.onnx; its answers are those of ONNX's own reference implementation."""
    data = digits()
    reference = ReferenceEvaluator(str(SHIPPED))

    def run(feeds):
        return dict(zip(reference.output_names, reference.run(None, dict(feeds)), strict=True))

    read = run({"image": data.held_out_x[:50]})["probabilities"]
    must_reach("adopted model, accuracy on digits", accuracy(read, data.held_out_y[:50]), 0.95)
    shutil.copyfile(SHIPPED, folder / "digits-onnx.onnx")
    write_answers(folder / "digits-onnx.npz", run, [{"image": data.held_out_x[:rows]} for rows in (5, 17)])


if __name__ == "__main__":
    main(parse_folder(__doc__))
