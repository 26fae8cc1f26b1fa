"""The HTTP port: health for load balancers, metrics for Prometheus, and a page for people."""
