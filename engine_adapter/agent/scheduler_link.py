"""The stream to the scheduler service: what happens in the engine out, plans in."""

import asyncio
import time

import grpc

from engine_adapter.agent.channel import Channel
from engine_adapter.agent.counters import Counters
from engine_adapter.agent.epochs import EpochMint, StepNumbers
from engine_adapter.agent.hops import Hops
from engine_adapter.agent.link import Link
from engine_adapter.agent.living import LivingRequests
from engine_adapter.agent.plans import PlanPublisher
from engine_adapter.agent.reports import Reports
from engine_adapter.agent.scheduler_outbox import SchedulerOutbox
from engine_adapter.agent.settings import AgentSettings
from engine_adapter.records import Engine
from trail.v1 import engine_pb2, scheduler_pb2, scheduler_pb2_grpc

_Call = grpc.aio.StreamStreamCall[scheduler_pb2.CoordinateRequest, scheduler_pb2.CoordinateResponse]


class SchedulerLink(Link[scheduler_pb2.CoordinateRequest, scheduler_pb2.CoordinateResponse]):
    """The plan on the board dies with the stream: failing open does not wait for the plan to run out."""

    name = "scheduler_link"

    def __init__(
        self,
        channel: Channel,
        settings: AgentSettings,
        epochs: EpochMint,
        ready: asyncio.Event,
        living: LivingRequests,
        plans: PlanPublisher,
        counters: Counters,
        hops: Hops,
    ) -> None:
        super().__init__(settings, epochs, ready)
        self._channel = channel
        self._living, self._plans, self._counters, self._hops = living, plans, counters, hops
        self._steps = StepNumbers()
        self._epoch = engine_pb2.Epoch()
        self._capacity = scheduler_pb2.EngineCapacity()
        self._reports = Reports()
        self._newest_plan = 0
        self.outbox = SchedulerOutbox(counters)

    def engine(self, engine: Engine) -> None:
        """What the engine can hold."""
        self.outbox.engine(engine)
        self._capacity = scheduler_pb2.EngineCapacity(
            max_running_requests=engine.max_running_requests,
            kv_blocks=engine.kv_blocks,
            kv_block_tokens=engine.kv_block_tokens,
            step_token_budget=engine.step_token_budget,
        )

    def _call(self) -> _Call:
        stub: scheduler_pb2_grpc.SchedulerServiceAsyncStub = scheduler_pb2_grpc.SchedulerServiceStub(
            self._channel.current()
        )
        return stub.Coordinate(metadata=self._channel.metadata())

    async def _first(self, epoch: engine_pb2.Epoch) -> scheduler_pb2.CoordinateRequest:
        self._epoch = epoch
        self._reports.opened()
        self._newest_plan = 0
        self.outbox.start()
        return scheduler_pb2.CoordinateRequest(
            open=scheduler_pb2.OpenCoordinate(
                engine_id=self._settings.engine_id,
                epoch=epoch,
                capacity=self._capacity,
                requests=self._living.declarations(),
            )
        )

    def _opened(self, response: scheduler_pb2.CoordinateResponse) -> None:
        self._counters.scheduler_streams_opened += 1
        self._plans.opened()

    async def _send_waiting(self, call: _Call) -> None:
        while (delta := self.outbox.take()) is not None:
            delta.epoch.CopyFrom(self._epoch)
            delta.step = self._steps.next(self.outbox.engine_step)
            if delta.HasField("running") and (traceparent := self._hops.reporting()):
                delta.traceparent = traceparent
            self._reports.sent(delta.step, time.monotonic_ns())
            # A service that does not read is noticed here: flow control holds the write up.
            async with asyncio.timeout(self._settings.ack_timeout_ms / 1000):
                await call.write(scheduler_pb2.CoordinateRequest(delta=delta))

    def _received(self, response: scheduler_pb2.CoordinateResponse) -> None:
        plan = response.plan
        if plan.epoch != self._epoch or plan.number <= self._newest_plan:
            self._plans.reject()
            return
        self._newest_plan = plan.number
        self._plans.publish(plan, self._reports.age_ns(plan.step, time.monotonic_ns()))

    def _moved(self) -> None:
        """The plan stays: the next one follows before it is too old."""

    def _closed(self) -> None:
        self.outbox.stop()
        self._plans.withdraw()
