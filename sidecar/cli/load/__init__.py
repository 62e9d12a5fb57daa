"""``trail load``: simulated engines with real agents against the real services."""
