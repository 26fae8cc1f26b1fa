"""Clients that weigh servers by the load that they tell."""

import json
import struct
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

import onnxserve
from onnxserve.v1 import inference_service_pb2 as pb
from onnxserve_server.edge.load_report import LoadReport
from onnxserve_server.telemetry import catalogue
from support import zoo
from support.waiting import until

# As in production, but that weights are used at once: by default it is after ten seconds.
IN_TURN = {"loadBalancingConfig": [{"round_robin": {}}]}
WEIGHTED = {"loadBalancingConfig": [{"weighted_round_robin": {"blackoutPeriod": "0s", "weightUpdatePeriod": "0.1s"}}]}


def fields(trailer):
    """The one OrcaLoadReport in trailing metadata, of doubles alone: {field number: value}."""
    ((name, report),) = trailer
    assert name == "endpoint-load-metrics-bin"
    assert len(report) % 9 == 0
    return {report[i] >> 3: struct.unpack("<d", report[i + 1 : i + 9])[0] for i in range(0, len(report), 9)}


def test_a_report_tells_rate_and_utilization_of_the_last_moment(clock):
    """The metadata itself cannot be seen in a client: gRPC's core keeps it for the policy."""
    used = {"cpu": 5.0, "busy": 7.0}
    load = LoadReport(clock, lambda: used["cpu"], lambda: {("m", "1"): used["busy"]})
    assert [load.trailer() for _ in range(16)] == [()] * 16
    clock.now += 2.0
    used["cpu"] += 0.5
    used["busy"] += 1.5
    trailers = [load.trailer() for _ in range(16)]
    assert trailers[:15] == [()] * 15
    assert fields(trailers[15]) == {1: 0.25, 6: 16.0, 9: 0.75}
    # The next ones are the same until the report is renewed; then what came before does not count.
    assert [load.trailer() for _ in range(16)][15] == trailers[15]
    clock.now += 1.0
    assert fields([load.trailer() for _ in range(16)][15]) == {1: 0.0, 6: 32.0, 9: 0.0}


def test_the_busiest_model_is_the_one_that_ran_longest_in_the_last_moment(clock):
    """Not the one that has run longest since the start; nor does it count that a model has stopped, or is new."""
    old, new = ("old", "1"), ("new", "1")
    used = {old: 1000.0, new: 1.0}
    load = LoadReport(clock, lambda: 0.0, lambda: dict(used))

    def utilization():
        clock.now += 2.0
        return fields([load.trailer() for _ in range(16)][15])[9]

    used[new] += 1.0
    assert utilization() == 0.5
    del used[old]
    used[new] += 0.5
    assert utilization() == 0.25
    used[new] = 1.5  # it was loaded again
    assert utilization() == 0.75


@pytest.mark.parametrize("edge", ["lane", pytest.param("plain", marks=pytest.mark.slow)], indirect=True)
def test_a_slow_replica_gets_less(serve):
    """One replica of three needs ten times as long for a run."""
    config = {"m": "batching: {enabled: false}\n"}
    models = [zoo.slow(), zoo.slow(), zoo.slow(factor=10)]
    servers = [serve({"m": model}, config, load_report=True) for model in models]
    in_turn = share_of_the_last(servers, IN_TURN)
    weighted = share_of_the_last(servers, WEIGHTED)
    assert in_turn == pytest.approx(1 / 3, abs=0.05)
    assert weighted < 0.2


def share_of_the_last(servers, service_config, calls=200):
    """Make calls from four callers, once weights are settled; return the share that went to the last server."""
    target = "ipv4:" + ",".join(server.address for server in servers)
    request = pb.PredictRequest(model="m", inputs=[onnxserve.tensor.encode("x", np.full((1, 1), 4, np.float32))])
    options = [("grpc.service_config", json.dumps(service_config)), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options) as channel, ThreadPoolExecutor(4) as pool:
        call = channel.unary_unary("/onnxserve.v1.InferenceService/Predict")
        message = request.SerializeToString()
        began = sum(counted(server) for server in servers)
        list(pool.map(lambda _: call(message), range(calls)))
        before = counts_at(servers, began + calls)
        list(pool.map(lambda _: call(message), range(calls)))
        after = counts_at(servers, sum(before) + calls)
    return (after[-1] - before[-1]) / calls


def counts_at(servers, total):
    """How many requests each server has counted, once there are `total`; each is when its answer is out."""
    return until(lambda: counts if sum(counts := [counted(server) for server in servers]) >= total else None)


def counted(server):
    """How many requests a server has counted."""
    return sum(
        count
        for metric in server.app.telemetry.metrics.collect()
        if metric.instrument is catalogue.REQUESTS
        for _, count in metric.points
    )
