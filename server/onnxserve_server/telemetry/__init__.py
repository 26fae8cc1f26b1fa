"""What can be seen of a running server: metrics, traces and logs, in OpenTelemetry's terms."""
