"""Ranges that both the nodes and the description of the pipeline check."""

RATE_LIMITS = (0.01, 100.0)
"""Slowest and fastest replay."""
PORT_LIMITS = (1024, 65534)
"""First and last port of the view's page; the one after it is that of its data."""
