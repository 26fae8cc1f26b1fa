"""Python callers: our clients on our server, tritonclient on Triton, in turn, each in a process of its own."""

import statistics
import subprocess
import sys
from pathlib import Path

from bench.figures import Keys, median_ratio

CALLERS = {"threads": 16, "tasks": 64}
MEANINGS = {
    "sdk.threads.vs_tritonclient_rps": "16 threads: Client on onnxserve over tritonclient.grpc on Triton",
    "sdk.tasks.vs_tritonclient_rps": "64 tasks: AsyncClient on onnxserve over tritonclient.grpc.aio on Triton",
}


def measure(ours: str, tritons: str, triton_python: Path, runs: int, seconds: float) -> Keys:
    """Call the tiny model of both servers, `runs` times over for about so long.

    Args:
        ours: onnxserve's address.
        tritons: Triton's address.
        triton_python: of the environment with tritonclient, which wants an older protobuf than ours.
        runs: how many.
        seconds: how long one measurement lasts.

    Returns:
        `sdk.{threads,tasks}.{tritonclient,beside_tritonclient}.rps`, medians, and of the runs' ratios the median:
        `sdk.{threads,tasks}.vs_tritonclient_rps`.
    """
    keys: Keys = {}
    for kind, callers in CALLERS.items():
        print(f"sdk: {callers} {kind}", file=sys.stderr, flush=True)
        mine, theirs = [], []
        for _ in range(runs):
            mine.append(_rate(Path(sys.executable), "onnxserve", kind, ours, str(callers), str(seconds)))
            theirs.append(_rate(triton_python, "tritonclient", kind, tritons, str(callers), str(seconds)))
        keys[f"sdk.{kind}.beside_tritonclient.rps"] = statistics.median(mine)
        keys[f"sdk.{kind}.tritonclient.rps"] = statistics.median(theirs)
        keys[f"sdk.{kind}.vs_tritonclient_rps"] = median_ratio(mine, theirs)
    return keys


def _rate(python: Path, *arguments: str) -> float:
    command = [str(python), "-m", "bench.peers.calls", *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
