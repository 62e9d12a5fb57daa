"""Experiments as this replica takes part in them: which arm an engine serves, what is counted, what stops an arm."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from scheduler_service.choice import PolicyChoice
from scheduler_service.experiments import metrics
from scheduler_service.experiments.clock import StoreClock
from scheduler_service.experiments.counting import Counts
from scheduler_service.experiments.design import Arm
from scheduler_service.experiments.record import Ending, Record, State
from scheduler_service.experiments.shadow import Comparison
from scheduler_service.experiments.store import ExperimentStore, Look
from scheduler_service.experiments.watch import Watch
from scheduler_service.messages import Finished
from sidecar.errors import InvalidField
from sidecar.redis import STORE_ERRORS

LOOK_S = 1.0


class Choices(Protocol):
    """Who knows the policy of an engine."""

    def get(self, engine_id: str) -> PolicyChoice:
        """The choice that holds for it now."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The part that an engine has in an experiment now; `block` is -1 after a halt."""

    record: Record
    arm: Arm
    block: int


class LiveExperiments:
    """A store that is gone changes nothing: experiments go on by what was read last, and counts wait for it."""

    def __init__(
        self, store: ExperimentStore, own: Choices, longest_waits_s: Callable[[], Mapping[str, float]]
    ) -> None:
        self._store = store
        self._watching = Watch(store)
        self._own = own
        self._longest_waits_s = longest_waits_s
        self.clock = StoreClock()
        self._records: dict[str, Record] = {}
        self._of_engine: dict[str, Record] = {}
        self._counts = Counts()
        self._lost_store = False
        self._judged: dict[str, int] = {}
        """By name: the newest block that was judged."""
        self._artefacts: dict[str, str] = {}
        self._shadows: deque[tuple[str, Comparison]] = deque(maxlen=1000)
        self._halted_here: dict[str, Ending] = {}
        """By name: what the store does not know yet."""
        self._log = structlog.get_logger("experiments")

    def serving(self, engine_id: str) -> Serving | None:
        """None: the engine has its own policy."""
        record = self._of_engine.get(engine_id)
        found = record.serving(engine_id, self.clock.now_s()) if record is not None else None
        return Serving(record, *found) if record is not None and found is not None else None

    def get(self, engine_id: str) -> PolicyChoice:
        """The arm's policy, else the engine's own."""
        own, serving = self._own.get(engine_id), self.serving(engine_id)
        return own if serving is None else self._of_arm(serving.arm, own)

    def shadows(self, engine_id: str) -> tuple[str, dict[str, PolicyChoice]] | None:
        """The experiment, and the shadow arms whose plans are wanted of an engine; None: none are."""
        serving = self.serving(engine_id)
        if serving is None or serving.block < 0 or not serving.record.design.shadow_arms:
            return None
        own, design = self._own.get(engine_id), serving.record.design
        return design.name, {arm.name: self._of_arm(arm, own) for arm in design.shadow_arms}

    def compared(self, engine_id: str, comparison: Comparison) -> None:
        """Notes a shadow arm's plan."""
        self._shadows.append((engine_id, comparison))

    def finished(self, engine_id: str, finished: Finished) -> str:
        """Counts how a request ended where it arrived in the measured part of a block. The arm to which it belongs,
        empty: none. Its arrival is taken from its latency, so that the engine's clock plays no part."""
        record, now_s = self._of_engine.get(engine_id), self.clock.now_s()
        if record is None or record.timeline is None or now_s >= record.ended_s():
            return ""
        timeline, outcome, name = record.timeline, finished.outcome, record.design.name
        ended_in, arrived_in = timeline.counted_in(now_s), timeline.counted_in(now_s - outcome.latency_s)
        if ended_in is not None:
            arm = record.arm_in(engine_id, ended_in)
            self._counts.of(name, engine_id, ended_in, arm.name).finished_tokens += outcome.output_tokens
        if arrived_in is None:
            return ""
        arm = record.arm_in(engine_id, arrived_in)
        self._counts.of(name, engine_id, arrived_in, arm.name).add(outcome)
        metrics.REQUESTS.labels(name, arm.name, outcome.reason).inc()
        metrics.LATENCY_SECONDS.labels(name, arm.name).observe(outcome.latency_s)
        if outcome.time_to_first_token_s > 0:
            metrics.TTFT_SECONDS.labels(name, arm.name).observe(outcome.time_to_first_token_s)
        return arm.name

    async def run(self) -> None:
        """Looks once a second, until cancelled."""
        while True:
            try:
                await self.look()
            except STORE_ERRORS as error:
                if not self._lost_store:
                    self._lost_store = True
                    self._log.warning("the store is gone; experiments go on as they are", reason=str(error))
                self._watch_here()
            except Exception as error:
                # Statistics must not end for good because of one record.
                self._log.error("experiments not followed", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(LOOK_S)

    async def flush(self) -> None:
        """Writes what was counted, before the end."""
        try:
            await self._write()
        except STORE_ERRORS as error:
            self._log.warning("counts of experiments are lost", reason=str(error))

    async def look(self) -> None:
        """Reads what experiments there are, writes what was counted, and judges. Raises RedisError, OSError and
        TimeoutError."""
        looked = await self._store.look()
        before_s = self.clock.now_s()
        jump_s = self.clock.looked(looked.store_s, looked.asked_at_s, looked.answered_at_s)
        before = self._records
        self._take(looked)
        self._watch_here()
        if jump_s:
            await self._void(before, before_s, jump_s)
        await self._write()
        await self._store.seen(list(self._longest_waits_s()), self.clock.now_s())
        await self._give_artefacts()
        await self._judge()
        if self._lost_store:
            self._lost_store = False
            self._log.info("the store is back")

    def _take(self, looked: Look) -> None:
        now_s = self.clock.now_s()
        self._records = {name: self._with_halt(record) for name, record in looked.records.items()}
        held = {engine: self._records.get(name) for engine, name in looked.claims.items()}
        self._of_engine = {e: r for e, r in held.items() if r is not None and r.state(now_s) is not State.CREATED}
        metrics.ARM.clear()
        for engine_id in self._longest_waits_s():
            serving = self.serving(engine_id)
            if serving is not None:
                metrics.ARM.labels(serving.record.design.name, engine_id, serving.arm.name).set(1)
        for record in self._of_engine.values():
            if record.timeline is not None:
                block = record.timeline.block_at(now_s)
                self._counts.forget(record.design.name, (block if block is not None else record.design.blocks) - 2)

    def _running(self) -> list[Record]:
        now_s = self.clock.now_s()
        return [record for record in self._records.values() if record.state(now_s) is State.RUNNING]

    def _of_arm(self, arm: Arm, own: PolicyChoice) -> PolicyChoice:
        try:
            return arm.choice(own)
        except InvalidField:
            # The engine's own policy was changed since, to one that the arm's settings do not go with.
            return arm.choice(PolicyChoice())

    async def _write(self) -> None:
        for (name, engine_id), counted in self._counts.unwritten().items():
            fields = {each.name: each.tally.packed() for each in counted}
            for each in counted:
                # What comes while this is written is written next time.
                each.unwritten = False
            try:
                await self._store.count(engine_id, name, fields)
            except STORE_ERRORS:
                for each in counted:
                    each.unwritten = True
                raise
        shadows = list(self._shadows)
        self._shadows.clear()
        await self._store.write_shadows(shadows)
        for name, ending in list(self._halted_here.items()):
            await self._store.halt(name, ending)
            del self._halted_here[name]

    async def _give_artefacts(self) -> None:
        """Tells the predictors which artefact an engine is to have; they forget it by themselves after a while."""
        for engine_id in self._longest_waits_s():
            serving = self.serving(engine_id)
            artefact = "" if serving is None else serving.arm.artefact
            if artefact or self._artefacts.get(engine_id):
                await self._store.give_artefact(engine_id, artefact)
            self._artefacts[engine_id] = artefact

    def _watch_here(self) -> None:
        """The guardrails that need no store, which may be gone."""
        waits_s, now_s = self._longest_waits_s(), self.clock.now_s()
        for record in self._running():
            found = self._watching.at_once(record, self._counts, waits_s, now_s)
            if found is not None:
                self._halted_here[record.design.name] = found
                self._hold(self._with_halt(record))

    async def _judge(self) -> None:
        """The guardrail that needs whole blocks, once after each."""
        now_s = self.clock.now_s()
        for record in self._running():
            block = record.timeline.newest_closed(now_s) if record.timeline is not None else -1
            if block <= self._judged.get(record.design.name, -1):
                continue
            found = await self._watching.by_blocks(record, now_s)
            self._judged[record.design.name] = block
            if found is not None:
                self._halted_here[record.design.name] = found
                self._hold(self._with_halt(record))

    def _with_halt(self, record: Record) -> Record:
        ending = self._halted_here.get(record.design.name)
        return record if ending is None or record.halted else dataclasses.replace(record, halted=ending)

    def _hold(self, record: Record) -> None:
        """This replica's engines go back to control now, before the store knows."""
        name = record.design.name
        self._records[name] = record
        self._of_engine |= {e: record for e, held in self._of_engine.items() if held.design.name == name}

    async def _void(self, records: Mapping[str, Record], before_s: float, jump_s: float) -> None:
        """Every block from one end of a jump of the store's clock to the other is not what it should be: nobody served
        it, or it was served twice."""
        low_s, high_s = sorted((before_s, self.clock.now_s()))
        self._log.warning("the store's clock jumped", seconds=round(jump_s, 3))
        for record in records.values():
            timeline = record.timeline
            if timeline is None or record.halted or record.stopped:
                continue
            blocks = timeline.blocks_between(low_s, high_s)
            for engine_id in record.design.engines if blocks else ():
                reason = f"the store's clock jumped by {jump_s:.1f} s"
                await self._store.void(engine_id, record.design.name, blocks, reason)
