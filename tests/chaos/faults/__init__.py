"""All faults; importing this registers them."""

from tests.chaos.faults import clocks, disks, engines, messages, models, networks, parts, stores

__all__ = ["clocks", "disks", "engines", "messages", "models", "networks", "parts", "stores"]
