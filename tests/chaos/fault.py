"""What a fault is, and how one is measured: under load, from its beginning until everything is in order again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from tests.chaos.processes import until
from tests.chaos.system import PLAN_TTL_MS, System

LATE_MS = 100
"""A step of the engine, and what a process of this machine may be late by."""


class Plans(Enum):
    """What becomes of plans while a fault lasts."""

    END = "the engine is back to its own order within one plan time-to-live"
    GO_ON = "plans come all the while"
    MAY_PAUSE = "either"


class Began:
    """When the fault did: as it is injected, or at ``now`` where that took preparation."""

    def __init__(self) -> None:
        self.at_s = time.monotonic()

    def now(self) -> None:
        self.at_s = time.monotonic()


Inject = Callable[[System, Began], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    name: str
    plans: Plans
    lasts_s: float
    inject: Inject


FAULTS: dict[str, Fault] = {}


def fault(plans: Plans, *, lasts_s: float = 2.0) -> Callable[[Callable[[System, Began], Iterator[None]]], Inject]:
    """Registers a generator: what is before its ``yield`` begins the fault, what is behind it ends it in any case."""

    def register(generator: Callable[[System, Began], Iterator[None]]) -> Inject:
        @contextlib.contextmanager
        def inject(system: System, began: Began) -> Iterator[None]:
            steps = generator(system, began)
            next(steps)
            try:
                yield
            finally:
                next(steps, None)

        name = generator.__name__
        FAULTS[name] = Fault(name, plans, lasts_s, inject)
        return inject

    return register


@dataclass
class Row:
    """One fault's line of the report; times are None where nothing of the kind happened, or had to."""

    requests: int = 0
    lost: int = 0
    changed_outputs: int = 0
    fallback_ms: float | None = None
    recovered_ms: float | None = None
    leaked_states: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not (self.lost or self.changed_outputs or self.leaked_states or self.problems)

    def told(self) -> dict[str, Any]:
        return asdict(self)


def measure(system: System, fault: Fault) -> Row:
    """Puts a system in order through the fault; it is left in order, and empty."""
    row, engine = Row(), system.engine
    submitted, ended, changed = engine.submitted, engine.ended, engine.changed
    try:
        engine.load()
        system.until_in_order()
        began = Began()
        with fault.inject(system, began):
            _during(system, fault, began, row)
        _after(system, row)
    except Exception as error:  # noqa: BLE001 - a fault that could not be measured is a line of the report
        row.problems.append(f"{type(error).__name__}: {error}")
    engine.rest()
    with contextlib.suppress(TimeoutError):
        until(lambda: not engine.living, "all requests have ended")
    row.requests = engine.submitted - submitted
    row.lost = row.requests - (engine.ended - ended)
    row.changed_outputs = engine.changed - changed
    leaked = system.leaked_states()
    row.leaked_states = sum(map(abs, leaked.values()))
    if row.leaked_states:
        row.problems.append(f"left behind: {leaked}")
    return row


def _during(system: System, fault: Fault, began: Began, row: Row) -> None:
    engine, begin_s = system.engine, began.at_s
    if fault.plans is Plans.END:
        until(lambda: engine.first_step_after(begin_s, planned=False), "the engine is back to its own order", 10)
        own_order_s = engine.first_step_after(begin_s, planned=False)
        assert own_order_s is not None
        row.fallback_ms = round((own_order_s - begin_s) * 1000, 1)
        if row.fallback_ms > PLAN_TTL_MS + LATE_MS:
            row.problems.append(f"fell back after {row.fallback_ms} ms")
    time.sleep(max(begin_s + fault.lasts_s - time.monotonic(), 0))
    seen = [step for step in tuple(engine.steps) if step.at_s > begin_s]
    if fault.plans is Plans.GO_ON and (own := sum(step.plan is None for step in seen)):
        row.problems.append(f"{own} of {len(seen)} steps without a plan")
    if not seen:
        row.problems.append("the engine made no step while the fault lasted")


def _after(system: System, row: Row) -> None:
    healed_s, plan = time.monotonic(), system.engine.plan
    find = system.engine.first_step_after
    until(lambda: find(healed_s, planned=True, other_than=plan), "plans come again")
    planned_s = find(healed_s, planned=True, other_than=plan)
    assert planned_s is not None
    row.recovered_ms = round((planned_s - healed_s) * 1000, 1)
    system.until_in_order()
