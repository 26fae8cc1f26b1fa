"""Metrics, traces and logs of a running server, in OpenTelemetry's terms."""
