"""Experiments in the store. What is set is set once; a replica that restarts finds everything as it was.

trail:experiments             hash    NAME:design, NAME:start, NAME:halted, NAME:stopped (JSON); engine:ID -> NAME
trail:engines                 zset    ENGINE by when a scheduler last served it
trail:{ENGINE}:artefact       string  predictor artefact of the arm that the engine serves; goes by itself
trail:{ENGINE}:shadow         stream  plans of shadow arms beside those that were sent (`Comparison`)
trail:{ENGINE}:experiment:NAME  hash  BLOCK:REPLICA -> what that replica has counted of the block (`Tally`), and
                                      void:BLOCK -> why the block does not count
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from redis.asyncio import Redis

from scheduler_service.experiments.design import Design, design_of
from scheduler_service.experiments.record import Ending, Record
from scheduler_service.experiments.shadow import Comparison, comparison_of
from scheduler_service.experiments.tally import Tally
from sidecar.errors import InvalidField
from sidecar.redis import ARTEFACTS, clock_s, keys

KEY = "trail:experiments"
ENGINES = "trail:engines"
KEEP_S = 180 * 86400
CONNECTED_S = 10.0
ARTEFACT_MS = 10_000
LOADED_S = 300.0
SHADOWS = 20_000


@dataclass(frozen=True, slots=True)
class Look:
    """All experiments by name, engines that one holds, and the store's time, between two monotonic times."""

    records: Mapping[str, Record]
    claims: Mapping[str, str]
    store_s: float
    asked_at_s: float
    answered_at_s: float


