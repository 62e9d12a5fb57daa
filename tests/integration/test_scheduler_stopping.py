"""A subscription ends when it should, whenever that is."""

import asyncio
import random

from scheduler_service.messages import PublishedMessage, Snapshot
from scheduler_service.subscriber import PredictionSubscriber
from sidecar.redis import connect
from sidecar.stopping import stop
from tests.conftest import Valkey
from tests.patience import PATIENCE_S


class Nobody:
    """Hears everything and does nothing."""

    def on_predictions(self, message: PublishedMessage) -> None: ...

    def on_snapshot(self, snapshot: Snapshot) -> None: ...

    def on_store(self, connected: bool, reason: str) -> None: ...


async def test_a_subscriber_stops_at_whatever_point_it_is_told_to(valkey: Valkey):
    moment = random.Random(0)
    async with connect(valkey.url, timeout_ms=250) as redis:
        for _ in range(60):
            following = asyncio.create_task(PredictionSubscriber(redis, "e", 1, Nobody()).run())
            for _ in range(moment.randrange(60)):
                await asyncio.sleep(0)
            await asyncio.wait_for(stop([following]), PATIENCE_S)
            assert following.cancelled()
