"""Shows how a process does: metrics for Prometheus, liveness and readiness."""
