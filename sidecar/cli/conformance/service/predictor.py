"""Checks on a predictor service."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np

from sidecar import vectors
from sidecar.cli.conformance.service.channel import Check, Site, Stream, declaration
from sidecar.cli.conformance.verdict import Broken
from trail.v1 import engine_pb2, predictor_pb2

CHECKS: dict[str, Check] = {}
"""Name -> what it plays; the docstring is the promise."""

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
UNKNOWN_FIELD = b"\xfa\x3e\x05later"


def check(played: Check) -> Check:
    CHECKS[played.__name__.replace("_", "-")] = played
    return played


@check
async def predictor_opens(site: Site) -> None:
    """`open` is answered first, with its epoch, the model, and a prediction for every request that it names."""
    async with _stream(site) as stream:
        opened = await _open(site, stream, 1, 2)
        if opened.epoch != site.epoch() or opened.predictions.step != 0:
            raise Broken("the epoch of `open`, and step 0", f"{opened.epoch}, step {opened.predictions.step}")
        if (opened.model.dim, opened.model.name) != (site.model.dim, site.model.name):
            raise Broken(f"model {site.model.name!r} of dim {site.model.dim}", f"{opened.model.name!r}")
        _sane(opened.predictions, {1, 2})
        if set(opened.predictions.stages) != {predictor_pb2.STAGE_PROMPT}:
            raise Broken("predictions of STAGE_PROMPT", f"stages {list(opened.predictions.stages)}")


@check
async def predictor_open_comes_first(site: Site) -> None:
    """A stream that does not begin with `open` ends with FAILED_PRECONDITION."""
    async with _stream(site) as stream:
        await stream.say(_step(site, 1))
        await stream.refused("a step before `open`", PRECONDITION, "open")


@check
async def predictor_open_comes_once(site: Site) -> None:
    """A second `open` on a stream ends it with FAILED_PRECONDITION."""
    async with _stream(site) as stream:
        await _open(site, stream)
        await stream.say(_opening(site))
        await stream.refused("a second `open`", PRECONDITION, "open")


@check
async def predictor_answers_in_order(site: Site) -> None:
    """Steps that follow each other without waiting are answered one by one, in their order, under their epoch."""
    async with _stream(site) as stream:
        await _open(site, stream, 1)
        for number in range(1, 21):
            await stream.say(_step(site, 3 * number, decodes=_decodes(site, [1], [number])))
        for number in range(1, 21):
            answer = (await stream.hear(f"an answer to step {3 * number}")).predictions
            if answer.step != 3 * number or answer.epoch != site.epoch():
                raise Broken(f"the answer to step {3 * number}", f"one to step {answer.step}")
            _sane(answer, {1})


@check
async def predictor_repeats(site: Site) -> None:
    """A repeated step and an old one are answered, and change nothing."""
    async with _stream(site) as stream:
        await _open(site, stream, 1)
        await _ask(stream, _step(site, 5, decodes=_decodes(site, [1], [3])))
        for number in (5, 4):
            old = _step(site, number, declared=[declaration(7)], decodes=_decodes(site, [1], [9]), finished=[1])
            answer = await _ask(stream, old)
            if answer.handles or answer.errors:
                raise Broken(f"an empty answer to step {number} after step 5", f"{list(answer.handles)} were answered")
        answer = await _ask(stream, _step(site, 6, decodes=_decodes(site, [1, 7], [4, 1])))
        _answered(answer, {1: 4}, {7: predictor_pb2.ROW_STATUS_UNKNOWN_HANDLE})


@check
async def predictor_keeps_to_the_epoch(site: Site) -> None:
    """A step of another epoch than the stream's ends it with FAILED_PRECONDITION, naming `step.epoch`."""
    async with _stream(site) as stream:
        await _open(site, stream)
        await stream.say(_step(site, 1, epoch=site.epoch(2)))
        await stream.refused("another epoch", PRECONDITION, field="epoch")


@check
async def predictor_takeover(site: Site) -> None:
    """A newer stream takes the engine: the older one ends with ABORTED, and what was known of requests goes on."""
    async with _stream(site) as older, _stream(site) as newer:
        await _open(site, older, 1, 2)
        before = await _ask(older, _step(site, 1, decodes=_decodes(site, [1, 2], [1, 1])))
        before = await _ask(older, _step(site, 2, decodes=_decodes(site, [1], [2])))
        opened = await _open(site, newer, 1, counter=2, age=2)
        await older.say(_step(site, 3, decodes=_decodes(site, [1], [3])))
        await older.refused("the older stream", grpc.StatusCode.ABORTED)
        told, known = opened.predictions, before
        if list(told.ages) != [2] or list(told.initial) != list(known.initial) or list(told.mean) != list(known.mean):
            raise Broken(f"the prediction of age 2: {_brief(known)}", _brief(told))
        answer = await _ask(newer, _step(site, 1, epoch=site.epoch(2), decodes=_decodes(site, [1, 2], [3, 2])))
        _answered(answer, {1: 3}, {2: predictor_pb2.ROW_STATUS_UNKNOWN_HANDLE})


