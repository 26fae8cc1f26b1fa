"""An OTLP receiver of the tests' own: a real gRPC server that keeps what is pushed to it."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Receiver(
    trace_service_pb2_grpc.TraceServiceServicer,
    metrics_service_pb2_grpc.MetricsServiceServicer,
    logs_service_pb2_grpc.LogsServiceServicer,
):
    """Keeps requests in the order of their arrival. `refuse` is a status code to answer with instead."""

    def __init__(self, refuse=None):
        self.refuse = refuse
        self.traces, self.metrics, self.logs = [], [], []
        self.endpoint = ""

    def Export(self, request, context):
        if self.refuse is not None:
            context.abort(self.refuse, "as asked")
        match request:
            case trace_service_pb2.ExportTraceServiceRequest():
                self.traces.append(request)
                return trace_service_pb2.ExportTraceServiceResponse()
            case metrics_service_pb2.ExportMetricsServiceRequest():
                self.metrics.append(request)
                return metrics_service_pb2.ExportMetricsServiceResponse()
            case _:
                self.logs.append(request)
                return logs_service_pb2.ExportLogsServiceResponse()

    @property
    def spans(self):
        """All spans so far."""
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def records(self):
        """All log records so far."""
        return [
            record
            for request in self.logs
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def latest(self, name):
        """The metric of that name as it was pushed last; None: it was not."""
        for request in reversed(self.metrics):
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == name:
                            return metric
        return None


@contextlib.contextmanager
def receiver(refuse=None):
    """Run a receiver on a free port of the loopback interface."""
    server = grpc.server(ThreadPoolExecutor(4))
    kept = Receiver(refuse)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(kept, server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(kept, server)
    kept.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield kept
    finally:
        server.stop(0).wait()


def attributes(holder):
    """The attributes of a span, a point or a record, as a dict."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in holder.attributes}
