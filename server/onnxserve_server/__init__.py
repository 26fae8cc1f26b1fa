"""The server of onnxserve."""
