"""Everything that one check needs: an engine, both services, and ways to wait for what should happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.cli.conformance.adapter.engine import Decision, ScriptedEngine
from sidecar.cli.conformance.adapter.rules import Life, living
from sidecar.cli.conformance.adapter.services import Predictor, Scheduler, Service
from sidecar.cli.conformance.verdict import Broken

START_TIMEOUT_S = 60.0
"""For an adapter to start and say its first word; everything after that has the timeout of the command line."""
_LOOK_S = 0.005


class Stage:
    """One run of the adapter's command between services of its own."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command, self._timeout_s = command, timeout_s
        self.predictor, self.scheduler = Predictor(), Scheduler()  # type: ignore[abstract]
        self.engine = ScriptedEngine((), {}, timeout_s)
        self.lives: list[Life] = []

    async def raise_curtain(self) -> None:
        """Starts the services, which are there before the adapter is."""
        await self.predictor.start()
        await self.scheduler.start()

    async def start_adapter(self) -> None:
        """Starts the adapter with a new engine, in place of one that died."""
        environment = {"TRAIL_PREDICTOR": self.predictor.target, "TRAIL_SCHEDULER": self.scheduler.target}
        self.engine = ScriptedEngine(self._command, environment, self._timeout_s)
        await self.engine.start()

    async def end_adapter(self) -> None:
        """Kills it, and keeps what it said."""
        await self.engine.kill()
        self.lives.append(Life(self.engine, self.predictor.streams, self.scheduler.streams))
        self.predictor.streams, self.scheduler.streams = [], []

    async def close(self) -> None:
        await self.end_adapter()
        await self.predictor.stop()
        await self.scheduler.stop()

    async def until(
        self,
        condition: Callable[[], object],
        expected: str,
        seen: Callable[[], object],
        timeout_s: float | None = None,
    ) -> None:
        """Waits until the condition holds. Raises Broken where it never does."""
        timeout_s = timeout_s or self._timeout_s
        end_s = time.monotonic() + timeout_s
        while not condition():
            await self.engine.check_alive()
            if time.monotonic() > end_s:
                raise Broken(expected, f"after {timeout_s:g} s {seen()}")
            await asyncio.sleep(_LOOK_S)

    async def decides(
        self, wanted: Callable[[Decision], bool], expected: str, *, never: tuple[str, ...] | None = None
    ) -> Decision:
        """Asks for decisions until one is as wanted. Raises Broken where none is, or one has the order `never`."""
        end_s = time.monotonic() + self._timeout_s
        while not wanted(decision := await self.engine.schedule()):
            if never and decision.order == never:
                raise Broken(expected, str(decision))
            if time.monotonic() > end_s:
                raise Broken(expected, f"after {self._timeout_s:g} s still {decision}")
            await asyncio.sleep(_LOOK_S)
        return decision

    async def plan(self, *order: str, **fields: Any) -> None:
        """Sends a plan; waits for a stream first, where none is open."""
        await self.until(
            lambda: self.scheduler.now and self.scheduler.now.messages, "a scheduler stream is open", lambda: "none is"
        )
        await self.scheduler.plan(**({"handles": [self.handle(name) for name in order]} | fields))

    async def follows(self, *order: str) -> Decision:
        """Waits until the adapter would have the engine serve in this order."""
        return await self.decides(lambda decision: decision.order == order, f"the plan's order {list(order)}")

    async def own_order(self, expected: str, *, never: tuple[str, ...] | None = None) -> None:
        """Waits until the adapter leaves the order to the engine."""
        await self.decides(lambda decision: not decision.order, expected, never=never)

    async def ready(self, *names: str) -> None:
        """Starts the adapter, lets requests arrive and waits until both services know them."""
        await self.start_adapter()
        await self.engine.arrive(*names)
        for kind, service in self.services:
            await self.until(
                lambda service=service: any(stream.messages for stream in service.streams),  # type: ignore[misc]
                f"a stream to the {kind}",
                lambda: "none was opened",
                max(START_TIMEOUT_S, self._timeout_s),
            )
        await self.known()

    async def known(self) -> None:
        """Waits until both services know who is alive, and nobody else."""
        for kind, service in self.services:
            await self.until(
                lambda service=service: _names(service) == set(self.engine.requests),  # type: ignore[misc]
                f"the {kind} knows {sorted(self.engine.requests)}",
                lambda service=service: _sight(service),  # type: ignore[misc]
            )

    @property
    def services(self) -> tuple[tuple[str, Service], ...]:
        """Both, by name."""
        return (("predictor", self.predictor), ("scheduler", self.scheduler))

    def handle(self, name: str) -> int:
        """As the scheduler stream that lives knows the request; 0 where it does not."""
        return 0 if self.scheduler.now is None else living(self.scheduler.now).get(name, 0)

    def row_ages(self) -> dict[str, int]:
        """Request id -> age of the newest row on the predictor stream that lives."""
        stream, ages = self.predictor.now, dict[str, int]()
        if stream is None:
            return ages
        names = {handle: name for name, handle in living(stream).items()}
        for message in stream.messages:
            told = message.step.decodes
            ages |= {names.get(handle, ""): 0 for handle in message.step.prompts.handles}
            ages |= {names.get(handle, ""): age for handle, age in zip(told.handles, told.ages, strict=False)}
        return ages

    async def rows_arrive(self) -> None:
        """Waits until the predictor has the newest row of every request that ever ran."""
        wanted = {name: request.age for name, request in self.engine.requests.items() if request.steps}
        await self.until(
            lambda: wanted.items() <= self.row_ages().items(),
            f"rows of the newest ages {wanted} at the predictor",
            lambda: f"rows of ages {self.row_ages()} on stream {len(self.predictor.streams)}",
        )


def _names(service: Service) -> set[str] | None:
    """Who is alive by the service's present stream; None between two."""
    return None if service.now is None or not service.now.messages else set(living(service.now))


def _sight(service: Service) -> str:
    if service.now is None:
        return f"no stream is open, {len(service.streams)} were"
    return f"it knows {sorted(_names(service) or ())}"
