"""How long tests wait for what must come."""

PATIENCE_S = 300.0
"""Costs nothing where all is well. A shared machine may stand still for a minute: the kernel once took 50 s to end a
process that was killed."""
