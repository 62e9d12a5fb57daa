"""An engine's and a predictor's side of the scheduler, for tests: real gRPC, real Valkey."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scheduler_service.main import scheduler
from scheduler_service.settings import SchedulerSettings
from sidecar.redis import keys
from tests.conftest import Valkey
from tests.patience import PATIENCE_S
from trail.v1 import engine_pb2, predictor_pb2, scheduler_pb2, scheduler_pb2_grpc, state_pb2

PROMPT_TOKENS = 10
INCARNATION = 0xFEEDFACE


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition gives something true, and return that."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if value := condition():
            return value
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {what}")


@contextlib.asynccontextmanager
async def running_scheduler_at(valkey: Valkey, **settings: Any) -> AsyncIterator[str]:
    """A scheduler in this process; gives its address."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    chosen = SchedulerSettings(**{"port": 0, "redis_url": valkey.url, "drain_timeout_s": 1.0} | settings)
    serving = asyncio.create_task(scheduler(chosen, port.set_result))
    try:
        yield f"127.0.0.1:{await asyncio.wait_for(port, PATIENCE_S)}"
    finally:
        serving.cancel()
        await asyncio.wait([serving])


@contextlib.asynccontextmanager
async def running_scheduler(valkey: Valkey, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A scheduler in this process, and a channel to it."""
    async with running_scheduler_at(valkey, **settings) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


def declared(handle: int, **more: Any) -> engine_pb2.RequestDeclaration:
    fields = {"request_id": f"r{handle}", "prompt_tokens": PROMPT_TOKENS, "arrival_time_s": float(handle)}
    return engine_pb2.RequestDeclaration(handle=handle, **fields | more)


class Engine:
    """One Coordinate stream; keeps every plan that came and the status that ended it."""

    def __init__(self, channel: grpc.aio.Channel, engine_id: str, counter: int = 1) -> None:
        self.epoch = engine_pb2.Epoch(incarnation=INCARNATION, counter=counter)
        self.plans: list[scheduler_pb2.EnginePlan] = []
        self.opened: scheduler_pb2.CoordinateOpened | None = None
        self.status: grpc.aio.AioRpcError | None = None
        self._engine_id = engine_id
        self._step = 0
        self._newest_at_s = time.monotonic()
        self._stream = scheduler_pb2_grpc.SchedulerServiceStub(channel).Coordinate()
        self._receiving = asyncio.create_task(self._receive())

    async def open(self, slots: int = 2, handles: tuple[int, ...] = ()) -> "Engine":
        await self.send(
            open=scheduler_pb2.OpenCoordinate(
                engine_id=self._engine_id,
                epoch=self.epoch,
                capacity=scheduler_pb2.EngineCapacity(max_running_requests=slots, step_token_budget=2048),
                requests=[declared(handle) for handle in handles],
            )
        )
        await until(lambda: self.opened or self.status, "the stream opened")
        return self

    async def send(self, **message: Any) -> None:
        await self._stream.write(scheduler_pb2.CoordinateRequest(**message))

    async def step(self, ages: dict[int, int], **fields: Any) -> int:
        """Send a delta with this running batch: handle to age."""
        self._step += 1
        running = scheduler_pb2.RunningRequests(
            handles=list(ages),
            ages=list(ages.values()),
            computed_tokens=[PROMPT_TOKENS + age - 1 for age in ages.values()],
        )
        fields = {"epoch": self.epoch, "step": self._step, "running": running} | fields
        await self.send(delta=scheduler_pb2.StateDelta(**fields))
        return self._step

    async def plan(
        self, wanted: Callable[[scheduler_pb2.EnginePlan], bool], what: str, *, after: int | None = None
    ) -> scheduler_pb2.EnginePlan:
        """The first plan from now on, or after the first ``after`` ones, that is as wanted."""
        seen = len(self.plans) if after is None else after
        return await until(lambda: next(filter(wanted, self.plans[seen:]), None), what)

    def plans_stopped_for(self, seconds: float) -> bool:
        """Whether no plan came for so long."""
        return time.monotonic() - self._newest_at_s > seconds

    async def code(self) -> grpc.StatusCode:
        """The status that ended the stream."""
        return (await until(lambda: self.status, "the stream ended")).code()

    async def close(self) -> None:
        self._stream.cancel()
        await asyncio.wait([self._receiving])

    async def _receive(self) -> None:
        try:
            async for message in self._stream:
                if message.HasField("plan"):
                    self._newest_at_s = time.monotonic()
                    self.plans.append(message.plan)
                else:
                    self.opened = message.opened
        except grpc.aio.AioRpcError as error:
            self.status = error
        except asyncio.CancelledError:
            pass


@contextlib.asynccontextmanager
async def engine(channel: grpc.aio.Channel, engine_id: str, **opening: Any) -> AsyncIterator[Engine]:
    """An engine with an open stream."""
    connected = Engine(channel, engine_id, opening.pop("counter", 1))
    try:
        yield await connected.open(**opening)
    finally:
        await connected.close()


class Predictor:
    """Stores and publishes predictions as the predictor service does."""

    def __init__(self, valkey: Valkey, engine_id: str, incarnation: int = INCARNATION) -> None:
        self._valkey = valkey
        self._keys = keys(engine_id)
        self._epoch = engine_pb2.Epoch(incarnation=incarnation, counter=1)
        self.number = 0

    def store(self, handle: int, age: int, mean: float, r0: float = 0.0, r1: float = 0.0) -> None:
        record = state_pb2.StoredPosterior(
            handle=handle, age_tokens=age, stage=predictor_pb2.STAGE_DECODE, mean=mean, median=mean, p10=mean / 2,
            p90=mean * 2, r0=r0 or mean, r1=r1 or mean + age,
        )  # fmt: skip
        with self._valkey.client() as client:
            client.hset(self._keys.posterior, f"r{handle}", record.SerializeToString())

    def publish(self, age: int, means: dict[int, float]) -> int:
        """Tell the remaining tokens of each handle at this age; returns how many heard it."""
        self.number += 1
        values = list(means.values())
        rows = predictor_pb2.StepPredictions(
            handles=list(means),
            ages=[age] * len(means),
            stages=[predictor_pb2.STAGE_DECODE] * len(means),
            mean=values, median=values, p10=values, p90=values,
            initial=[mean + age for mean in values],
        )  # fmt: skip
        message = state_pb2.PublishedPredictions(epoch=self._epoch, number=self.number, predictions=rows)
        with self._valkey.client() as client:
            return int(client.execute_command("SPUBLISH", self._keys.predictions, message.SerializeToString()))

    async def listened_to(self) -> None:
        """Wait until somebody subscribed to this engine's predictions."""

        def subscribers() -> int:
            with self._valkey.client() as client:
                return int(client.pubsub_shardnumsub(self._keys.predictions)[0][1])

        await until(subscribers, "a subscriber")


async def health(channel: grpc.aio.Channel, service: str = "") -> bool:
    """Whether the standard health service says SERVING."""
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def health_becomes(channel: grpc.aio.Channel, serving: bool, service: str = "") -> None:
    """Wait until the health service says so."""
    end = time.monotonic() + PATIENCE_S
    while await health(channel, service) != serving:
        assert time.monotonic() < end, f"health of {service!r} never became {serving}"
        await asyncio.sleep(0.02)
