"""Disks that take nothing more: logs, statistics and recordings have nowhere to go."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.fault import Began, Plans, fault
from tests.chaos.processes import until
from tests.chaos.system import System


@fault(Plans.MAY_PAUSE, lasts_s=3)
def disk_full_at_the_predictor(system: System, began: Began) -> Iterator[None]:
    """It has to log something meanwhile: a stream that opens, and a store that goes and comes."""
    system.predictor.fill_disk()
    system.predictor_link.reset()
    system.store.proxy.reset()
    yield
    system.predictor.free_disk()


@fault(Plans.MAY_PAUSE, lasts_s=3)
def disk_full_at_the_scheduler(system: System, began: Began) -> Iterator[None]:
    system.scheduler.fill_disk()
    system.scheduler_link.reset()
    system.store.proxy.reset()
    yield
    system.scheduler.free_disk()


@fault(Plans.MAY_PAUSE, lasts_s=4)
def disk_full_at_the_agent(system: System, began: Began) -> Iterator[None]:
    """Its statistics cannot be written either."""
    agent = system.agent.pid
    system.agent.fill_disk()
    system.scheduler_link.reset()
    yield
    assert system.agent.pid == agent, "the agent died of it"
    system.agent.free_disk()
    until(lambda: system.agent.pid == agent, "the agent lives")