@check
async def predictor_row_statuses(site: Site) -> None:
    """A row that cannot be used is told of in the answer, with its reason; the other rows of the step are used."""
    async with _stream(site) as stream:
        await _open(site, stream, 1, 2, 3)
        await _ask(stream, _step(site, 1, decodes=_decodes(site, [1, 2, 3], [5, 5, 5])))
        rows = _decodes(site, [1, 2, 3, 9], [6, 6, 5, 1], nan=1)
        answer = await _ask(stream, _step(site, 2, decodes=rows))
        wrong = {
            2: predictor_pb2.ROW_STATUS_NOT_FINITE,
            3: predictor_pb2.ROW_STATUS_STALE,
            9: predictor_pb2.ROW_STATUS_UNKNOWN_HANDLE,
        }
        _answered(answer, {1: 6}, wrong)


@check
async def predictor_stages(site: Site) -> None:
    """Predictions go from the prompt to prefill to decode; `initial` is frozen after prefill."""
    async with _stream(site) as stream:
        await _open(site, stream)
        answers = [await _ask(stream, _step(site, 1, declared=[declaration(1)]))]
        answers.append(await _ask(stream, _step(site, 2, prompts=_prompts(site, [1]))))
        answers += [await _ask(stream, _step(site, 2 + n, decodes=_decodes(site, [1], [n]))) for n in (1, 2, 3)]
        for answer in answers:
            _sane(answer, {1})
        stages = [answer.stages[0] for answer in answers]
        if stages != [predictor_pb2.STAGE_PROMPT, predictor_pb2.STAGE_PREFILL, *[predictor_pb2.STAGE_DECODE] * 3]:
            raise Broken("stages 1, 2, 3, 3, 3", f"{stages}")
        frozen = {answer.initial[0] for answer in answers[1:]}
        if len(frozen) > 1:
            raise Broken("one `initial` from prefill on", f"{sorted(frozen)}")


@check
async def predictor_ends(site: Site) -> None:
    """A request in `finished` is not answered any more, and its handle is unknown from then on."""
    async with _stream(site) as stream:
        await _open(site, stream, 1, 2)
        _answered(await _ask(stream, _step(site, 1, decodes=_decodes(site, [1, 2], [1, 1]), finished=[1])), {2: 1}, {})
        answer = await _ask(stream, _step(site, 2, decodes=_decodes(site, [1, 2], [2, 2])))
        _answered(answer, {2: 2}, {1: predictor_pb2.ROW_STATUS_UNKNOWN_HANDLE})


@check
async def predictor_unknown_field(site: Site) -> None:
    """A field of a later version is passed over."""
    async with _stream(site) as stream:
        await _open(site, stream, 1)
        message = _step(site, 1, decodes=_decodes(site, [1], [1]))
        message.step.MergeFromString(UNKNOWN_FIELD)
        _answered(await _ask(stream, message), {1: 1}, {})


@check
async def predictor_bad_open(site: Site) -> None:
    """An `open` with a bad field is INVALID_ARGUMENT, and the text names the field."""
    clash = [declaration(1), declaration(2, request_id="request-1")]
    for field, fields in (
        ("engine_id", {"engine_id": "no spaces"}), ("engine_id", {"engine_id": "x" * 129}),
        ("epoch.incarnation", {"epoch": engine_pb2.Epoch(counter=1)}),
        ("dim", {"dim": site.model.dim + 1}), ("dtype", {"dtype": engine_pb2.DTYPE_UNSPECIFIED}),
        ("handle", {"requests": [declaration(0)]}), ("request_id", {"requests": [declaration(1, request_id="")]}),
        ("request_id", {"requests": [declaration(1, request_id="x" * 257)]}), ("handle", {"requests": clash}),
    ):  # fmt: skip
        async with _stream(site) as stream:
            await stream.say(_opening(site, **fields))
            await stream.refused(f"a bad {field} in `open`", INVALID, field=field)
    async with _stream(site) as stream:
        await stream.say(_opening(site, model="no-such-model"))
        await stream.refused("a model that is not there", grpc.StatusCode.NOT_FOUND, "no-such-model")


