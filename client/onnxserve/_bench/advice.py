"""Which load was best, what the batches were there, and what is to be held against the figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxserve._bench.sample import LATE, Latency, Sample
from onnxserve._models import ModelInfo

_FEW = 0.01  # of the requests of a load: so many do not count against it
_FULL = 0.9  # mean rows of a run, as a share of the most: such runs were full
_BUSY = 0.85  # cores of this process, of which Python can use about one
_MACHINE_BUSY = 0.95  # of all CPUs


@dataclass(frozen=True, kw_only=True)
class Best:
    """The load to be recommended.

    Attributes:
        sample: what was measured under it.
        why: how it was chosen.
        batches: what its runs were, and what that says of the keys of model.yaml; sentences.
    """

    sample: Sample
    why: str
    batches: tuple[str, ...]

    @property
    def headline(self) -> str:
        """Return it in a line."""
        rate, p99, rows = self.sample.requests_per_second, _ms(self.sample).p99, self.sample.rows_in_server
        return (
            f"Best of these: {self.sample.load}, {rate:,.1f} requests/s, p99 {p99:.2f} ms ({self.why}); "
            f"on the server {rows:.2f} rows at a time: C of the scaling rules."
        )


def best(samples: Sequence[Sample], info: ModelInfo, limit_ms: float | None) -> Best | None:
    """Return the load with the most requests a second whose p99 is within a limit; None: there is none.

    Without a limit it is the knee, where the requests per second over the mean latency are most: beyond, latency grows
    faster than throughput. A load is passed over of whose requests over a hundredth failed or were dropped, and a rate
    that was not kept up with.
    """
    fit = [
        each
        for each in samples
        if each.latency and each.failed + each.dropped <= _FEW * each.requests and not each.fell_behind
    ]
    if limit_ms is not None:
        fit = [each for each in fit if _ms(each).p99 <= limit_ms]
    if not fit:
        return None
    if limit_ms is None:
        chosen = max(fit, key=_power)
        why = "the knee: the most requests/s per ms of mean latency"
    else:
        chosen = max(fit, key=lambda each: each.requests_per_second)
        why = f"the most requests/s with a p99 of at most {limit_ms:g} ms"
    return Best(sample=chosen, why=why, batches=tuple(_batches(chosen, info)))


def cautions(samples: Sequence[Sample]) -> Iterator[str]:
    """Give what a reader of the figures must know, a sentence each."""
    for each in samples:
        for code, number in each.errors.items():
            yield f"{each.load}: {number:,} of {each.requests:,} requests failed with {code}: {each.messages[code]}"
        if each.dropped:
            yield (
                f"{each.load}: {each.dropped:,} of {each.requests:,} requests were never sent, as too many were out; "
                f"the latencies are without them"
            )
        if each.late > _FEW * each.requests:
            yield (
                f"{each.load}: {each.late:,} of {each.requests:,} requests were sent over {LATE * 1e3:g} ms late, one "
                f"by {each.worst_delay_ms:,.1f} ms; their latencies count from when they were due"
            )
        if each.fell_behind:
            yield (
                f"{each.load}: only {each.requests_per_second:,.1f} a second were answered; requests piled up, and the "
                f"latencies would grow with the time"
            )
        if not each.requests:
            yield f"{each.load}: no request was due and ended in the time; give more --seconds"
        if not each.complete:
            yield f"{each.load}: interrupted; the figures are of the time until then"
    if busy := [each for each in samples if each.cpu.own >= _BUSY]:
        yield (
            f"{_loads(busy)}: this caller's own CPU was {max(each.cpu.own for each in busy):.0%} busy, and Python uses "
            f"little more than one core: what the server can do may be more, and its latency less"
        )
    if busy := [each for each in samples if each.cpu.machine >= _MACHINE_BUSY]:
        yield (
            f"{_loads(busy)}: all CPUs of this machine were busy; this caller, and whatever else runs here, took them "
            f"from one another"
        )


def _loads(samples: Sequence[Sample]) -> str:
    return ", ".join(str(sample.load) for sample in samples)


def _power(sample: Sample) -> float:
    """Return throughput over latency: Kleinrock's power, whose maximum is the knee of the curve."""
    return sample.requests_per_second / _ms(sample).mean


def _ms(sample: Sample) -> Latency:
    """Return the latency of a sample that has one."""
    assert sample.latency is not None
    return sample.latency


def _batches(sample: Sample, info: ModelInfo) -> Iterator[str]:
    runs, batching = sample.runs, info.batching
    assert runs is not None  # as latency is
    most = 500 * _ms(sample).mean  # a wait of more µs is over half of the latency
    if not batching.enabled:
        yield f"The model is run one request at a time: {batching.reason}."
    else:
        yield (
            f"A run had {runs.rows:.1f} rows on average and {runs.most_rows} at most; batching.max_rows is "
            f"{batching.max_rows}, batching.max_delay_us {batching.max_delay_us}."
        )
        if runs.rows >= _FULL * batching.max_rows:
            yield "Runs were full: measure again with a larger batching.max_rows."
        elif runs.most_rows < batching.max_rows:
            yield (f"No run was full: under this load any batching.max_rows of {runs.most_rows} or more does the same.")
        if batching.max_delay_us and runs.batch_wait_us > most:
            yield (
                f"A request waited {runs.batch_wait_us:,.0f} µs for others and ran for {runs.compute_us:,.0f} µs: "
                f"measure again with a smaller batching.max_delay_us."
            )
    if runs.queue_us > most:
        yield (
            f"A request waited {runs.queue_us:,.0f} µs for a free executor and ran for {runs.compute_us:,.0f} µs: "
            f"measure again with more instances, or threads, if CPUs were free."
        )
