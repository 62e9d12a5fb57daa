"""An experiment as the store holds it: a design, and when it was started, sent back or stopped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from scheduler_service.experiments.assignment import arm_of
from scheduler_service.experiments.design import Arm, Design
from scheduler_service.experiments.timeline import Timeline


class State(Enum):
    CREATED = "created"
    RUNNING = "running"
    HALTED = "halted"
    """A guardrail sent every engine back to control; they stay there until somebody stops the experiment."""
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Ending:
    """When (the store's seconds) and why."""

    at_s: float
    reason: str
    arm: str = ""
    guardrail: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """Each of these is set once and stays, so nobody can undo what another replica decided."""

    design: Design
    created_s: float
    start_s: float | None = None
    halted: Ending | None = None
    stopped: Ending | None = None

    @property
    def timeline(self) -> Timeline | None:
        return None if self.start_s is None else Timeline(self.design, self.start_s)

    def state(self, now_s: float) -> State:
        if self.stopped is not None:
            return State.STOPPED
        if self.timeline is None:
            return State.CREATED
        if self.halted is not None:
            return State.HALTED
        return State.RUNNING if now_s < self.timeline.end_s else State.FINISHED

    def serving(self, engine_id: str, now_s: float) -> tuple[Arm, int] | None:
        """The arm that an engine serves now, and the block (-1 after a halt); None: it has no part in this."""
        if engine_id not in self.design.engines or self.timeline is None:
            return None
        state = self.state(now_s)
        if state is State.HALTED:
            return self.design.control, -1
        block = self.timeline.block_at(now_s) if state is State.RUNNING else None
        return None if block is None else (self.arm_in(engine_id, block), block)

    def arm_in(self, engine_id: str, block: int) -> Arm:
        """The arm that an engine serves in a block, or served."""
        return arm_of(self.design, engine_id, block)

    def ended_s(self) -> float:
        """The time after which its blocks do not count; infinite while none does."""
        return min((each.at_s for each in (self.halted, self.stopped) if each is not None), default=float("inf"))
