"""The soak: very many requests to one server, whose memory, threads and descriptors must stay as they were."""

import itertools
import sys
import time

from bench import load, ours
from bench.load import Target
from bench.models import MODELS
from bench.process import ServerProcess, Usage

_CHUNKS = 20
_CALLERS = 64
_SETTLE_S = 0.5  # the connections of the last chunk are still being taken down


def soak(process: ServerProcess, requests: int) -> dict[str, float]:
    """Send `requests` to the tiny model in chunks and return by how much the server grew, as flat keys `soak.*`.

    A chunk that is not counted goes first: what a server allocates once is no leak.
    """
    target = ours.target(process.address, MODELS["tiny"])
    chunks = max(1, min(_CHUNKS, requests // _CALLERS))
    marks = [requests * i // chunks for i in range(chunks + 1)]
    first = last = _after(process, target, marks[1])
    for sent, mark in itertools.pairwise(marks):
        last = _after(process, target, mark - sent)
        print(f"soak: {mark:,} requests, {last}", file=sys.stderr, flush=True)
    return {
        "soak.requests": requests,
        "soak.rss_mb": last.rss_mb,
        "soak.rss_growth_mb": last.rss_mb - first.rss_mb,
        "soak.threads_growth": last.threads - first.threads,
        "soak.fds_growth": last.fds - first.fds,
    }


def _after(process: ServerProcess, target: Target, requests: int) -> Usage:
    load.send(target, _CALLERS, requests)
    time.sleep(_SETTLE_S)
    return process.usage()
