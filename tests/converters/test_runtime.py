"""A converted file is tried as the server will try it, and the message says what it did not survive."""

import onnx
import pytest

from onnxserve_converters.errors import NotProved
from onnxserve_converters.runtime import Runtime
from support import zoo


def test_a_death_on_made_up_inputs_is_told_from_a_file_that_does_not_load(tmp_path):
    file = tmp_path / "model.onnx"
    onnx.save(zoo.fatal_inside(1), file)
    with pytest.raises(
        NotProved, match=r"loads the ONNX file, but trying it ended the process .*--range, --samples\)$"
    ):
        Runtime(file)
    file.write_bytes(b"nothing")
    with pytest.raises(NotProved, match=r"cannot load the ONNX file: .*model\.onnx: "):
        Runtime(file)