class ExperimentStore:
    """Raises RedisError, OSError and TimeoutError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._log = structlog.get_logger("experiments")
        self._unreadable: set[str] = set()
        self._read: dict[str, tuple[tuple[bytes | None, ...], Record | None]] = {}

    async def look(self) -> Look:
        """Everything but what was counted."""
        asked_at_s = time.monotonic()
        # All replicas ask the server that holds the key.
        store_s = await clock_s(self._redis, KEY)
        answered_at_s = time.monotonic()
        found: dict[Any, Any] = await self._redis.hgetall(KEY)
        fields = {}
        claims = {}
        for key, value in found.items():
            try:
                fields[key.decode()] = value
                if key.startswith(b"engine:"):
                    claims[key[7:].decode()] = value.decode()
            except ValueError as error:
                self._tell(f"{KEY} {key!r}", str(error))
        records = {}
        for field in fields:
            name, _, kind = field.rpartition(":")
            record = self._record(name, fields) if kind == "design" else None
            if record is not None:
                records[name] = record
        return Look(records, claims, store_s, asked_at_s, answered_at_s)

    async def create(self, design: Design, now_s: float) -> bool:
        """False where there is one of that name."""
        value = json.dumps({"design": design.model_dump(mode="json"), "created_s": now_s})
        return await self._set_once(design.name, "design", value)

    async def start(self, name: str, start_s: float) -> bool:
        """False where it was started before."""
        return await self._set_once(name, "start", json.dumps(start_s))

    async def halt(self, name: str, ending: Ending) -> bool:
        """False where it was sent back before."""
        return await self._set_once(name, "halted", json.dumps(asdict(ending)))

    async def stop(self, name: str, ending: Ending) -> bool:
        """False where it was stopped before."""
        return await self._set_once(name, "stopped", json.dumps(asdict(ending)))

    async def claim(self, engine_id: str, name: str) -> str:
        """Takes an engine for an experiment; whose it is now."""
        await self._redis.hsetnx(KEY, f"engine:{engine_id}", name)
        holder = await self._redis.hget(KEY, f"engine:{engine_id}")
        return holder.decode() if isinstance(holder, bytes) else name

    async def release(self, engines: Mapping[str, str]) -> None:
        """Gives engines (id -> experiment) back, where they are still that experiment's."""
        held = (await self.look()).claims
        ours = [f"engine:{engine}" for engine, name in engines.items() if held.get(engine) == name]
        if ours:
            await self._redis.hdel(KEY, *ours)

    async def count(self, engine_id: str, name: str, fields: Mapping[Any, Any]) -> None:
        """Writes what was counted of blocks, whole: what is written twice counts once."""
        key = _tallies(engine_id, name)
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, KEEP_S)
            await pipeline.execute()

    async def void(self, engine_id: str, name: str, blocks: Iterable[int], reason: str) -> None:
        """Has blocks not count."""
        for block in blocks:
            await self._redis.hsetnx(_tallies(engine_id, name), f"void:{block}", reason)

    async def seen(self, engines: Sequence[str], now_s: float) -> None:
        """Notes that these engines are connected."""
        if engines:
            await self._redis.zadd(ENGINES, dict.fromkeys(engines, now_s))
            await self._redis.zremrangebyscore(ENGINES, "-inf", now_s - KEEP_S)

    async def connected(self, now_s: float) -> list[str]:
        """Engines that some replica serves now."""
        found: Any = await self._redis.zrangebyscore(ENGINES, now_s - CONNECTED_S, "+inf")
        return sorted(name for name in (self._name(ENGINES, engine) for engine in found) if name is not None)

    async def give_artefact(self, engine_id: str, artefact: str) -> None:
        """Names the predictor artefact that an engine is to have; empty: its own. It holds for some seconds."""
        key = keys(engine_id).artefact
        if artefact:
            await self._redis.set(key, artefact, px=ARTEFACT_MS)
        else:
            await self._redis.delete(key)

    async def artefacts(self, now_s: float) -> dict[str, tuple[Any, ...]]:
        """Layouts of the artefacts that predictors have loaded lately, by name."""
        stored: dict[Any, Any] = await self._redis.hgetall(ARTEFACTS)
        found = {}
        for name, value in stored.items():
            try:
                layout = json.loads(value)
                if now_s - layout["seen_s"] < LOADED_S:
                    found[name.decode()] = (*layout["layers"], layout["hidden_size"])
            except (ValueError, TypeError, KeyError) as error:
                self._tell(f"{ARTEFACTS} {name!r}", repr(error))
        return found

    async def write_shadows(self, compared: Sequence[tuple[str, Comparison]]) -> None:
        """Appends to the streams of the engines."""
        if not compared:
            return
        async with self._redis.pipeline(transaction=False) as pipeline:
            for engine_id, each in compared:
                fields: dict[Any, Any] = each.fields()
                pipeline.xadd(keys(engine_id).shadow, fields, maxlen=SHADOWS, approximate=True)
            await pipeline.execute()

    async def shadows(self, engine_id: str, name: str) -> list[Comparison]:
        """Of one experiment, as far back as the stream goes."""
        entries: Any = await self._redis.xrange(keys(engine_id).shadow)
        found = (comparison_of(fields) for _, fields in entries)
        return [each for each in found if each is not None and each.experiment == name]

    async def tallies(self, engine_id: str, name: str) -> tuple[dict[int, Tally], dict[int, str]]:
        """What all replicas counted of each block, and the blocks that do not count, with the reason."""
        stored: dict[Any, Any] = await self._redis.hgetall(_tallies(engine_id, name))
        # Away from the loop that plans: a long experiment has thousands.
        return await asyncio.to_thread(self._parsed, name, stored)

    def _parsed(self, name: str, stored: Mapping[bytes, bytes]) -> tuple[dict[int, Tally], dict[int, str]]:
        found: dict[int, Tally] = defaultdict(Tally)
        void: dict[int, str] = {}
        for field, value in stored.items():
            try:
                first, _, rest = field.decode().partition(":")
                if first == "void":
                    void[int(rest)] = value.decode()
                else:
                    found[int(first)].merge(Tally.unpacked(value))
            except ValueError as error:
                self._tell(f"{name}:{field!r}", f"not counted: {error}")
        return dict(found), void

    async def _set_once(self, name: str, kind: str, value: str) -> bool:
        return bool(await self._redis.hsetnx(KEY, f"{name}:{kind}", value))

    def _record(self, name: str, fields: Mapping[str, bytes]) -> Record | None:
        """None for what no release like this one wrote: its engines keep their own policies."""
        values = tuple(fields.get(f"{name}:{kind}") for kind in ("design", "start", "halted", "stopped"))
        known = self._read.get(name)
        if known is None or known[0] != values:
            known = self._read[name] = (values, self._parsed_record(name, *values))
        return known[1]

    def _parsed_record(
        self, name: str, design: bytes | None, start: bytes | None, halted: bytes | None, stopped: bytes | None
    ) -> Record | None:
        try:
            created = json.loads(design or b"")
            return Record(
                design_of(created["design"]),
                float(created["created_s"]),
                None if start is None else float(json.loads(start)),
                None if halted is None else Ending(**json.loads(halted)),
                None if stopped is None else Ending(**json.loads(stopped)),
            )
        except (InvalidField, ValueError, TypeError, KeyError) as error:
            self._tell(name, str(error))
            return None

    def _name(self, key: str, name: bytes) -> str | None:
        try:
            return name.decode()
        except ValueError as error:
            self._tell(f"{key} {name!r}", str(error))
            return None

    def _tell(self, what: str, why: str) -> None:
        if what not in self._unreadable:
            self._unreadable.add(what)
            self._log.warning("unreadable in the store, left alone", experiment=what, reason=why)


def _tallies(engine_id: str, name: str) -> str:
    return f"{keys(engine_id).experiment}:{name}"
