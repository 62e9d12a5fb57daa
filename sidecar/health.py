"""What a server is made of, and whether each part works."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

MOST_WATCHERS = 256
MOST_BYTES = 512
WRITE_S = 5.0
"""After which a watcher that does not read is given up."""

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
        self.change = asyncio.Event()
        """Set at the next change, and replaced."""
        self._log = structlog.get_logger("health")

    def set(self, component: str, serving: bool, reason: str = "") -> None:
        """Notes that `component` works or does not; says so in the log when that, or why not, is news."""
        before, now = self._components.get(component), Component(serving, reason)
        self._components[component] = now
        if before is None or before.serving != serving or not (serving or before == now):
            tell = self._log.info if serving else self._log.warning
            tell("health", component=component, serving=serving, reason=reason)
        self._tell()

    def drain(self) -> None:
        """From now on nothing is reported as serving."""
        self._draining = True
        self._tell()

    def _tell(self) -> None:
        self.change.set()
        self.change = asyncio.Event()

    @property
    def serving(self) -> bool:
        return not self._draining and all(part.serving for part in self._components.values())

    @property
    def components(self) -> dict[str, Component]:
        return dict(self._components)

    def told(self, service: str) -> bool | None:
        """Whether a component serves, or all of them (""); None for a name that is neither."""
        if not service:
            return self.serving
        part = self._components.get(service)
        return None if part is None else part.serving and not self._draining


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The standard health service, which strangers may call: it keeps nothing of what they send, and one that does not
    read its answers delays nobody. `services` are full gRPC names; they and "" have the overall status."""

    def __init__(self, health: Health, services: Sequence[str]) -> None:
        self._health, self._services = health, frozenset(services)
        self._watchers = 0

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for an unknown name."""
        await self._refuse_large(request, context)
        serving = self._of(request.service)
        if serving is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service or component")
        return health_pb2.HealthCheckResponse(status=_STATUS[bool(serving)])

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """The status now and whenever it changes. An unknown name stays unknown here, so that it ends at once."""
        await self._refuse_large(request, context)
        if self._watchers >= MOST_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MOST_WATCHERS} watch already")
        service = request.service
        if self._of(service) is None:
            await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))
            return
        self._watchers += 1
        try:
            await self._follow(service, context)
        finally:
            self._watchers -= 1

    async def _follow(self, service: str, context: Any) -> None:
        told: bool | None = None
        while True:
            change, serving = self._health.change, self._of(service)
            if serving is not None and serving != told:
                try:
                    async with asyncio.timeout(WRITE_S):
                        await context.write(health_pb2.HealthCheckResponse(status=_STATUS[serving]))
                except TimeoutError:
                    return
                told = serving
            await change.wait()

    def _of(self, service: str) -> bool | None:
        return self._health.told("" if service in self._services else service)

    async def _refuse_large(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        if request.ByteSize() > MOST_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"service: too long (limit {MOST_BYTES} bytes)")
