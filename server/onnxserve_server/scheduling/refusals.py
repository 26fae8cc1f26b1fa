"""What callers are told whose jobs are not queued, or not run in time: what is wrong, by how much, and the cure."""

from onnxserve_server.core import Job
from onnxserve_server.errors import DeadlineExceeded, QueueFull
from onnxserve_server.scheduling.backlog import Backlog
from onnxserve_server.spec import BatchPolicy

PASSED = "the deadline passed before the model had run"
_CURE = "set a longer timeout, send fewer requests at a time, or add servers"
TOO_LATE = f"the deadline cannot be met any more: the requests ahead took longer than expected; {_CURE}"


def queue_full(job: Job, policy: BatchPolicy, rows: int, nbytes: int, retry_after: float) -> QueueFull:
    """Return the error of a job beside which so many rows and bytes wait for its model."""
    return QueueFull(
        f"the queue is full: {rows} rows ({nbytes} bytes) wait, of at most {policy.max_queue_rows} rows "
        f"(max_queue_rows) and {policy.max_queue_bytes} bytes (max_queue_bytes), and this request has "
        f"{job.rows} rows ({job.nbytes} bytes)",
        retry_after=retry_after,
        queued_rows=str(rows),
        queued_bytes=str(nbytes),
    )


def memory_full(job: Job, backlog: Backlog, rows: int, retry_after: float) -> QueueFull:
    """Return the error of a job beside which too much waits for all models, and so many rows for its own."""
    waiting = backlog.nbytes
    return QueueFull(
        f"the server's memory is full: {waiting} bytes wait for all models, at most {backlog.limit} may "
        f"(all_queue_bytes), and this request has {job.nbytes} bytes",
        retry_after=retry_after,
        queued_rows=str(rows),
        queued_bytes=str(waiting),
    )


def too_late(job: Job, needed: float) -> DeadlineExceeded:
    """Return the error of a job that would take so many seconds from its arrival."""
    if job.deadline <= job.arrived:
        return DeadlineExceeded("the deadline has passed")
    return DeadlineExceeded(
        f"the deadline cannot be met: about {needed * 1e3:.1f} ms are needed, with the requests ahead, and "
        f"{(job.deadline - job.arrived) * 1e3:.1f} ms are left; {_CURE}",
        needed_us=str(int(needed * 1e6)),
    )
