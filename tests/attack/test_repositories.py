"""Files of a repository, spoilt at random: each is read or refused with an error of its own, whatever is in it."""

import contextlib
import random
import string

import numpy as np
import onnx
import pytest

from onnxserve.tensor import DataType
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.config import ModelConfig, read_config
from onnxserve_server.repository.discovery import Found
from onnxserve_server.repository.state import state_of
from onnxserve_server.runtime.axes import BatchAxes, assign_axes
from onnxserve_server.runtime.model_file import read_model_file
from onnxserve_server.runtime.session import Session, SessionOptions
from onnxserve_server.spec import TensorSpec
from support import zoo

CONFIGS = (
    "batching: {enabled: true, max_rows: 32, max_delay_us: 0}\nthreads: 2\ninstances: 1\n",
    "state:\n  - {input: s, output: s_out, initial: 0.5}\nsequences: {max: 10, idle_ms: 1000}\nfeedback: {y: x}\n",
    "providers: {cpu: {a: 1}}\nversions: ['1', '2']\nlabels: {y: [a, b]}\nbatch_axis: {x: 1}\nshared: [s]\n",
    "a: &a [1, 2]\nb: *a\nsession_config: {<<: {x: 1}, y: 2}\n",
)
PIECES = (*"[]{}:,&*!|>'\"%@`#-? \n\t\0", "<<", "*a", "&a ", "!!python/name:os ", "9" * 400, "1e999", ".inf", "\ufeff")


def spoilt_text(rng, text):
    """A text with some pieces put in, taken out or repeated."""
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(text) + 1)
        end = at + rng.choice((0, 0, 1, 4, 20))
        text = (
            text[:at]
            + rng.choice(("", rng.choice(PIECES), text[at:end] * 2, rng.choice(string.printable)))
            + text[end:]
        )
    return text


def spoilt_bytes(rng, data):
    """Bytes of which some are others, or gone."""
    data = bytearray(data)
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(data))
        data[at : at + rng.choice((1, 1, 1, 4, 40))] = rng.choice(
            (b"", rng.randbytes(1), rng.randbytes(4), b"\xff" * 10)
        )
        data = data or bytearray(1)
    return bytes(data)


def test_a_model_yaml_is_read_or_refused(tmp_path, attack):
    rng, file, read = random.Random(1), tmp_path / "model.yaml", 0
    for _ in range(attack.size(300, 5000)):
        file.write_bytes(spoilt_text(rng, rng.choice(CONFIGS)).encode(errors="surrogatepass"))
        with contextlib.suppress(ConfigurationError):
            read += isinstance(read_config(file, {}), ModelConfig)
        attack.count("spoilt model.yaml")
    assert read > 0


def test_a_model_file_is_read_or_refused(tmp_path, attack):
    rng, file, read = random.Random(2), tmp_path / "model.onnx", 0
    sources = [
        made.SerializeToString() for made in (zoo.double(), zoo.table(20), zoo.layered({"state": "auto"}), zoo.mlp(4))
    ]
    for _ in range(attack.size(300, 5000)):
        file.write_bytes(spoilt_bytes(rng, rng.choice(sources)))
        with contextlib.suppress(ValueError):
            read += read_model_file(file) is not None
        attack.count("spoilt model files")
    assert read > 0


def test_metadata_is_used_or_left_alone(attack):
    rng, used = random.Random(3), 0
    inputs = tuple(TensorSpec(name=name, data_type=DataType.DATA_TYPE_FLOAT, shape=("n", 2)) for name in "xs")
    outputs = (TensorSpec(name="y", data_type=DataType.DATA_TYPE_FLOAT, shape=("n", 2)),)
    texts = {"batch_axis": '{"x": 0, "y": 0, "s": 0}', "shared": '["s"]'}
    for _ in range(attack.size(1000, 20_000)):
        metadata = {key: spoilt_text(rng, text) for key, text in texts.items()}
        used += len(assign_axes(BatchAxes(), inputs, outputs, metadata).metadata) < len(metadata)
        attack.count("spoilt metadata")
    assert used > 0


@pytest.fixture
def stateful(tmp_path):
    """A session of zoo.recurrent() as a Found of which the initial state is s.npy; returns both and that path."""
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    onnx.save(zoo.recurrent(), folder / "model.onnx")
    config = ModelConfig.model_validate({"state": [{"input": "s", "output": "s_out", "initial": "s.npy"}]})
    found = Found("m", "1", folder / "model.onnx", tmp_path / "m" / "model.yaml", config)
    return found, Session(found.path, SessionOptions()), tmp_path / "m" / "s.npy"


def test_an_initial_state_is_read_or_refused(stateful, attack):
    found, session, file = stateful
    np.save(file, np.zeros(2, np.float32))
    rng, source, read = random.Random(4), file.read_bytes(), 0
    for _ in range(attack.size(300, 5000)):
        file.write_bytes(spoilt_bytes(rng, source))
        with contextlib.suppress(ConfigurationError):
            read += len(state_of(found, session))
        attack.count("spoilt .npy files")
    assert read > 0
