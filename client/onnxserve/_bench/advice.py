"""The best load, its batches, and cautions about the figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxserve._bench.sample import LATE, Latency, Sample
from onnxserve._models import ModelInfo

_FEW = 0.01  # the fraction of a load's requests that may fail or be late
_FULL = 0.9  # runs with this fraction of max_rows on average count as full
_BUSY = 0.85  # cores used by this process, of which Python can use about one
_MACHINE_BUSY = 0.95  # of all CPUs


@dataclass(frozen=True, kw_only=True)
class Best:
    """The recommended load.

    Attributes:
        sample: its measurements.
        why: why it was chosen.
        batches: sentences about the size of its runs, and about the keys of model.yaml.
    """

    sample: Sample
    why: str
    batches: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The load and its figures, in one line."""
        rate, p99, rows = self.sample.requests_per_second, _ms(self.sample).p99, self.sample.rows_in_server
        return (
            f"Best of these: {self.sample.load}, {rate:,.1f} requests/s, p99 {p99:.2f} ms ({self.why}); "
            f"{rows:.2f} rows in the server at a time (C in the documentation's rules for scaling)."
        )


def best(samples: Sequence[Sample], info: ModelInfo, limit_ms: float | None) -> Best | None:
    """Return the load with the highest throughput whose p99 is within a limit; None: there is none.

    Without a limit it is the knee, the load with the highest ratio of throughput to mean latency: beyond it latency
    grows faster than throughput. Loads are excluded if more than a hundredth of their
    requests failed or were dropped, as are rates that the server could not keep up with.
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
    """Yield the cautions that a reader of the figures must know, one sentence each."""
    for each in samples:
        for code, number in each.errors.items():
            yield f"{each.load}: {number:,} of {each.requests:,} requests failed with {code}: {each.messages[code]}"
        if each.dropped:
            yield (
                f"{each.load}: {each.dropped:,} of {each.requests:,} requests were never sent, because too many were "
                f"in flight; the latencies do not include them"
            )
        if each.late > _FEW * each.requests:
            yield (
                f"{each.load}: {each.late:,} of {each.requests:,} requests were sent more than {LATE * 1e3:g} ms late, "
                f"at worst {each.worst_delay_ms:,.1f} ms; their latencies count from the time they were due"
            )
        if each.fell_behind:
            yield (
                f"{each.load}: the server answered only {each.requests_per_second:,.1f} requests/s; the backlog, and "
                f"with it the latencies, would grow further with more time"
            )
        if not each.requests:
            yield f"{each.load}: no request was due and ended in the time; raise --seconds"
        if not each.complete:
            yield f"{each.load}: interrupted; the figures cover the time until then"
    if busy := [each for each in samples if each.cpu.own >= _BUSY]:
        yield (
            f"{_loads(busy)}: this process used {max(each.cpu.own for each in busy):.0%} of a core, and Python cannot "
            f"use much more: the server may be faster than these figures"
        )
    if busy := [each for each in samples if each.cpu.machine >= _MACHINE_BUSY]:
        yield (
            f"{_loads(busy)}: all CPUs of this machine were busy; this process and the others on it slowed each other "
            f"down"
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
    half = 500 * _ms(sample).mean  # of the mean latency, in µs
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
            yield f"No run was full: any batching.max_rows of {runs.most_rows} or more gives the same under this load."
        if batching.max_delay_us and runs.batch_wait_us > half:
            yield (
                f"A request waited {runs.batch_wait_us:,.0f} µs for others and ran for {runs.compute_us:,.0f} µs: "
                f"measure again with a smaller batching.max_delay_us."
            )
    if runs.queue_us > half:
        yield (
            f"A request waited {runs.queue_us:,.0f} µs for a free executor and ran for {runs.compute_us:,.0f} µs: "
            f"if CPUs were free, measure again with more instances or threads."
        )
