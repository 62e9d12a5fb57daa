"""``trail top``: engines, services and experiments in a terminal, from the /metrics that everybody serves anyway."""

METRICS_PORTS = {"predictor": 9461, "scheduler": 9462, "agent": 9463}
"""Where `trail up` serves metrics, and where `trail top` looks if it is not told otherwise."""
