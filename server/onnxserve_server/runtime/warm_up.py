"""Run a loaded model with made-up rows, so that its first caller does not wait for what only the first run does."""

import time
from collections.abc import Sequence

from onnxserve_server.runtime.draws import Feeds
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.runtime.first_rows import first_that_runs
from onnxserve_server.runtime.row_hints import hints_of
from onnxserve_server.runtime.session import Session
from onnxserve_server.runtime.trials import FATAL, Trial, is_fatal

_MAX_BYTES = 64 << 20  # of several rows
_MAX_SECONDS = 5.0  # that they should take, by the time of one


def warm_up(session: Session, max_rows: int, fatal: Sequence[Trial] = ()) -> tuple[int, str]:
    """Run a model with one row and with up to `max_rows`, but with none that fulfils what was fatal in a trial.

    Returns:
        The most rows that it has run with, and why it did not run: (0, reason), or (rows, "").
    """

    def run(feeds: Feeds) -> None:
        if is_fatal(feeds, fatal):
            raise RunFailed(FATAL)
        run_all(session, feeds)

    try:
        row = first_that_runs(session.inputs, hints_of(session), run).feeds
    except RunFailed as error:
        return 0, str(error)
    began = time.monotonic()
    try:
        run_all(session, row)  # once more: the first run may have taken much longer
        by_time = _MAX_SECONDS / max(time.monotonic() - began, 1e-9)
        by_bytes = _MAX_BYTES // max(1, sum(array.nbytes for array in row.values()))
        rows = int(min(max_rows, by_bytes, by_time))
        if rows > 1:
            run_all(session, {spec.name: spec.repeat(row[spec.name], rows) for spec in session.inputs})
    except RunFailed:  # for lack of time
        return 1, ""
    return max(1, rows), ""


def run_all(session: Session, feeds: Feeds) -> Feeds:
    """Return all outputs of one run, by name; raises RunFailed."""
    names = [spec.name for spec in session.outputs]
    return dict(zip(names, session.run(feeds, names), strict=True))
