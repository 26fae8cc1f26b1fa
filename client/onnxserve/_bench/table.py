"""The figures of a measurement as text, the same at a terminal and on a page."""

from onnxserve._bench.sample import Sample

HEAD = (
    "load",
    "requests/s",
    "rows/s",
    "mean ms",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "failed",
    "rows/run",
    "wait µs",
    "run µs",
    "rows inside",
    "caller CPU",
)
"""Names of the columns; `wait µs` is the whole wait before the run, `rows inside` is Sample.rows_in_server."""


def cells(sample: Sample) -> tuple[str, ...]:
    """Return the figures of one load in the order of HEAD; a dash stands for a figure that was not measured."""
    latency, runs = sample.latency, sample.runs
    return (
        str(sample.load),
        f"{sample.requests_per_second:,.1f}",
        f"{sample.rows_per_second:,.1f}",
        *((f"{ms:.2f}" for ms in (latency.mean, latency.p50, latency.p90, latency.p99)) if latency else "----"),
        f"{sample.failed + sample.dropped:,}",
        *(
            (
                f"{runs.rows:.1f}",
                f"{runs.queue_us + runs.batch_wait_us:,.0f}",
                f"{runs.compute_us:,.0f}",
                f"{sample.rows_in_server:.2f}",
            )
            if runs
            else "----"
        ),
        f"{sample.cpu.own:.0%}",
    )
