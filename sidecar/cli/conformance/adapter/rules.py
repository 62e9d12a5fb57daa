"""What holds of every stream that an adapter opens, whatever the script: checked over all that it said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar import vectors
from sidecar.cli.conformance.adapter.engine import DIM, KV_BLOCKS, PROMPT, Request, ScriptedEngine
from sidecar.cli.conformance.adapter.services import Stream
from sidecar.errors import InvalidField
from trail.v1 import engine_pb2, predictor_pb2, scheduler_pb2

RULES = {
    "open-first": "the first message of a stream is `open`, and no other is",
    "epoch-new": "each stream has an epoch of its own: one incarnation for both services, not 0, and a rising counter",
    "epoch-kept": "every message carries the epoch that its stream was opened with",
    "steps-rise": "the step number of each message of a stream is above that of the one before",
    "handles": "a handle is not 0, and names one living request, the same one to both services",
    "declared-once": "a living request is declared once on a stream",
    "declared-before-use": "rows, batches, preemptions and ends name requests that this stream knows and that live",
    "end-then-reuse": "an id that is used again is declared in a later message than the end of the request before it",
    "ages-rise": "the rows of a request have rising ages on one stream",
    "vectors": "rows carry the engine's values: as many rows as handles, as wide as `open` said",
    "declarations": "a declaration carries what the engine said of the request",
    "batches": "`running` is the whole batch of one step, with its ages, computed tokens and duration",
    "engine-steps": "steps between two batches are counted: `engine_steps`, or the difference of step numbers",
    "outcomes": "an end carries what the engine said of it",
}  # fmt: skip
"""Name of a rule -> what it promises."""

Finding = tuple[str, str]
"""A rule, and how it was broken."""


@dataclass(frozen=True)
class Life:
    """One life of the adapter's process: the engine that it saw, and the streams that it opened, oldest first."""

    engine: ScriptedEngine
    predictor: Sequence[Stream]
    scheduler: Sequence[Stream]


def findings(life: Life) -> Iterator[Finding]:
    """Every breach, oldest first of each stream."""
    yield from _epochs(life)
    names: dict[int, str] = {}
    for service, streams in (("predictor", life.predictor), ("scheduler", life.scheduler)):
        for number, stream in enumerate(streams, 1):
            walk = _Walk(f"{service} stream {number}", life.engine)
            for message in stream.messages:
                yield from walk.take(message)
            for handle, request_id in walk.names.items():
                if names.setdefault(handle, request_id) != request_id:
                    yield "handles", f"handle {handle} is {names[handle]!r} to one service, {request_id!r} to the other"


def living(stream: Stream) -> dict[str, int]:
    """Request id -> handle of those whom the other end of the stream takes for alive."""
    found: dict[int, str] = {}
    for message in stream.messages:
        told = _told(message)
        found |= {declared.handle: declared.request_id for declared in told.declared}
        for handle in told.finished:
            found.pop(handle, None)
    return {name: handle for handle, name in found.items()}


def _epochs(life: Life) -> Iterator[Finding]:
    incarnations = set()
    for service, streams in (("predictor", life.predictor), ("scheduler", life.scheduler)):
        newest = -1
        for number, stream in enumerate(streams, 1):
            if not stream.messages or not stream.messages[0].HasField("open"):
                continue
            epoch = stream.messages[0].open.epoch
            incarnations.add(epoch.incarnation)
            if epoch.incarnation == 0:
                yield "epoch-new", f"{service} stream {number}: incarnation 0"
            if epoch.counter <= newest:
                yield "epoch-new", f"{service} stream {number}: counter {epoch.counter} after {newest}"
            newest = max(newest, epoch.counter)
    if len(incarnations) > 1:
        yield "epoch-new", f"{len(incarnations)} incarnations in one life of the adapter"


@dataclass
class _Told:
    """One message of either kind, as far as the two are alike."""

    is_open: bool
    epoch: engine_pb2.Epoch
    step: int
    declared: Sequence[engine_pb2.RequestDeclaration]
    finished: list[int] = field(default_factory=list)
    used: list[tuple[str, int]] = field(default_factory=list)
    """(where, handle)."""