@check
async def predictor_bad_step(site: Site) -> None:
    """A step that is malformed as a whole is INVALID_ARGUMENT, and the text names the field."""
    fewer_ages, short, wide, many = (_decodes(site, [1, 2], [1, 1]) for _ in range(4))
    del fewer_ages.ages[1:]
    short.last.data = short.last.data[:-1]
    wide.last.dim += 1
    many.last.rows += 1
    for field, fields in (
        ("ages", {"decodes": fewer_ages}), ("data", {"decodes": short}), ("dim", {"decodes": wide}),
        ("rows", {"decodes": many}), ("handle", {"declared": [declaration(0)]}),
        ("request_id", {"declared": [declaration(9, request_id="")]}),
        ("handle", {"declared": [declaration(9, request_id="request-1")]}),
    ):  # fmt: skip
        async with _stream(site) as stream:
            await _open(site, stream, 1, 2)
            await stream.say(_step(site, 1, **fields))
            await stream.refused(f"bad {field} in a step", INVALID, field=field)


@check
async def predictor_too_many_rows(site: Site) -> None:
    """More rows than `max_rows_per_step` are INVALID_ARGUMENT, and the text names the limit."""
    count = site.limits.max_rows + 1
    async with _stream(site) as stream:
        await _open(site, stream)
        await stream.say(_step(site, 1, decodes=_decodes(site, range(1, count + 1), [1] * count)))
        await stream.refused(f"{count} rows", INVALID, str(site.limits.max_rows))


@check
async def predictor_too_many_requests(site: Site) -> None:
    """More living requests than `max_requests_per_engine` are RESOURCE_EXHAUSTED, with when to come again."""
    count = site.limits.max_requests + 1
    async with _stream(site) as stream:
        await stream.say(_opening(site, requests=[declaration(handle) for handle in range(1, count + 1)]))
        await stream.refused(f"{count} requests", grpc.StatusCode.RESOURCE_EXHAUSTED, str(site.limits.max_requests))


@check
async def predictor_put(site: Site) -> None:
    """PutPrediction gives a living request its length; NOT_FOUND where none lives, INVALID_ARGUMENT for nonsense."""
    async with _stream(site) as stream:
        await _open(site, stream, 1)
        await site.within("PutPrediction is answered", site.predictor.PutPrediction(_put(site, "request-1", 77.0)))
        answer = await _ask(stream, _step(site, 1))
        if list(answer.handles) != [1] or list(answer.initial) != [77.0]:
            raise Broken("`initial` 77 with the next step", _brief(answer))
        put = site.predictor.PutPrediction
        await site.refused("an unknown request", put(_put(site, "nobody", 5)), grpc.StatusCode.NOT_FOUND, "nobody")
        for wrong in (0.0, math.nan, math.inf):
            await site.refused(f"{wrong} tokens", put(_put(site, "request-1", wrong)), INVALID, field="output_tokens")


@check
async def predictor_forget(site: Site) -> None:
    """Forget drops requests, and says how many there were."""
    async with _stream(site) as stream:
        await _open(site, stream, 1, 2)
        request = predictor_pb2.ForgetRequest(engine_id=site.engine_id, request_ids=["request-1", "nobody"])
        answer = await site.within("Forget is answered", site.predictor.Forget(request))
        if answer.forgotten != 1:
            raise Broken("1 forgotten", f"{answer.forgotten}")
        step = await _ask(stream, _step(site, 1, decodes=_decodes(site, [1, 2], [1, 1])))
        _answered(step, {2: 1}, {1: predictor_pb2.ROW_STATUS_UNKNOWN_HANDLE})
    bad = predictor_pb2.ForgetRequest(engine_id="no spaces", request_ids=["a"])
    await site.refused("a bad engine id", site.predictor.Forget(bad), INVALID, field="engine_id")


@check
async def predictor_unary(site: Site) -> None:
    """Predict answers one step without a stream, and keeps nothing of it."""
    step = predictor_pb2.PredictStep(step=1, decodes=_decodes(site, [4, 5], [1, 2]))
    answer = await site.within("Predict is answered", site.predictor.Predict(predictor_pb2.PredictRequest(step=step)))
    _answered(answer.predictions, {4: 1, 5: 2}, {})
    step.decodes.last.dim += 1
    bad = predictor_pb2.PredictRequest(step=step)
    await site.refused("a bad dim", site.predictor.Predict(bad), INVALID, field="dim")


@check
async def predictor_models(site: Site) -> None:
    """The default model is in ListModels; one that is not there is NOT_FOUND."""
    models = await site.within("ListModels", site.predictor.ListModels(predictor_pb2.ListModelsRequest()))
    if site.model.name not in {model.name for model in models.models}:
        raise Broken(f"{site.model.name!r} in ListModels", f"{[model.name for model in models.models]}")
    call = site.predictor.GetModel(predictor_pb2.GetModelRequest(name="no-such-model"))
    await site.refused("a model that is not there", call, grpc.StatusCode.NOT_FOUND, "no-such-model")


