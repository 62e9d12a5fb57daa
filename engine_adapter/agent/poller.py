"""Reads both rings, and asks the engine to declare everything again where something was lost."""

import asyncio
import time
from collections.abc import Callable

import structlog

from engine_adapter.agent.backoff import Backoff
from engine_adapter.agent.counters import Counters
from engine_adapter.agent.intake import Intake
from engine_adapter.bell import Bell
from engine_adapter.records import Arrived, Engine, Finished, Rows, Step, unpack
from engine_adapter.ring import RingConsumer, RingError
from sidecar.waiting import within

EVENTS_PER_POLL = 2048
ROW_RECORDS_PER_POLL = 64
QUIET_S = 0.02
"""A declaration counts as complete when a step follows, or nothing more comes for this long."""
IDLE_AFTER_S = 0.5
FIRST_REPAIR_WAIT_S, LONGEST_REPAIR_WAIT_S = 0.5, 30.0


class Poller:
    """The only reader of both rings.

    ``ready`` is set while the table of living requests is known to be complete. ``restarted`` is called when the
    engine is another one than before, ``lost`` when the table can no longer be trusted.
    """

    def __init__(
        self,
        events: RingConsumer,
        rows: RingConsumer,
        bell: Bell,
        intake: Intake,
        ready: asyncio.Event,
        counters: Counters,
        *,
        restarted: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._events, self._rows, self._bell, self._intake = events, rows, bell, intake
        self._ready, self._counters = ready, counters
        self._restarted, self._lost = restarted, lost
        self._engine_generation = events.producer_generation
        self._events_dropped = events.dropped
        self._rows_dropped = rows.dropped
        self._declaring = False
        self._declared_at_s = 0.0
        self._newest: Step | None = None
        # A declaration may itself be larger than the ring: then the agent goes on with what it got, and tries again
        # less and less often.
        self._repairs = Backoff(FIRST_REPAIR_WAIT_S, LONGEST_REPAIR_WAIT_S)
        self._next_repair_s = 0.0
        self._log = structlog.get_logger("poller")

    async def run(self, interval_s: float, idle_interval_s: float) -> None:
        """Polls until cancelled: when the bell rings, and by itself, less often while nothing comes."""
        last_read_s = time.monotonic()
        loop, rung = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._bell.fileno(), rung.set)
        try:
            while True:
                records = self.poll()
                now_s = time.monotonic()
                if records:
                    last_read_s = now_s
                if records >= ROW_RECORDS_PER_POLL:
                    await asyncio.sleep(0)  # there may be more; the links shall have their turn
                    continue
                await within(interval_s if now_s - last_read_s < IDLE_AFTER_S else idle_interval_s, rung)
                if rung.is_set():
                    rung.clear()
                    self._bell.silence()
        finally:
            loop.remove_reader(self._bell.fileno())

    def poll(self) -> int:
        """One look at both rings; returns how many records were read."""
        self._check_engine()
        events = self._read_events()
        self._intake.early_rows()
        records = events + self._read_rows()
        if self._declaring and not events and time.monotonic() - self._declared_at_s > QUIET_S:
            self._complete()
        if records:
            self._intake.wake()
        return records

    def _check_engine(self) -> None:
        if self._events.producer_generation != self._engine_generation:
            self._engine_generation = self._events.producer_generation
            self._log.info("engine started", generation=self._engine_generation)
            self._intake.forget()
            self._rows.resynchronise()
            self._resynchronise()
            self._restarted()
        elif self._events.dropped != self._events_dropped and time.monotonic() >= self._next_repair_s:
            self._log.warning("events lost", records=self._events.dropped - self._events_dropped)
            self._next_repair_s = time.monotonic() + self._repairs.next_s()
            self._resynchronise()
            self._lost()
        if self._rows.dropped != self._rows_dropped:
            self._counters.row_records_dropped += self._rows.dropped - self._rows_dropped
            self._rows_dropped = self._rows.dropped

    def _resynchronise(self) -> None:
        self._counters.resynchronisations += 1
        self._ready.clear()
        self._declaring, self._newest = False, None
        self._events_dropped = self._events.dropped
        self._events.resynchronise()

    def _read_events(self) -> int:
        for read in range(EVENTS_PER_POLL):
            try:
                record = self._events.read()
                if record is None:
                    return read
                self._event(unpack(record))
            except (RingError, ValueError) as error:
                self._log.error("broken event", reason=str(error))
                self._resynchronise()
                self._lost()
                return read
        return EVENTS_PER_POLL

    def _event(self, record: object) -> None:
        match record:
            case Engine():
                self._ready.clear()
                self._newest = None
                self._lost()
                self._intake.engine(record)
                self._declaring, self._declared_at_s = True, time.monotonic()
            case Arrived() if self._known():
                self._declared_at_s = time.monotonic()
                self._intake.arrived(record)
            case Step() if self._known():
                self._complete()
                self._stepped(record)
            case Finished() if self._known():
                self._intake.finished(record)

    def _stepped(self, step: Step) -> None:
        """A part of a step counts where the one before is known; a whole one follows within some steps."""
        before = self._newest
        if not step.whole:
            if before is None or step.step != before.step + 1:
                self._newest = None
                return
            step = step.after(before)
        self._newest = step
        self._intake.stepped(step)

    def _known(self) -> bool:
        """Whether records can be understood: not before the engine has begun to declare its requests."""
        return self._declaring or self._ready.is_set()

    def _complete(self) -> None:
        if self._declaring:
            self._declaring = False
            if self._events.dropped == self._events_dropped:
                self._repairs.reset()
            self._intake.declared()
            self._ready.set()

    def _read_rows(self) -> int:
        for read in range(ROW_RECORDS_PER_POLL):
            try:
                record = self._rows.read()
                if record is None:
                    return read
                rows = unpack(record)
            except (RingError, ValueError) as error:
                self._log.error("broken rows", reason=str(error))
                self._counters.row_records_dropped += 1
                self._rows.resynchronise()
                return read
            if isinstance(rows, Rows):
                self._intake.rows(rows)
        return ROW_RECORDS_PER_POLL
