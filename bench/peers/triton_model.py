"""A model of Triton's Python backend: ONNX Runtime on the model.onnx beside it, all rows of a batch in one run."""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton  # comes with Triton


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def execute(self, requests: "list[triton.InferenceRequest]") -> "list[triton.InferenceResponse]":
        inputs = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        batch = np.concatenate(inputs) if len(inputs) > 1 else inputs[0]
        (y,) = self.session.run(None, {"x": batch})
        ends = np.cumsum([len(x) for x in inputs])
        return [
            triton.InferenceResponse(output_tensors=[triton.Tensor("y", y[end - len(x) : end])])
            for x, end in zip(inputs, ends, strict=True)
        ]
