"""Rolling updates lose nothing: replicas behind one name are replaced one by one, under load, as Kubernetes does it."""

import pytest

from onnxserve import AsyncClient, Client
from support import zoo
from support.callers import Callers, asynchronous_predictions, generations, predictions, row, sequences, streams
from support.replicas import LAG, Replicas

MODELS = {"double": zoo.double(), "recurrent": zoo.recurrent(), "countdown": zoo.countdown()}
pytestmark = pytest.mark.timeout(240)  # six servers are started, one after the other
on_both_edges = pytest.mark.parametrize("edge", ["lane", pytest.param("plain", marks=pytest.mark.slow)], indirect=True)

CONFIGS = {
    "recurrent": "state: [{input: s, output: s_out}]",
    "countdown": "state: [{input: total, output: total_out}]\nfeedback: {next: n}",
}


@pytest.fixture
def replicas(launch, edge):
    """Three of them, that serve on for a while after SIGTERM."""
    with Replicas(launch, MODELS, CONFIGS, "--edge", edge, "--drain-delay", 2 * LAG) as replicas:
        for _ in range(3):
            replicas.add()
        yield replicas


@on_both_edges
def test_no_unary_call_fails(replicas):
    callers = Callers()
    with Client(replicas.target) as joined, Client(replicas.target, coalesce=False) as alone:
        callers.add("joined", predictions(callers, joined, "joined"), 8)
        callers.add("alone", predictions(callers, alone, "alone"), 4)
        callers.add("asyncio", asynchronous_predictions(callers, lambda: AsyncClient(replicas.target), "asyncio", 4))
        with callers.calling():
            codes = replicas.roll()
            callers.go_on()
    assert callers.errors == []
    assert codes == [0, 0, 0]


@on_both_edges
def test_no_stream_breaks_and_no_sequence_is_lost(replicas):
    callers = Callers()
    with Client(replicas.target) as client:
        callers.add("stream", streams(callers, client, "stream"), 2)
        callers.add("sequence", sequences(callers, client, "sequence"), 8)
        callers.add("generate", generations(callers, client, "generate"), 4)
        with callers.calling():
            codes = replicas.roll()
            callers.go_on()
    assert callers.errors == []
    assert codes == [0, 0, 0]


def test_replicas_that_have_all_been_replaced_are_found_at_once(launch):
    """By default gRPC looks a name up again after 30 s, and knows dead addresses alone until then."""
    with Replicas(launch, MODELS, CONFIGS) as replicas:
        old, new = replicas.add(), replicas.add()
        replicas.publish(old)
        with Client(replicas.target) as client:
            client.predict("double", row(0, 1))
            replicas.publish(new)
            assert old.stop()[0] == 0
            for number in range(10):
                client.predict("double", row(0, number))
