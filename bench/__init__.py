"""The benchmarks: `python -m bench` (make bench) and `python -m bench.peers.triton` (make bench-triton).

models makes what is served; ours and floor are the servers, raw is ONNX Runtime without one; process starts and watches
them, load calls them, cells has them take turns, sdk is Python callers, soak looks for
leaks; figures are computed from all that, report prints them. docs/benchmarks.md has the method.
"""
