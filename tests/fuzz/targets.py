"""What is fuzzed: each reads bytes as somebody outside could send them, and may raise what it says and nothing else."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine_adapter import records
from engine_adapter.board import BoardReader, BoardWriter
from engine_adapter.ring import HEAD_BYTE, HEADER_BYTES, RingConsumer, RingError, RingProducer
from predictor_service import artefact
from predictor_service import wire as predictor_wire
from predictor_service import wire_store as predictor_wire_store
from predictor_service.manifest import Manifest
from predictor_service.session import EngineSession
from scheduler_service import wire as scheduler_wire
from scheduler_service import wire_policy, wire_store
from scheduler_service.choice import PolicyChoice
from scheduler_service.experiments import design
from scheduler_service.experiments import wire as experiment_wire
from scheduler_service.incremental import IncrementalPlanner
from scheduler_service.one_shot import view_of
from scheduler_service.planner import make_plan
from scheduler_service.settings import SchedulerSettings
from scheduler_service.state import EngineState
from sidecar import access, redis_url
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.traces import read_trace
from sidecar.errors import InvalidField, Refused
from tests import artefacts
from tests.fuzz.chooser import Chooser
from trail.v1 import experiment_pb2, predictor_pb2, scheduler_pb2, state_pb2

RING_BYTES = 1024
TAIL_BYTE = HEAD_BYTE + 64
MOST_ROWS = 64
STEPS = 4
ACCESS = b"""[[clients]]
name = "a"
tokens_sha256 = ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
engines = ["a-*", "shared-1"]
admin = false

