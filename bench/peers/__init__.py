"""Other servers to compare with, each measured in turn with onnxserve on the same machine."""
