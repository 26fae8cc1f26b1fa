"""The examples run, and the model that ships is what it says."""

import importlib.util
import re

import numpy as np
import onnxruntime
import pytest

from support.examples import ROOT, check_usage, run


def test_the_demo_answers_every_image_in_batches():
    ended = run("examples/demo.py")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "accuracy" in ended.stdout


EXAMPLES = sorted(path for path in ROOT.glob("examples/*.py") if not path.stem.startswith("train_"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_says_how_it_is_used(path):
    check_usage(path)


@pytest.mark.parametrize("content", [None, b"", b"text", b"RIFF"])
def test_a_file_that_is_not_a_sound_is_refused_by_name(tmp_path, content):
    file = tmp_path / "some.wav"
    if content is not None:
        file.write_bytes(content)
    ended = run("examples/stream_vad.py", file)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"{file}: not a readable .wav file: ")
    assert ended.stderr.count("\n") == 1


def test_the_smallest_client_reads_a_digit(serving, tmp_path):
    with serving(ROOT / "examples/models") as server:
        ended = run(ROOT / "examples/predict.py", server.address, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "It is a 2" in ended.stdout


def test_the_digits_model_is_right_about_images_it_has_not_seen():
    held_out = np.load(ROOT / "examples/data/digits_test.npz")
    session = onnxruntime.InferenceSession(ROOT / "examples/models/digits/1/model.onnx")
    (probabilities,) = session.run(None, {"image": held_out["image"]})
    assert len(held_out["label"]) >= 360
    assert (probabilities.argmax(axis=1) == held_out["label"]).mean() > 0.95


def test_the_labels_of_the_digits_model_come_with_the_model(serving):
    with serving(ROOT / "examples/models") as server:
        (output,) = server.client.model("digits").outputs
    assert output.labels == tuple("0123456789")


def test_the_speech_in_a_sound_is_found():
    if importlib.util.find_spec("silero_vad") is None:
        pytest.skip("silero-vad is not installed: pip install --no-deps silero-vad")
    ended = run("examples/stream_vad.py")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = [re.findall(r"\d+\.\d+", line) for line in ended.stdout.splitlines()]
    np.testing.assert_allclose(np.array(found, float), [[0.8, 3.4], [4.5, 6.2]], atol=0.2)