@asynccontextmanager
async def _stream(site: Site) -> Any:
    stream = Stream(site, site.predictor.StreamPredict())
    try:
        yield stream
    finally:
        stream.close()


def _opening(site: Site, counter: int = 1, **fields: Any) -> predictor_pb2.StreamPredictRequest:
    usual: dict[str, Any] = {"engine_id": site.engine_id, "epoch": site.epoch(counter), "dim": site.model.dim}
    usual["dtype"] = engine_pb2.DTYPE_FLOAT32
    return predictor_pb2.StreamPredictRequest(open=predictor_pb2.OpenPredict(**(usual | fields)))


async def _open(
    site: Site, stream: Stream, *handles: int, counter: int = 1, age: int = 0
) -> predictor_pb2.PredictOpened:
    requests = [declaration(handle, age_tokens=age) for handle in handles]
    await stream.say(_opening(site, counter, requests=requests))
    answer = await stream.hear("an answer to `open`")
    if not answer.HasField("opened"):
        raise Broken("`opened` first", f"{answer.WhichOneof('message')}")
    return answer.opened  # type: ignore[no-any-return]


def _step(site: Site, number: int, **fields: Any) -> predictor_pb2.StreamPredictRequest:
    usual: dict[str, Any] = {"epoch": site.epoch(), "step": number}
    return predictor_pb2.StreamPredictRequest(step=predictor_pb2.PredictStep(**(usual | fields)))


async def _ask(stream: Stream, message: predictor_pb2.StreamPredictRequest) -> predictor_pb2.StepPredictions:
    await stream.say(message)
    answer = (await stream.hear(f"an answer to step {message.step.step}")).predictions
    if answer.step != message.step.step:
        raise Broken(f"the answer to step {message.step.step}", f"one to step {answer.step}")
    return answer  # type: ignore[no-any-return]


def _vectors(site: Site, rows: int, nan: int | None = None) -> engine_pb2.Vectors:
    values = np.full((rows, site.model.dim), 0.25, np.float32)
    if nan is not None:
        values[nan] = np.nan
    return vectors.pack(values, engine_pb2.DTYPE_FLOAT32)


def _prompts(site: Site, handles: Sequence[int]) -> predictor_pb2.PromptRows:
    return predictor_pb2.PromptRows(handles=handles, last=_vectors(site, len(handles)))


def _decodes(
    site: Site, handles: Sequence[int], ages: Sequence[int], nan: int | None = None
) -> predictor_pb2.DecodeRows:
    return predictor_pb2.DecodeRows(handles=handles, ages=ages, last=_vectors(site, len(handles), nan))


def _put(site: Site, request_id: str, tokens: float) -> predictor_pb2.PutPredictionRequest:
    return predictor_pb2.PutPredictionRequest(
        engine_id=site.engine_id, request_id=request_id, output_tokens=tokens, standard_error_tokens=1.0
    )


def _brief(found: predictor_pb2.StepPredictions) -> str:
    handles, ages = list(found.handles), list(found.ages)
    return f"handles {handles}, ages {ages}, initial {list(found.initial)}, mean {list(found.mean)}"


def _answered(
    found: predictor_pb2.StepPredictions, ages: dict[int, int], wrong: dict[int, predictor_pb2.RowStatus.ValueType]
) -> None:
    """Raises Broken unless exactly these were predicted at these ages, and these rows refused."""
    _sane(found, set(ages))
    told = dict(zip(found.handles, found.ages, strict=True))
    errors = {error.handle: error.status for error in found.errors}
    if told != ages or errors != wrong:
        raise Broken(f"predictions {ages} (handle: age) and row errors {wrong}", f"{told} and {errors}")


def _sane(found: predictor_pb2.StepPredictions, handles: set[int]) -> None:
    """Raises Broken unless exactly these have one prediction each, which can be planned by."""
    columns: Sequence[Sized] = (found.ages, found.stages, found.mean, found.median, found.p10, found.p90, found.initial)
    if {len(column) for column in columns} != {len(found.handles)}:
        raise Broken("arrays of one length", f"lengths {[len(found.handles), *map(len, columns)]}")
    if sorted(found.handles) != sorted(handles):
        raise Broken(f"predictions for handles {sorted(handles)}", f"{sorted(found.handles)}")
    for mean, low, middle, high, initial in zip(
        found.mean, found.p10, found.median, found.p90, found.initial, strict=True
    ):
        numbers = (mean, low, middle, high, initial)
        if not all(math.isfinite(each) and each >= 0 for each in numbers) or not low <= middle <= high:
            raise Broken("finite lengths of 0 or more, p10 <= median <= p90", f"mean, p10, median, p90, r: {numbers}")
