"""Find the speech in a sound, as it comes in: a recurrent network whose state the server keeps.

    .venv/bin/pip install --constraint constraints.txt --editable '.[cpu]'
    .venv/bin/pip install --no-deps silero-vad      # the network comes with this package
    python examples/stream_vad.py [file.wav]        # 16 kHz, one channel, 16 bits

The sound is sent piece by piece, 32 ms each, as a telephone would. Each piece is a step of a sequence; steps of many
callers would share runs.
"""

import argparse
import importlib.util
import shutil
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from demo import running_server

from onnxserve import Client

RATE = 16_000  # samples a second
PIECE = 512  # samples the network judges at a time
BEFORE = 64  # samples before them that it sees too
SPEECH = 0.5  # from this probability on it is speech
PATIENCE = 8  # pieces of silence that end a segment
HERE = Path(__file__).resolve().parent

MODEL_YAML = """\
state: [{input: state, output: stateN}]
batch_axis: {state: 1, stateN: 1}   # the rows of the state lie along its second axis
shared: [sr]                        # one rate for all rows of a run
"""


def main() -> None:
    """Serve the network, send it the sound, print where the speech is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=HERE / "data/speech.wav", help="a sound (default: ours)")
    sound = read(parser.parse_args().file)
    with tempfile.TemporaryDirectory() as folder:
        models = repository(Path(folder))
        with running_server(models) as (_, address, _), Client(address) as client:
            for begin, end in segments(probabilities(client, sound)):
                print(f"speech from {begin:.2f} s to {end:.2f} s", flush=True)


def repository(folder: Path) -> Path:
    """Make a model repository with the network, and a model.yaml with what its graph does not say."""
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.submodule_search_locations is None:
        sys.exit("the network is missing: pip install --no-deps silero-vad")
    (folder / "vad/1").mkdir(parents=True)
    shutil.copy(Path(package.submodule_search_locations[0], "data/silero_vad.onnx"), folder / "vad/1/model.onnx")
    (folder / "vad/model.yaml").write_text(MODEL_YAML)
    return folder


def read(path: Path) -> np.ndarray:
    """Return a sound as float32 [samples], from -1 to 1."""
    try:
        with wave.open(str(path)) as file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
                sys.exit(f"{path}: it must have {RATE} samples a second, one channel, 16 bits")
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    except (OSError, EOFError, wave.Error) as error:
        sys.exit(f"{path}: not a readable .wav file: {error or 'it is cut off'}")


def probabilities(client: Client, sound: np.ndarray) -> Iterator[float]:
    """Give the probability of speech for each piece, as its answer comes."""
    padded = np.concatenate([np.zeros(BEFORE, np.float32), sound])
    with client.sequence("vad") as sequence:
        for start in range(0, len(sound) - PIECE + 1, PIECE):
            piece = padded[None, start : start + BEFORE + PIECE]
            yield float(sequence.step({"input": piece, "sr": np.array(RATE)})["output"][0, 0])


def segments(speech: Iterator[float]) -> Iterator[tuple[float, float]]:
    """Give begin and end of each stretch of speech, in seconds, as soon as it is over."""
    seconds = PIECE / RATE
    begin = last = None
    number = 0
    for number, probability in enumerate(speech, 1):
        if probability >= SPEECH:
            begin, last = begin if begin is not None else (number - 1) * seconds, number
        elif begin is not None and last is not None and number - last >= PATIENCE:
            yield begin, last * seconds
            begin = None
    if begin is not None:
        yield begin, number * seconds


if __name__ == "__main__":
    main()
