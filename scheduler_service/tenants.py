"""What each tenant was served lately: what a fair share is judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from zlib import crc32

import numpy as np

from scheduler_service.view import Floats, Ints

TENANTS = 1024
MEMORY_S = 60.0


def tenant_of(name: str) -> int:
    """Which of the accounts a tenant's service goes to; 0: that of requests without one.

    A hash, so that the memory is bounded and every replica agrees: two of many tenants may share an account.
    """
    return 1 + crc32(name.encode()) % (TENANTS - 1) if name else 0


class TenantService:
    """Service by tenant, in seconds of the whole engine over the tenant's weight, fading over a minute."""

    def __init__(self, slots: int, weights: Mapping[str, float]) -> None:
        self.service_s: Floats = np.zeros(TENANTS)
        weight = np.ones(TENANTS)
        for name, of in weights.items():
            weight[tenant_of(name)] = of
        self._share = 1 / (max(slots, 1) * weight)

    def served(self, tenants: Ints, duration_s: float) -> None:
        """Each of these rows [running] held its place for a step of ``duration_s``."""
        self.service_s *= math.exp(-duration_s / MEMORY_S)
        self.service_s += np.bincount(tenants, minlength=TENANTS) * duration_s * self._share
