"""Hop 5: ONNX Runtime and the machine it runs on. The only place that imports onnxruntime."""
