"""Call an onnxserve server."""