[[clients]]
name = "b"
certificates = ["agent.b.example"]
engines = ["b-[12]"]
admin = true
"""
URLS = (
    b"redis://user:password@localhost:6379/0?protocol=3",
    b"unix://user@/run/valkey.sock?db=1",
    b"rediss+sentinel://:password@one:26379,[::1]:26380/master/2",
    b"redis+cluster://user:p%40ss@one:7000,two:7001",
)
_ONE, _TWO = np.array([1, 2], np.uint64), np.array([5, 6], np.uint32)
RECORDS = (
    records.Engine(8, 100, 16, 2048).pack(),
    records.Arrived(1, "r1", 1.0, 0, 16, 0, 0, "tenant", _TWO).pack(),
    records.Step(3, 10, 1, 0.01, 50, 2, _ONE, _TWO, _TWO, _ONE, 1, False, _ONE).pack(),
    records.Finished(1, 1, 16, 0.5, 0.1, 0, 0).pack(),
    b"".join(records.Rows(3, 3, 4, _ONE, _TWO, np.ones((2, 4), np.float32)).pack()),
)
"""One of each kind."""


@dataclass(frozen=True)
class Target:
    """`feed` takes any bytes; `expected` are the errors that a caller is told of."""

    feed: Callable[[bytes], object]
    expected: tuple[type[Exception], ...] = ()

    def __call__(self, data: bytes) -> None:
        with contextlib.suppress(*self.expected):
            self.feed(data)


class Targets:
    """All of them by name. Use as a context manager: files lie in a folder of its own meanwhile."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="trail-fuzz-")
        self._folder = Path(self._temporary.name)
        self._artefact = artefact.load(artefacts.make(self._folder / "model"))
        self._settings = SchedulerSettings()
        refused = (InvalidField, Refused)
        self.by_name = {
            "predictor_stream": Target(self._predictor_stream),
            "scheduler_stream": Target(self._scheduler_stream),
            "scheduler_plan": Target(self._plan, refused),
            "policy": Target(_policy, refused),
            "experiment": Target(_experiment, refused),
            "ring": Target(self._ring, (RingError,)),
            "ring_records": Target(_ring_records, (ValueError,)),
            "board": Target(self._board),
            "predictions_channel": Target(_predictions, (wire_store.Unreadable,)),
            "stored_records": Target(self._stored),
            "manifest": Target(self._manifest, (ValueError,)),
            "redis_url": Target(_redis_url, (ValueError,)),
            "trace": Target(self._trace, (SimulateError,)),
            "access_file": Target(self._access, (access.AccessError,)),
        }

    def __enter__(self) -> dict[str, Target]:
        return self.by_name

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def _predictor_stream(self, data: bytes) -> None:
        chooser, model = Chooser(data), self._artefact
        session = EngineSession(model, max_requests=8)
        opened = chooser.fill(predictor_pb2.OpenPredict())
        with contextlib.suppress(InvalidField, Refused):
            predictor_wire.engine_id(opened.engine_id)
            predictor_wire.epoch_text(opened.epoch)
            predictor_wire.check_layout(opened, model)
        with contextlib.suppress(InvalidField, Refused):
            session.open(predictor_wire.declarations(opened.requests, field="open.requests"), {})
        dim = model.manifest.dim
        for _ in range(STEPS):
            message = chooser.fill(predictor_pb2.PredictStep())
            for rows in (message.prompts, message.decodes):
                # Else hardly any step would get past the check of its layout.
                if chooser.number(4):
                    count = len(rows.handles)
                    rows.last.rows, rows.last.dim, rows.last.dtype = count, dim, 1
                    rows.last.data = chooser.take(2 * dim * count).ljust(2 * dim * count, b"\x3c")
            if chooser.number(4):
                del message.decodes.ages[len(message.decodes.handles) :]
                message.decodes.ages.extend([1] * (len(message.decodes.handles) - len(message.decodes.ages)))
            with contextlib.suppress(InvalidField, Refused):
                applied = session.apply(predictor_wire.step(message, dim=dim, max_rows=MOST_ROWS))
                predictor_wire.predictions(applied.predictions, opened.epoch).SerializeToString()
                if applied.records:
                    predictor_wire_store.pack(applied.records)

    def _scheduler_stream(self, data: bytes) -> None:
        chooser = Chooser(data)
        with contextlib.suppress(InvalidField, Refused):
            opened = scheduler_wire.opening(chooser.fill(scheduler_pb2.OpenCoordinate()))
            state = EngineState(opened.capacity)
            state.declare(opened.requests)
            planner = IncrementalPlanner(state.requests, self._settings.limits)
            for _ in range(STEPS):
                with contextlib.suppress(InvalidField, Refused):
                    state.apply(scheduler_wire.delta(chooser.fill(scheduler_pb2.StateDelta()), MOST_ROWS))
                with contextlib.suppress(wire_store.Unreadable):
                    told = chooser.fill(state_pb2.PublishedPredictions())
                    state.apply_predictions(wire_store.published(told.SerializeToString()))
                # A stream has no plan before its engine's first report.
                if state.step >= 0 and len(state.requests):
                    plan = planner.plan(state.view(1000.0, 60.0), PolicyChoice())
                    wire_policy.plan(plan, 1, 1000).SerializeToString()

    def _plan(self, data: bytes) -> None:
        chooser = Chooser(data)
        request = chooser.fill(scheduler_pb2.PlanRequest())
        choice = wire_policy.changed(PolicyChoice(), request.policy)
        plan = make_plan(view_of(request, self._settings), choice, self._settings.limits)
        wire_policy.plan(plan, 1, 1000).SerializeToString()

    def _ring(self, data: bytes) -> None:
        path = self._folder / "ring"
        path.unlink(missing_ok=True)
        producer = RingProducer(path, RING_BYTES)
        consumer = RingConsumer(path, RING_BYTES)
        chooser = Chooser(data)
        try:
            # Head and tail, as a process that went astray would write them; then what lies between.
            for at in (HEAD_BYTE, TAIL_BYTE):
                producer.memory[at : at + 8] = chooser.take(8).ljust(8, b"\0")
            content = chooser.rest()[:RING_BYTES]
            producer.memory[HEADER_BYTES : HEADER_BYTES + len(content)] = content
            for _ in range(2 * RING_BYTES):
                if consumer.read() is None:
                    break
            else:
                raise AssertionError("a ring of 1,024 bytes has no end")
        finally:
            consumer.close()
            producer.close()

    def _board(self, data: bytes) -> None:
        path = self._folder / "board"
        path.unlink(missing_ok=True)
        writer = BoardWriter(path)
        writer.close()
        with path.open("r+b") as file:
            file.seek(8)
            file.write(data)
        reader = BoardReader(path)
        reader.head()
        reader.newest()
        reader.close()

    def _stored(self, data: bytes) -> None:
        chooser = Chooser(data)
        stored = chooser.fill(state_pb2.StoredPosterior())
        if chooser.number(4):
            stored.model, stored.posterior[:] = self._artefact.bins_name, [0.25] * len(self._artefact.bins)
        damaged = chooser.damage(stored.SerializeToString())
        predictor_wire_store.unpack("r1", damaged, self._artefact)
        wire_store.snapshot({b"r1": damaged})

    def _manifest(self, data: bytes) -> None:
        chooser = Chooser(data)
        path = self._folder / "model" / "manifest.json"
        text = json.dumps(chooser.change(json.loads(path.read_bytes()))).encode()
        Manifest.model_validate_json(chooser.damage(text))

    def _trace(self, data: bytes) -> None:
        path = self._folder / "trace.csv"
        path.write_bytes(data if data[:1] == b"{" else b"arrival_s,prompt_tokens,output_tokens\n" + data)
        read_trace(path)

    def _access(self, data: bytes) -> None:
        path = self._folder / "access.toml"
        path.write_bytes(Chooser(data).damage(ACCESS))
        access.read(path)


def _policy(data: bytes) -> None:
    wire_policy.changed(PolicyChoice(), Chooser(data).fill(scheduler_pb2.PolicySettings()))


def _experiment(data: bytes) -> None:
    given = experiment_wire.given(Chooser(data).fill(experiment_pb2.ExperimentDesign()), ["e-1", "e-2"])
    json.dumps(design.design_of(given).model_dump())


def _predictions(data: bytes) -> None:
    chooser = Chooser(data)
    wire_store.published(chooser.damage(chooser.fill(state_pb2.PublishedPredictions()).SerializeToString()))


def _ring_records(data: bytes) -> None:
    chooser = Chooser(data)
    records.unpack(chooser.damage(chooser.one_of(RECORDS)))


def _redis_url(data: bytes) -> None:
    chooser = Chooser(data)
    url = chooser.damage(chooser.one_of(URLS)).decode(errors="replace")
    redis_url.without_password(url)
    redis_url.parse(url)
