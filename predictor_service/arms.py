"""Artefacts that an experiment has engines use for a while, as the scheduler service tells in the store."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable

import structlog
from redis.asyncio import Redis

from predictor_service.artefact import Artefact
from predictor_service.catalogue import Catalogue, same_layout
from sidecar.redis import ARTEFACTS, STORE_ERRORS, keys

LOOK_S = 1.0


class Arms:
    """An engine that no experiment names an artefact for keeps its own; so does one that cannot use it, and the log
    says why. A store that is gone ends the use of another artefact within a second."""

    def __init__(self, client: Redis, catalogue: Catalogue, engines: Callable[[], Iterable[str]]) -> None:
        self._client = client
        self._catalogue = catalogue
        self._engines = engines
        self._named: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        self._log = structlog.get_logger("experiments")

    def artefact_for(self, engine_id: str, own: Artefact, projection: str) -> Artefact:
        """The one that an experiment names, else the engine's own."""
        name = self._named.get(engine_id)
        if not name or name == own.name:
            return own
        if name not in self._catalogue.names:
            return self._kept(engine_id, own, name, "it is not loaded here")
        named = self._catalogue.get(name)
        if not same_layout(named, own):
            return self._kept(engine_id, own, name, f"it reads other layers than {own.name!r}")
        if not named.reads(projection):
            return self._kept(
                engine_id, own, name, "another artefact projected what the engine sends (`--rows hidden`)"
            )
        return named

    async def run(self) -> None:
        """Looks once a second, until cancelled."""
        while True:
            try:
                await self.look()
            except STORE_ERRORS:
                self._named = {}
            except Exception as error:
                # Engines' own artefacts serve; a record that cannot be read must not end the looking.
                self._named = {}
                self._log.error("experiments' artefacts not read", reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Says which artefacts there are, and asks which are wanted. Raises RedisError, OSError and TimeoutError."""
        engines = list(self._engines())
        async with self._client.pipeline(transaction=False) as pipeline:
            for name, layout in self._loaded().items():
                pipeline.hset(ARTEFACTS, name, layout)
            for engine_id in engines:
                pipeline.get(keys(engine_id).artefact)
            answers = await pipeline.execute()
        found = answers[len(answers) - len(engines) :]
        self._named = {engine_id: name.decode() for engine_id, name in zip(engines, found, strict=True) if name}

    def _loaded(self) -> dict[str, str]:
        """By name: the layers and their width, and when this was so."""
        loaded = {}
        for name in self._catalogue.names:
            manifest = self._catalogue.get(name).manifest
            layout = {"layers": list(manifest.layers), "hidden_size": manifest.hidden_size}
            loaded[name] = json.dumps(layout | {"seen_s": round(time.time())})
        return loaded

    def _kept(self, engine_id: str, own: Artefact, name: str, why: str) -> Artefact:
        if (engine_id, name) not in self._told:
            self._told.add((engine_id, name))
            text = "an experiment's artefact is not used; the engine keeps its own"
            self._log.warning(text, engine=engine_id, artefact=name, own=own.name, reason=why)
        return own
