"""Programs that serve COMET, BLEURT and MetricX by the protocol of docs/metrics.md."""
