"""What a server is made of, and whether each part works."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as grpc_health_aio

_STATUS = {
    True: health_pb2.HealthCheckResponse.SERVING,
    False: health_pb2.HealthCheckResponse.NOT_SERVING,
}


@dataclass(frozen=True)
class Component:
    serving: bool
    reason: str = ""


class Health:
    """A map of named components: the server serves only while all of them do, and never while draining.

    Name the components at once (`Health("model", "store")`): each starts as not serving.
    Call it from the event loop's thread only.
    """

    def __init__(self, *components: str) -> None:
        self._components = {name: Component(False, "starting") for name in components}
        self._draining = False
        self._changed = asyncio.Event()
        self._log = structlog.get_logger("health")

    def set(self, component: str, serving: bool, reason: str = "") -> None:
        """Notes that `component` works or does not; says so in the log when that, or why not, is news."""
        before, now = self._components.get(component), Component(serving, reason)
        self._components[component] = now
        if before is None or before.serving != serving or not (serving or before == now):
            tell = self._log.info if serving else self._log.warning
            tell("health", component=component, serving=serving, reason=reason)
        self._changed.set()

    def drain(self) -> None:
        """From now on nothing is reported as serving."""
        self._draining = True
        self._changed.set()

    @property
    def serving(self) -> bool:
        return not self._draining and all(part.serving for part in self._components.values())

    @property
    def components(self) -> dict[str, Component]:
        return dict(self._components)

    async def report(self, servicer: grpc_health_aio.HealthServicer, services: Sequence[str]) -> None:
        """Keeps the standard health service equal to this map until cancelled.

        `services` are full gRPC names; they and "" have the overall status, components their own.
        """
        while True:
            self._changed.clear()
            overall = self.serving
            for name in ("", *services):
                await servicer.set(name, _STATUS[overall])
            for name, part in self.components.items():
                await servicer.set(name, _STATUS[part.serving and not self._draining])
            await self._changed.wait()