def _told(message: Any) -> _Told:
    kind = message.WhichOneof("message")
    if kind == "open":
        return _Told(True, message.open.epoch, 0, message.open.requests)
    if kind == "step":
        step = message.step
        used = [("rows", handle) for handle in (*step.prompts.handles, *step.decodes.handles)]
        used += [("finished", handle) for handle in step.finished]
        return _Told(False, step.epoch, step.step, step.declared, list(step.finished), used)
    delta = message.delta
    finished = [outcome.handle for outcome in delta.finished]
    used = [("running", handle) for handle in delta.running.handles]
    used += [("preempted", handle) for handle in delta.preempted] + [("finished", handle) for handle in finished]
    return _Told(False, delta.epoch, delta.step, delta.arrived, finished, used)


class _Walk:
    """Goes along one stream, as the service at its other end would."""

    def __init__(self, where: str, engine: ScriptedEngine) -> None:
        self._where, self._engine = where, engine
        self._messages = 0
        self._epoch = engine_pb2.Epoch()
        self._step = 0
        self._dim = DIM
        self._living: dict[int, str] = {}
        self._row_ages: dict[int, int] = {}
        self._batch = 0
        self.names: dict[int, str] = {}
        """Every handle that was declared, and for whom."""

    def take(self, message: Any) -> Iterator[Finding]:
        self._messages += 1
        for rule, seen in self._findings(message):
            yield rule, f"{self._where}, message {self._messages}: {seen}"

    def _findings(self, message: Any) -> Iterator[Finding]:
        told = _told(message)
        if told.is_open != (self._messages == 1):
            yield "open-first", "`open`" if told.is_open else f"`{message.WhichOneof('message')}` before `open`"
        if told.is_open:
            self._epoch = told.epoch
            self._dim = message.open.dim if isinstance(message, predictor_pb2.StreamPredictRequest) else DIM
        else:
            yield from self._numbers(told)
        before = dict(self._living)
        yield from self._declared(told, before)
        for where, handle in told.used:
            if handle not in self._living:
                yield "declared-before-use", f"{where} names handle {handle}, of {self.names.get(handle, 'nobody')!r}"
        if message.WhichOneof("message") == "step":
            yield from self._rows(message.step)
        elif message.WhichOneof("message") == "delta":
            yield from self._delta(message.delta)
        for handle in told.finished:
            self._living.pop(handle, None)
            self._row_ages.pop(handle, None)
        self._step = max(self._step, told.step)

    def _numbers(self, told: _Told) -> Iterator[Finding]:
        if told.epoch != self._epoch:
            mine, first = _text(told.epoch), _text(self._epoch)
            yield "epoch-kept", f"epoch {mine} on a stream of {first}"
        if told.step <= self._step:
            yield "steps-rise", f"step {told.step} after {self._step}"

    def _declared(self, told: _Told, before: dict[int, str]) -> Iterator[Finding]:
        for declared in told.declared:
            handle, name = declared.handle, declared.request_id
            if handle == 0:
                yield "handles", f"handle 0 for {name!r}"
            if handle in before and handle in told.finished:
                yield "end-then-reuse", f"the end and the next declaration of {name!r} in one message"
            elif self._living.get(handle) == name:
                yield "declared-once", f"{name!r} again"
            elif handle in self._living:
                yield "handles", f"handle {handle} for {name!r}, while {self._living[handle]!r} has it"
            elif name in self._living.values():
                yield "handles", f"a second handle for {name!r}"
            yield from self._declaration(declared)
            self._living[handle] = self.names[handle] = name

    def _declaration(self, declared: engine_pb2.RequestDeclaration) -> Iterator[Finding]:
        lives = self._engine.lives.get(declared.request_id, [])
        wrong = [list(_differences(declared, request)) for request in lives]
        if not wrong:
            yield "declarations", f"request {declared.request_id!r}, which the engine does not have"
        elif all(wrong):
            yield "declarations", f"{declared.request_id!r}: {', '.join(wrong[-1])}"

    def _rows(self, step: predictor_pb2.PredictStep) -> Iterator[Finding]:
        prompt_ages = [0] * len(step.prompts.handles)
        yield from self._matrix("prompts", step.prompts.handles, prompt_ages, step.prompts.last)
        yield from self._matrix("decodes", step.decodes.handles, step.decodes.ages, step.decodes.last)

    def _matrix(
        self, where: str, handles: Sequence[int], ages: Sequence[int], last: engine_pb2.Vectors
    ) -> Iterator[Finding]:
        if len(ages) != len(handles):
            yield "vectors", f"{where}: {len(ages)} ages for {len(handles)} handles"
            return
        for handle, age in zip(handles, ages, strict=True):
            if age <= self._row_ages.get(handle, -1):
                yield "ages-rise", f"{where}: age {age} of {self._name(handle)} after {self._row_ages[handle]}"
            self._row_ages[handle] = age
        if not handles:
            return
        if (last.rows, last.dim) != (len(handles), self._dim):
            yield "vectors", f"{where}: {last.rows} rows of {last.dim} for {len(handles)} handles and dim {self._dim}"
            return
        try:
            found = vectors.unpack(last, field=f"{where}.last").tolist()
        except InvalidField as error:
            yield "vectors", str(error)
            return
        for handle, age, values in zip(handles, ages, found, strict=True):
            lives = self._engine.lives.get(self._living.get(handle, ""), [])
            if lives and not any(values == request.values(age) for request in lives):
                yield "vectors", f"{where}: {values} of {self._name(handle)} at age {age}"

    def _delta(self, delta: scheduler_pb2.StateDelta) -> Iterator[Finding]:
        if delta.HasField("running"):
            number = KV_BLOCKS - delta.free_kv_blocks
            yield from self._batch_of(delta, number)
            claimed = delta.engine_steps or delta.step - self._step
            if self._batch and claimed != number - self._batch:
                yield "engine-steps", f"{claimed} from the batch of step {self._batch} to that of step {number}"
            self._batch = number
        for outcome in delta.finished:
            yield from self._outcome(outcome)

    def _batch_of(self, delta: scheduler_pb2.StateDelta, number: int) -> Iterator[Finding]:
        batch, running = self._engine.batches.get(number), delta.running
        if batch is None:
            yield "batches", f"{delta.free_kv_blocks} free KV blocks, which no step had"
            return
        told = list(zip(running.ages, running.computed_tokens, strict=False))
        found = {self._living.get(handle): pair for handle, pair in zip(running.handles, told, strict=False)}
        if found != batch.running:
            yield "batches", f"{found} (age, computed tokens) in step {number}, which had {batch.running}"
        if delta.step_duration_s != batch.duration_s:
            yield "batches", f"{delta.step_duration_s} s for step {number}, which took {batch.duration_s} s"

    def _outcome(self, outcome: scheduler_pb2.Outcome) -> Iterator[Finding]:
        said = self._engine.ends.get(self._living.get(outcome.handle, ""))
        if said is None:
            return
        told = {name: getattr(outcome, name) for name in said if name != "reason"}
        told["reason"] = scheduler_pb2.FinishReason.Name(outcome.reason).removeprefix("FINISH_REASON_").lower()
        for name, value in said.items():
            if told[name] != value:
                whose = self._name(outcome.handle)
                yield "outcomes", f"{name} {told[name]} of {whose}, which the engine gave as {value}"

    def _name(self, handle: int) -> str:
        return repr(self.names.get(handle, f"handle {handle}"))


def _differences(declared: engine_pb2.RequestDeclaration, request: Request) -> Iterator[str]:
    told = {
        "prompt_token_ids": (list(declared.prompt_token_ids), list(PROMPT)),
        "prompt_tokens": (declared.prompt_tokens, len(PROMPT)),
        "arrival_time_s": (declared.arrival_time_s, request.arrival_time_s),
        "priority": (declared.priority, request.priority),
        "tenant": (declared.tenant, request.tenant),
        "max_tokens": (declared.max_tokens, request.max_tokens),
    }
    for name, (found, said) in told.items():
        if found != said:
            yield f"{name} {found!r}, which the engine gave as {said!r}"
    if declared.age_tokens > request.age:
        yield f"age_tokens {declared.age_tokens}, while it has {request.age}"


def _text(epoch: engine_pb2.Epoch) -> str:
    return f"{epoch.incarnation}:{epoch.counter}"
