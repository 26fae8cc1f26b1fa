"""The example of a generator: the names are those that its model draws, whoever else generates at the same time."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from onnxserve import Stop

ROOT = Path(__file__).parent.parent
ALPHABET = ".abcdefghijklmnopqrstuvwxyz"
STATE = ("h", "c")
TRAINED_ON = (ROOT / "examples/data/names.txt").read_text().split()

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")  # as for those who run its files
    import generate_names


@pytest.fixture(scope="module")
def server(serving):
    with serving(ROOT / "examples/models") as running:
        yield running


@pytest.fixture(scope="module")
def session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(ROOT / "examples/models/names/1/model.onnx", options)


def run(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "examples/generate_names.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def printed(*arguments):
    ended = run(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def step(session, letters, temperature=1.0, randoms=1, state=None):
    """Run the model on int64 [rows] letters, alone: outputs by name."""
    rows = len(letters)
    feeds = {
        "letter": np.array(letters, np.int64),
        "temperature": np.full(rows, temperature, np.float32),
        "random": np.broadcast_to(np.array(randoms, np.int64), rows),
    } | (state or {name: np.zeros((rows, 128), np.float32) for name in STATE})
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def state_of(outputs):
    return {name: outputs[f"{name}_out"] for name in STATE}


def spelled(session, random, begin="", temperature=1.0):
    """Make up a name by a plain loop over ONNX Runtime."""
    name, letter, state = begin, 0, None
    for following in begin:
        state = state_of(step(session, [letter], state=state))
        letter = ALPHABET.index(following)
    for _ in range(generate_names.MAX_LETTERS):
        outputs = step(session, [letter], temperature, random, state)
        letter, random, state = outputs["next_letter"][0], outputs["next_random"][0], state_of(outputs)
        if letter == 0:
            break
        name += ALPHABET[letter]
    return name


def test_the_example_prints_names_from_a_server_of_its_own(session):
    wanted = [spelled(session, random) for random in generate_names.first_randoms(0, 10)]
    assert printed() == wanted
    assert len(set(wanted) - set(TRAINED_ON)) > 5


@pytest.mark.parametrize(
    ("begin", "temperature", "seed"), [("", 1.0, 1), ("mar", 0.5, 2), ("x", 1.5, 3)], ids=["plain", "mar", "x"]
)
def test_names_are_those_of_a_plain_loop_over_the_model(server, session, begin, temperature, seed):
    options = ("--begin", begin.upper(), "--temperature", temperature, "--seed", seed)
    names = printed(24, *options, "--address", server.address)
    randoms = generate_names.first_randoms(seed, 24)
    assert names == [spelled(session, random, begin, temperature) for random in randoms]


def test_other_seeds_give_other_names(server):
    first, second = (set(printed(8, "--seed", seed, "--address", server.address)) for seed in (4, 5))
    assert not first & second


def test_at_temperature_0_every_name_is_the_likeliest(server, session):
    letters, state = [0], None
    while len(letters) == 1 or letters[-1]:
        outputs = step(session, letters[-1:], state=state)
        letters.append(int(outputs["probabilities"].argmax()))
        state = state_of(outputs)
    likeliest = "".join(ALPHABET[letter] for letter in letters[1:-1])
    assert printed(5, "--temperature", 0, "--address", server.address) == [likeliest] * 5


def test_thirty_two_generations_at_once_give_what_they_give_alone(server):
    start = threading.Barrier(32)

    def generate(random):
        with server.client.sequence("names") as sequence:
            first = generate_names.inputs(0, 1.0, random)
            return list(sequence.generate(first, max_steps=generate_names.MAX_LETTERS, stop=Stop("next_letter", 0)))

    def begin_together(random):
        start.wait(60)
        return generate(random)

    randoms = generate_names.first_randoms(6, 32)
    with ThreadPoolExecutor(32) as threads:
        together = list(threads.map(begin_together, randoms))
    rows = {answer.receipt.batch_rows for name in together for answer in name}
    assert max(rows) > 4
    assert len(rows) > 3
    for random, name in zip(randoms, together, strict=True):
        alone = generate(random)
        assert {answer.receipt.batch_rows for answer in alone} == {1}
        assert [answer["next_letter"] for answer in name] == [answer["next_letter"] for answer in alone]
        for one, other in zip(name, alone, strict=True):
            np.testing.assert_allclose(one["probabilities"], other["probabilities"], rtol=0, atol=1e-5)


def test_letters_are_drawn_as_often_as_they_are_likely(session):
    rows = 50_000
    outputs = step(session, [ALPHABET.index("m")] * rows, 1.3, generate_names.first_randoms(7, rows))
    drawn = np.bincount(outputs["next_letter"], minlength=len(ALPHABET)) / rows
    likely = outputs["probabilities"][0]
    five_deviations = 5 * np.sqrt(likely * (1 - likely) / rows)
    assert likely.max() < 0.9
    assert (np.abs(drawn - likely) <= five_deviations).all()


def test_random_numbers_are_those_of_minstd_rand(session):
    random = 1
    for _ in range(10_000):
        random = step(session, [0], randoms=random)["next_random"][0]
    assert random == 399_268_537  # as the C++ standard says of std::minstd_rand, [rand.predef]


def test_the_model_finds_names_likelier_than_names_spelled_backwards(session):
    def likelihood(names):
        logarithms, state = [], None
        numbers = np.array([[ALPHABET.index(letter) for letter in name.ljust(20, ".")] for name in names])
        begun = np.ones(len(names), bool)
        for before, letters in zip((0 * numbers[:, 0], *numbers.T), numbers.T, strict=False):
            outputs = step(session, before, state=state)
            logarithms.append(np.log(outputs["probabilities"][np.arange(len(names)), letters])[begun])
            state, begun = state_of(outputs), letters > 0
        return np.exp(np.concatenate(logarithms).mean())

    assert likelihood(TRAINED_ON) > 0.12
    assert likelihood(TRAINED_ON) > 2 * likelihood([name[::-1] for name in TRAINED_ON])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0",), "names: 0 is not between 1 and 128"),
        (("--temperature", "-1"), "--temperature: -1.0 is not"),
        (("--temperature", "nan"), "--temperature: nan is not"),
        (("--seed", "-1"), "--seed: -1 is below 0"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr


def test_a_letter_that_the_network_does_not_know_is_named(server):
    ended = run("--begin", "jö", "--address", server.address)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"--begin: unknown letter 'ö'; the network's letters are {ALPHABET[1:]}\n"


def test_a_server_that_is_not_there_ends_the_example():
    ended = run("--address", "127.0.0.1:1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("The example failed: ")
    assert "Traceback" not in ended.stderr
