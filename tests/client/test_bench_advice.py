import dataclasses

import pytest

from onnxserve import Batching, ModelInfo, Runtime
from onnxserve._bench.advice import best, cautions
from onnxserve._bench.cpu import Use
from onnxserve._bench.load import Callers, Rate
from onnxserve._bench.sample import Latency, Runs, Sample

RUNS = Runs(rows=6.25, most_rows=16, requests=6.25, queue_us=100, batch_wait_us=0, compute_us=400)


def sample(load, rps, ms, **fields):
    latency = Latency(mean=ms, p50=ms, p90=ms, p99=2 * ms, max=3 * ms)
    defaults = {"complete": True, "requests": 1000, "succeeded": 1000, "errors": {}, "messages": {}, "dropped": 0}
    defaults |= {"late": 0, "worst_delay_ms": 0.0, "latency": latency, "runs": RUNS, "cpu": Use(0.3, 0.3)}
    return Sample(load=load, requests_per_second=rps, rows_per_second=rps, **defaults | fields)


def info(**batching):
    defaults = {"enabled": True, "reason": "", "max_rows": 64, "max_delay_us": 0, "max_queue_rows": 1}
    return ModelInfo(
        name="m",
        version="1",
        state="READY",
        inputs=(),
        outputs=(),
        batching=Batching(**defaults | {"max_queue_bytes": 1} | batching),
        runtime=Runtime(requested_providers=(), providers=(), instances=1, threads=1, options={}),
        metadata={},
        description="",
    )


# Throughput grows up to 64 callers, but from 16 on hardly, while latency does.
CURVE = [
    sample(Callers(1), 1000, 1.0),
    sample(Callers(16), 8000, 2.0),
    sample(Callers(64), 9000, 7.0),
    sample(Callers(256), 8900, 29.0),
]


@pytest.mark.parametrize(
    ("limit_ms", "load"),
    [(None, Callers(16)), (100, Callers(64)), (14, Callers(64)), (13, Callers(16)), (2, Callers(1))],
)
def test_the_best_load_has_the_most_requests_within_the_limit_or_else_is_the_knee(limit_ms, load):
    assert best(CURVE, info(), limit_ms).sample.load == load


def test_no_load_is_best_where_none_keeps_the_limit_or_none_was_answered():
    assert best(CURVE, info(), 1.9) is None
    assert best([sample(Callers(1), 0, 1, latency=None, runs=None, succeeded=0)], info(), None) is None
    assert best([], info(), None) is None


@pytest.mark.parametrize(
    "fields",
    [{"errors": {"INTERNAL": 11}, "messages": {"INTERNAL": "it broke"}}, {"dropped": 11}],
    ids=["errors", "drops"],
)
def test_a_load_with_failures_is_passed_over(fields):
    assert best([CURVE[0], sample(Callers(16), 8000, 2.0, **fields)], info(), 100).sample.load == Callers(1)


def test_a_rate_that_was_not_kept_up_with_is_passed_over():
    assert best([sample(Rate(100), 100, 1), sample(Rate(1000), 600, 1)], info(), None).sample.load == Rate(100)


def test_the_headline_has_the_load_its_figures_and_the_reason():
    assert best(CURVE, info(), 14).headline == (
        "Best of these: 64 callers, 9,000.0 requests/s, p99 14.00 ms "
        "(the most requests/s with a p99 of at most 14 ms); "
        "4.50 rows in the server at a time (C in the documentation's rules for scaling)."
    )


def batches(runs, **batching):
    return " ".join(
        best([sample(Callers(1), 1, 1.0, runs=dataclasses.replace(RUNS, **runs))], info(**batching), None).batches
    )


def test_the_batches_are_described_beside_the_keys_of_model_yaml():
    text = batches({}, max_delay_us=50)
    assert "6.2 rows on average and 16 at most; batching.max_rows is 64, batching.max_delay_us 50." in text
    assert "any batching.max_rows of 16 or more gives the same" in text


def test_full_runs_call_for_larger_ones():
    assert "Runs were full: measure again with a larger batching.max_rows." in batches({"rows": 60, "most_rows": 64})
    assert "full" not in batches({"rows": 30, "most_rows": 64})


def test_waits_are_reported_where_they_are_most_of_the_latency():
    assert "instances" in batches({"queue_us": 600})
    assert "instances" not in batches({"queue_us": 400})
    assert "smaller batching.max_delay_us" in batches({"batch_wait_us": 600}, max_delay_us=800)
    assert "smaller batching.max_delay_us" not in batches({"batch_wait_us": 600})


def test_a_model_that_is_not_batched_says_why():
    text = batches({}, enabled=False, reason="input s is a scalar")
    assert text == "The model is run one request at a time: input s is a scalar."


def test_good_figures_need_no_caution():
    assert [*cautions(CURVE)] == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"errors": {"INTERNAL": 7}, "messages": {"INTERNAL": "it broke"}},
            "100/s: 7 of 1,000 requests failed with INTERNAL: it broke",
        ),
        ({"dropped": 5}, "100/s: 5 of 1,000 requests were never sent"),
        (
            {"late": 20, "worst_delay_ms": 31.5},
            "100/s: 20 of 1,000 requests were sent more than 1 ms late, at worst 31.5 ms",
        ),
        ({"complete": False}, "100/s: interrupted"),
        ({"cpu": Use(0.97, 0.5)}, "100/s: this process used 97% of a core"),
        ({"cpu": Use(0.1, 0.99)}, "100/s: all CPUs of this machine were busy"),
        ({"requests": 0, "succeeded": 0}, "100/s: no request was due and ended in the time"),
    ],
)
def test_what_speaks_against_a_figure_is_reported(fields, says):
    (caution,) = cautions([sample(Rate(100), 100, 1.0, **fields)])
    assert caution.startswith(says)


def test_a_server_that_falls_behind_is_reported():
    (caution,) = cautions([sample(Rate(100), 60, 1.0)])
    assert caution.startswith("100/s: the server answered only 60.0 requests/s; the backlog")
