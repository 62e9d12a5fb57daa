"""What a server is made of, and whether each part works."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

MOST_WATCHERS = 256
MOST_BYTES = 512
MESSAGE_S = 5.0
"""After which a caller is given up whose question does not end."""
_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

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


class HealthServicer:
    """The standard health service, which strangers may call: it keeps nothing of what they send, and one that does not
    end his question, or read the answer, delays nobody. `services` are full gRPC names; they and "" have the overall
    status."""

    def __init__(self, health: Health, services: Sequence[str]) -> None:
        self._health, self._services = health, frozenset(services)
        self._watchers = 0

    def add_to(self, server: grpc.aio.Server) -> None:
        """Streams on this side, whatever the method is: how long a question may take is then ours to say."""
        methods = {"Check": self._check, "Watch": self._watch}
        handlers: dict[str, Any] = {
            name: grpc.stream_stream_rpc_method_handler(self._asked(method)) for name, method in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_NAME, handlers),))

    def _asked(self, method: Callable[[str, Any], Awaitable[None]]) -> Callable[[Any, Any], Awaitable[None]]:
        async def answer(_: Any, context: Any) -> None:
            await method(await self._question(context), context)

        return answer

    async def _question(self, context: Any) -> str:
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        try:
            async with asyncio.timeout(MESSAGE_S):
                message = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no request within {MESSAGE_S:.0f} s")
        if message is grpc.aio.EOF:
            await context.abort(invalid, "the request is missing")
        if len(message) > MOST_BYTES:
            await context.abort(invalid, f"service: too long (limit {MOST_BYTES} bytes)")
        try:
            return str(health_pb2.HealthCheckRequest.FromString(message).service)
        except DecodeError:
            await context.abort(invalid, "the request is no HealthCheckRequest")
            raise

    async def _check(self, service: str, context: Any) -> None:
        """The status now; NOT_FOUND for an unknown name."""
        serving = self._of(service)
        if serving is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service or component")
        await _tell(context, _STATUS[bool(serving)])

    async def _watch(self, service: str, context: Any) -> None:
        """The status now and whenever it changes. An unknown name stays unknown here, so that it ends at once."""
        if self._watchers >= MOST_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MOST_WATCHERS} watch already")
        if self._of(service) is None:
            await _tell(context, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
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
                # gRPC cannot end a call while an answer waits to be read: who does not read keeps his place, so that
                # there are no more of them than places.
                await _tell(context, _STATUS[serving])
                told = serving
            await change.wait()

    def _of(self, service: str) -> bool | None:
        return self._health.told("" if service in self._services else service)


async def _tell(context: Any, status: Any) -> None:
    await context.write(health_pb2.HealthCheckResponse(status=status).SerializeToString())
