"""An OTLP collector that takes everything that is pushed to it and keeps nothing."""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

from bench.process import ServerProcess


def serve() -> ServerProcess:
    """Start the collector."""
    return ServerProcess("collector", [sys.executable, "-m", "bench.collector"])


class _TakeAll(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")  # no field set: all were taken


def _main() -> None:
    server = grpc.server(ThreadPoolExecutor(1), handlers=(_TakeAll(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"the collector is ready on 127.0.0.1:{port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(None).wait()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # before any thread begins
    _main()
