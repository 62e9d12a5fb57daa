"""A part killed or stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.chaos.fault import Began, Plans, fault
from tests.chaos.system import System


@fault(Plans.END)
def predictor_killed(system: System, began: Began) -> Iterator[None]:
    system.predictor.kill()
    yield
    system.predictor.start()


@fault(Plans.END, lasts_s=3)
def predictor_stopped(system: System, began: Began) -> Iterator[None]:
    system.predictor.stop()
    yield
    system.predictor.wake()


@fault(Plans.END)
def scheduler_killed(system: System, began: Began) -> Iterator[None]:
    system.scheduler.kill()
    yield
    system.scheduler.start()


@fault(Plans.END, lasts_s=3)
def scheduler_stopped(system: System, began: Began) -> Iterator[None]:
    system.scheduler.stop()
    yield
    system.scheduler.wake()


@fault(Plans.END)
def agent_killed(system: System, began: Began) -> Iterator[None]:
    killed = system.agent.kill()
    yield
    system.agent.until_another(killed)


@fault(Plans.END, lasts_s=3)
def agent_stopped(system: System, began: Began) -> Iterator[None]:
    system.agent.stop()
    yield
    system.agent.wake()


@fault(Plans.END)
def agent_killed_three_times(system: System, began: Began) -> Iterator[None]:
    for _ in range(3):
        killed = system.agent.kill()
        system.agent.until_another(killed)
        time.sleep(0.5)
    yield


@fault(Plans.END)
def store_killed_and_back_empty(system: System, began: Began) -> Iterator[None]:
    system.store.kill()
    yield
    system.store.restart_empty()


@fault(Plans.END, lasts_s=3)
def store_stopped(system: System, began: Began) -> Iterator[None]:
    system.store.stop()
    yield
    system.store.wake()


@fault(Plans.END)
def everything_killed(system: System, began: Began) -> Iterator[None]:
    services = (system.predictor, system.scheduler)
    system.store.kill()
    for service in services:
        service.kill()
    agent = system.agent.kill()
    yield
    system.store.restart_empty()
    for service in services:
        service.begin()
    for service in services:
        service.until_ready()
    system.agent.until_another(agent)


@fault(Plans.END, lasts_s=3)
def everything_stopped(system: System, began: Began) -> Iterator[None]:
    stopped = (system.store, system.predictor, system.scheduler, system.agent)
    for part in stopped:
        part.stop()
    yield
    for part in stopped:
        part.wake()
