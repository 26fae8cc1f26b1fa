"""Requests of a few bytes whose runs want more memory than there is, in a container of 1 GiB: they fail, it lives."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from onnxserve import Client, ResourceExhausted
from support import zoo
from support.cgroups import limited

GIB = 1 << 30


def filled():
    """z, the sum of x expanded to s elements, which are kept for nobody: float32 [1], int64 [1] -> []."""
    return onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> filled (float[1] x, int64[1] s) => (float z) '
        "{ y = Expand(x, s) z = ReduceSum <keepdims = 0> (y) }"
    )


WIDE = 60 << 20  # bytes of an answer: fewer than the 64 MiB that are allowed
MODELS = {"double": zoo.double(), "one": filled(), "another": filled()}
WIDENING = {f"wide{i}": zoo.widened(WIDE // 4) for i in range(4)}


def fill(client, model, nbytes):
    feeds = {"x": np.ones(1, np.float32), "s": np.array([nbytes // 4])}
    return client.predict(model, feeds, timeout=60)["z"]


@pytest.fixture(params=["lane", "plain"])
def contained(request, launch):
    """A server in a container of 1 GiB, and the container."""
    with limited(2, GIB) as limits:
        server = launch(MODELS, "--edge", request.param, within=limits.within)
        yield server, limits
        server.stop()


def test_a_run_that_wants_too_much_is_refused_and_others_go_on(contained, attack):
    server, limits = contained
    sizes = [GIB, 3 * GIB, 1 << 42] * attack.size(2, 20)
    answered = 0

    def refused():
        with Client(server.address, retries=0) as client:
            for i, size in enumerate(sizes):
                with pytest.raises(ResourceExhausted, match="--all-run-bytes") as error:
                    fill(client, ("one", "another")[i % 2], size)
                assert error.value.reason == "OUT_OF_MEMORY"

    with ThreadPoolExecutor(4) as attackers, Client(server.address, retries=0) as client:
        attacks = [attackers.submit(refused) for _ in range(4)]
        while not all(each.done() for each in attacks):
            assert client.predict("double", {"x": np.ones((1, 3), np.float32)}, timeout=60)["y"].tolist() == [[2, 2, 2]]
            answered += 1
        for each in attacks:
            each.result()
    assert server.popen.poll() is None
    attack.count("runs refused for their memory", len(attacks) * len(sizes))
    attack.count("answers beside them", answered)
    assert limits.peak_memory < GIB


def test_memory_that_one_model_no_longer_uses_is_another_ones(contained):
    server, limits = contained
    with Client(server.address, retries=0) as client:
        for model in ("one", "another", "one"):
            assert fill(client, model, GIB * 3 // 8) == GIB * 3 // 8 // 4
    assert limits.peak_memory < GIB


def test_answers_that_are_each_allowed_do_not_end_it_together(launch, attack):
    with limited(2, GIB) as limits:
        server = launch(WIDENING, within=limits.within)
        with Client(server.address) as client, ThreadPoolExecutor(16) as callers:

            def ask(i):
                """Whether a request is answered, rightly; or refused for now."""
                try:
                    y = client.predict(f"wide{i % len(WIDENING)}", {"x": np.full((1, 1), i, np.float32)}, timeout=120)[
                        "y"
                    ]
                except ResourceExhausted as error:
                    assert error.reason in ("OUT_OF_MEMORY", "TOO_SLOW") and error.retry_delay
                    return False
                assert y.shape == (1, WIDE // 4) and (y == i).all()
                return True

            answered = sum(callers.map(ask, range(attack.size(24, 240))))
            assert ask(1)
        attack.count("answers of 60 MiB", answered)
        assert limits.peak_memory < GIB
        server.stop()
