"""Train, prove and export the example model: LeNet-5 on scikit-learn's handwritten digits.

    pip install torch==2.13.0 onnx onnxscript onnxruntime scikit-learn
    python examples/train_digits.py

Writes beside this file, each whole or not at all:

    models/digits/1/model.onnx  image float32 [batch, 3, 32, 32] -> probabilities float32 [batch, 10]
    data/digits_test.npz        the images held out of training: image float32 [n, 3, 32, 32], label int64 [n]
    data/digit.npy              the first of them: float32 [1, 3, 32, 32]

The softmax is part of the model, so that a caller can read its answer as it is. Nothing is written unless ONNX Runtime
gives PyTorch's numbers at several batch sizes and 95 % of the held-out images are read rightly. The seed is fixed: on
one machine, the same files come out of every run.
"""

import argparse
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 0
HELD_OUT = 450
EPOCHS = 20
BATCH = 32
OPSET = 20
PROVED_SIZES = (1, 2, 7, 32)
MAX_DIFFERENCE = 1e-5
MIN_ACCURACY = 0.95
HERE = Path(__file__).resolve().parent

DESCRIPTION = """\
LeNet-5 reading a handwritten digit: image is float32 [batch, 3, 32, 32] with values from 0 (paper) to 1 (ink), \
probabilities is float32 [batch, 10], the softmax over the digits 0 to 9. Trained on {train} images of scikit-learn's \
digits, 8x8 pixels scaled to 0..1, each made a block of 4x4 and repeated on three channels. Accuracy on {held_out} \
held-out images: {accuracy:.4f}. Data: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine \
Learning Repository, doi.org/10.24432/C50P49, CC BY 4.0."""


class Split(NamedTuple):
    """Images float32 [n, 3, 32, 32] and their digits int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor


def main() -> None:
    """Train, export, prove, and only then write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the order of a sum is part of its result

    train, held_out = load_splits()
    network = train_network(train)
    model = nn.Sequential(network, nn.Softmax(dim=1)).eval()
    description = DESCRIPTION.format(
        train=len(train.labels), held_out=len(held_out.labels), accuracy=accuracy(predict(model, held_out), held_out)
    )
    exported = export(model, held_out.images[:3], description)
    prove(exported, model, held_out)

    write(HERE / "models/digits/1/model.onnx", exported)
    images, labels = held_out.images.numpy(), held_out.labels.numpy()
    write(HERE / "data/digits_test.npz", npz(image=images, label=labels))
    write(HERE / "data/digit.npy", npy(images[:1]))


def load_splits() -> tuple[Split, Split]:
    """Return the images to train on and those held out, every digit in the same proportion in both."""
    digits = load_digits()
    small = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)  # [n, 1, 8, 8]
    images = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3).repeat(1, 3, 1, 1)
    labels = torch.from_numpy(digits.target).long()
    rows = np.arange(len(labels))
    train, held_out = train_test_split(rows, test_size=HELD_OUT, stratify=digits.target, random_state=SEED)
    return Split(images[train], labels[train]), Split(images[held_out], labels[held_out])


def lenet() -> nn.Sequential:
    """LeCun's LeNet-5 (1998) as it is built today, with ReLU, max pooling and colour: images to logits [batch, 10]."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU()),
        *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def train_network(data: Split) -> nn.Sequential:
    """Train for a fixed number of epochs: the held-out images have no say in when to stop."""
    network = lenet()
    steps = EPOCHS * -(-len(data.labels) // BATCH)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(data.labels)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(shifted(data.images[rows])), data.labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return network


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Move the images of one step by up to two pixels each way, so that the place of a digit is not learnt."""
    down, right = torch.randint(-2, 3, (2,)).tolist()
    return images.roll((down, right), dims=(2, 3))


def predict(model: nn.Module, data: Split) -> np.ndarray:
    """Return PyTorch's probabilities."""
    with torch.no_grad():
        return model(data.images).numpy()


def accuracy(probabilities: np.ndarray, data: Split) -> float:
    """Return the share of images whose likeliest digit is the right one."""
    return float((probabilities.argmax(axis=1) == data.labels.numpy()).mean())


def export(model: nn.Module, example: torch.Tensor, description: str) -> bytes:
    """Return the model as one ONNX file, its weights inside and nothing of this machine in it."""
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=({0: "batch"},),
        input_names=["image"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert program is not None
    exported = program.model_proto
    strip(exported)
    onnx.helper.set_model_props(
        exported, {"labels": json.dumps({"probabilities": [str(digit) for digit in range(10)]})}
    )
    exported.doc_string = description
    onnx.checker.check_model(exported, full_check=True)
    return exported.SerializeToString(deterministic=True)


def strip(exported: onnx.ModelProto) -> None:
    """Remove what the exporter notes of its own work: stack traces with file names, and every inner shape."""
    graph = exported.graph
    del graph.value_info[:]
    parts: list[Any] = [graph, *graph.node, *graph.input, *graph.output, *graph.initializer]
    for part in parts:
        del part.metadata_props[:]


def prove(exported: bytes, model: nn.Module, held_out: Split) -> None:
    """Exit unless ONNX Runtime agrees with PyTorch at every size, and reads the held-out images well enough."""
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    for size in PROVED_SIZES:
        some = Split(held_out.images[:size], held_out.labels[:size])
        (probabilities,) = session.run(["probabilities"], {"image": some.images.numpy()})
        difference = float(np.abs(probabilities - predict(model, some)).max())
        print(f"batch {size:2}: ONNX Runtime differs from PyTorch by at most {difference:.1e}")
        if not difference < MAX_DIFFERENCE:
            sys.exit(f"nothing written: the exported model differs by {difference:.1e} at batch {size}")
    (probabilities,) = session.run(["probabilities"], {"image": held_out.images.numpy()})
    reached = accuracy(probabilities, held_out)
    print(f"accuracy of the ONNX model on {len(held_out.labels)} held-out images: {reached:.4f}")
    if reached < MIN_ACCURACY:
        sys.exit(f"nothing written: accuracy {reached:.4f} is below {MIN_ACCURACY}")


def npz(**arrays: np.ndarray) -> bytes:
    """Return the arrays as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    """Return the array as an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    """Put a file in its place whole, so that a server watching the folder never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
    print(f"{path.relative_to(HERE.parent)}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
