"""Wall clocks that jump. Times to live are of monotonic clocks, which never do."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.chaos.fault import Began, Plans, fault
from tests.chaos.system import System

HOUR_S = 3600.0


@fault(Plans.GO_ON, lasts_s=3)
def clock_of_the_services_jumps_ahead(system: System, began: Began) -> Iterator[None]:
    system.clock.seconds = HOUR_S
    yield
    system.clock.seconds = 0


@fault(Plans.GO_ON, lasts_s=3)
def clock_of_the_services_jumps_back(system: System, began: Began) -> Iterator[None]:
    system.clock.seconds = -HOUR_S
    yield
    system.clock.seconds = 0


@fault(Plans.GO_ON, lasts_s=3)
def clock_of_the_engine_jumps_to_and_fro(system: System, began: Began) -> Iterator[None]:
    for seconds in (HOUR_S, -HOUR_S, 24 * HOUR_S, 0, -24 * HOUR_S):
        system.engine_clock.seconds = seconds
        time.sleep(0.4)
    yield
    system.engine_clock.seconds = 0
