"""Predictions over real gRPC, with posteriors in a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import REGISTRY

from predictor_service.artefact import load
from sidecar import vectors
from sidecar.redis import ARTEFACTS, keys
from tests import artefacts
from tests.conftest import Valkey
from tests.integration.predictor_client import (
    Client,
    client,
    declaration,
    decode_rows,
    hidden,
    prompt_rows,
    service,
)
from trail.v1 import engine_pb2, predictor_pb2, state_pb2

NAMES = keys("e")


@pytest.fixture
async def predictor(tmp_path: Path, valkey: Valkey) -> AsyncIterator[Client]:
    artefacts.make(tmp_path / "tiny")
    limits = {"max_rows_per_step": 100, "max_requests_per_engine": 200}
    async with service(tmp_path, valkey.url, **limits) as address, client(address) as connected:
        yield connected


def stored(valkey: Valkey) -> dict[str, state_pb2.StoredPosterior]:
    with valkey.client() as store:
        fields = store.hgetall(NAMES.posterior)
    return {key.decode(): state_pb2.StoredPosterior.FromString(value) for key, value in fields.items()}


async def test_a_request_goes_from_prompt_to_prefill_to_decode_as_the_equations_say(
    predictor: Client, valkey: Valkey, tmp_path: Path
) -> None:
    model = load(tmp_path / "tiny")
    stream = predictor.stream()
    opened = await stream.open()
    assert opened.model.name == "tiny"
    assert opened.epoch == stream.epoch

    first = await stream.step(declared=[declaration(1)])
    assert list(first.stages) == [predictor_pb2.STAGE_PROMPT]
    assert first.initial[0] > 0

    rows = [hidden(1, seed=seed) for seed in range(3)]
    prefill = await stream.step(prompts=prompt_rows([1], rows[0]))
    p = [model.classifier(row, np.array([age])) for row, age in zip(rows, (0, 1, 4), strict=True)]
    q = p[0]
    assert prefill.mean[0] == pytest.approx(model.bins.mean(q)[0], rel=1e-4)
    assert prefill.initial[0] == prefill.median[0]

    for row, likelihood, age, steps in ((rows[1], p[1], 1, 1), (rows[2], p[2], 4, 3)):
        found = await stream.step(decodes=decode_rows([1], [age], row))
        q = model.evidence.update(model.transition.advance(q, np.array([steps])), likelihood)
        assert list(found.stages) == [predictor_pb2.STAGE_DECODE]
        assert list(found.ages) == [age]
        assert found.mean[0] == pytest.approx(model.bins.mean(q)[0], rel=1e-4)
        assert found.median[0] == pytest.approx(model.bins.quantile(q, 0.5)[0], rel=1e-4)
        assert found.p10[0] < found.median[0] < found.p90[0]
        assert found.initial[0] == prefill.initial[0]
        assert not found.degraded

    record = stored(valkey)["r1"]
    assert (record.handle, record.age_tokens, record.stage) == (1, 4, predictor_pb2.STAGE_DECODE)
    assert record.r0 == pytest.approx(first.initial[0])
    assert record.r1 == pytest.approx(prefill.median[0])
    np.testing.assert_allclose(record.posterior, q[0], rtol=1e-4)


async def test_each_part_of_a_step_is_timed_and_the_classifier_only_where_it_ran(predictor: Client) -> None:
    def counted() -> dict[str, float]:
        parts = ("read", "queue", "compute", "model", "posterior", "store")
        name = "trail_predictor_step_seconds_count"
        return {part: REGISTRY.get_sample_value(name, {"part": part}) or 0.0 for part in parts}

    stream = predictor.stream()
    await stream.open()
    before = counted()
    await stream.step(declared=[declaration(1)])
    await stream.step(prompts=prompt_rows([1], hidden(1)))
    risen = {part: count - before[part] for part, count in counted().items()}
    assert risen == {"read": 2, "queue": 2, "compute": 2, "model": 1, "posterior": 1, "store": 2}


async def test_batches_prompts_and_how_unsure_a_posterior_is_are_told(predictor: Client, valkey: Valkey) -> None:
    def told() -> list[float]:
        names = "step_rows_sum step_rows_count prompts_total posterior_entropy_nats_sum posterior_entropy_nats_count"
        return [REGISTRY.get_sample_value(f"trail_predictor_{name}") or 0.0 for name in names.split()]

    stream = predictor.stream()
    await stream.open(declaration(1))
    before = told()
    await stream.step(declared=[declaration(2), declaration(3)], finished=[2, 3])
    await stream.step(decodes=decode_rows([1], [4], hidden(1)))
    rows, batches, prompts, entropy, posteriors = (now - then for now, then in zip(told(), before, strict=True))
    assert (rows, batches, prompts, posteriors) == (1, 1, 2, 1)
    q = np.array(stored(valkey)["r1"].posterior)
    assert entropy == pytest.approx(-(q * np.log(q)).sum(), rel=1e-4)


async def test_every_step_is_published_numbered_and_finished_requests_are_deleted(
    predictor: Client, valkey: Valkey
) -> None:
    with valkey.client() as store, store.pubsub() as pubsub:
        pubsub.ssubscribe(NAMES.predictions)
        pubsub.get_sharded_message(timeout=5)
        stream = predictor.stream()
        await stream.open(declaration(1))
        await stream.step(prompts=prompt_rows([1]))
        assert store.get(NAMES.owner) == b"9:1"
        assert 0 < store.ttl(NAMES.posterior) <= 3600
        assert 0 < store.ttl(NAMES.owner) <= 3600
        await stream.step(finished=[1])
        assert stored(valkey) == {}
        published = []
        while message := pubsub.get_sharded_message(timeout=1):
            published.append(state_pb2.PublishedPredictions.FromString(message["data"]))
    assert [message.number for message in published] == [1, 2, 3]
    assert [list(message.predictions.handles) for message in published] == [[1], [1], []]
    assert all(message.epoch == stream.epoch for message in published)


async def test_bad_rows_are_answered_one_by_one_and_the_rest_goes_on(predictor: Client) -> None:
    stream = predictor.stream()
    await stream.open(*(declaration(handle) for handle in range(1, 5)))
    await stream.step(decodes=decode_rows([1, 2, 3, 4], [3, 3, 3, 3]))
    matrix = hidden(6)
    matrix[1, 5], matrix[2, 0] = np.nan, np.inf
    answer = await stream.step(decodes=decode_rows([1, 2, 3, 4, 99, 1], [4, 4, 4, 3, 4, 5], matrix))
    assert list(answer.handles) == [1]
    assert list(answer.ages) == [5]
    errors = {(error.handle, error.status) for error in answer.errors}
    assert errors == {
        (1, predictor_pb2.ROW_STATUS_STALE),
        (2, predictor_pb2.ROW_STATUS_NOT_FINITE),
        (3, predictor_pb2.ROW_STATUS_NOT_FINITE),
        (4, predictor_pb2.ROW_STATUS_STALE),
        (99, predictor_pb2.ROW_STATUS_UNKNOWN_HANDLE),
    }


async def test_a_repeated_or_old_step_changes_nothing(predictor: Client, valkey: Valkey) -> None:
    stream = predictor.stream()
    await stream.open(declaration(1))
    await stream.step(step=5, decodes=decode_rows([1], [2]))
    before = stored(valkey)
    for step in (5, 3):
        answer = await stream.step(step=step, decodes=decode_rows([1], [9]), finished=[1])
        assert (list(answer.handles), answer.step) == ([], step)
    assert stored(valkey) == before


async def test_a_prompt_row_of_a_refined_request_is_answered_and_changes_nothing(predictor: Client) -> None:
    stream = predictor.stream()
    await stream.open(declaration(1))
    refined = await stream.step(decodes=decode_rows([1], [2]))
    again = await stream.step(prompts=prompt_rows([1]))
    assert list(again.mean) == list(refined.mean)
    assert list(again.ages) == [2]


async def test_prompt_and_decode_row_of_one_step_count_in_that_order(predictor: Client) -> None:
    apart, together = predictor.stream("apart"), predictor.stream("together")
    await apart.open(declaration(1))
    await together.open(declaration(1))
    first, second = hidden(1, 1), hidden(1, 2)
    await apart.step(prompts=prompt_rows([1], first))
    expected = await apart.step(decodes=decode_rows([1], [1], second))
    found = await together.step(prompts=prompt_rows([1], first), decodes=decode_rows([1], [1], second))
    assert list(found.mean) == pytest.approx(list(expected.mean))
    assert list(found.initial) == pytest.approx(list(expected.initial))


async def test_many_rows_in_a_thread_give_what_few_rows_give_inline(predictor: Client) -> None:
    many, few = predictor.stream("many"), predictor.stream("few")
    handles = list(range(1, 101))
    matrix = hidden(100)
    await many.open(*map(declaration, handles))
    await few.open(*map(declaration, handles))
    found = await many.step(prompts=prompt_rows(handles, matrix))
    for begin in range(0, 100, 50):
        part = slice(begin, begin + 50)
        answer = await few.step(prompts=prompt_rows(handles[part], matrix[part]))
        np.testing.assert_allclose(answer.mean, list(found.mean)[part], rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"decodes": decode_rows([1], [1], hidden(1, dim=8))}, r"step\.decodes\.last\.dim: 8 \(limit .*16"),
        ({"decodes": decode_rows([1], [1], hidden(2))}, r"step\.decodes\.last\.rows: 2 rows for 1"),
        ({"decodes": decode_rows([1], [], hidden(1))}, r"step\.decodes\.ages: 0 entries"),
        (
            {"decodes": predictor_pb2.DecodeRows(handles=[1], ages=[1], last=engine_pb2.Vectors(rows=1, dim=16))},
            r"step\.decodes\.last\.dtype",
        ),
        ({"prompts": prompt_rows(list(range(1, 102)))}, r"step: 101 rows \(limit max_rows_per_step 100\)"),
        ({"declared": [declaration(0)]}, r"step\.declared\[0\]\.handle"),
        ({"declared": [declaration(2, request_id="x" * 257)]}, r"request_id: 257 bytes \(limit 1 to 256\)"),
        ({"declared": [declaration(2, request_id="r1")]}, r"declared\.handle"),
    ],
)
async def test_a_malformed_step_is_refused_naming_field_and_limit(
    predictor: Client, fields: dict[str, object], named: str
) -> None:
    stream = predictor.stream()
    await stream.open(declaration(1))
    with pytest.raises(grpc.aio.AioRpcError, match=named) as refused:
        await stream.step(**fields)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"dim": 4}, grpc.StatusCode.INVALID_ARGUMENT, r"open\.dim: 4 \(limit 16"),
        ({"dtype": engine_pb2.DTYPE_UNSPECIFIED}, grpc.StatusCode.INVALID_ARGUMENT, r"open\.dtype"),
        ({"epoch": engine_pb2.Epoch()}, grpc.StatusCode.INVALID_ARGUMENT, r"epoch\.incarnation"),
        ({"model": "other"}, grpc.StatusCode.NOT_FOUND, r"loaded: tiny"),
    ],
)
async def test_an_open_that_does_not_fit_is_refused(
    predictor: Client, fields: dict[str, object], code: grpc.StatusCode, named: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=named) as refused:
        await predictor.stream().open(**fields)
    assert refused.value.code() == code


async def test_a_bad_engine_id_is_refused(predictor: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="engine_id"):
        await predictor.stream("a/b").open()


async def test_the_first_message_must_be_open_and_epochs_must_agree(predictor: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="first message") as refused:
        await predictor.stream().step()
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    stream = predictor.stream()
    await stream.open()
    with pytest.raises(grpc.aio.AioRpcError, match="9:2.*9:1") as refused:
        await stream.step(epoch=engine_pb2.Epoch(incarnation=9, counter=2))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_too_many_requests_are_refused_with_a_hint_when_to_retry(predictor: Client) -> None:
    stream = predictor.stream()
    with pytest.raises(grpc.aio.AioRpcError, match="max_requests_per_engine") as refused:
        await stream.open(*map(declaration, range(1, 202)))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("grpc-retry-pushback-ms", "1000") in tuple(refused.value.trailing_metadata())


async def test_unary_predict_needs_no_declaration_and_stores_nothing(predictor: Client, valkey: Valkey) -> None:
    step = predictor_pb2.PredictStep(
        declared=[declaration(5)], prompts=prompt_rows([1]), decodes=decode_rows([2], [30])
    )
    answer = (await predictor.stub.Predict(predictor_pb2.PredictRequest(step=step))).predictions
    found = dict(zip(answer.handles, zip(answer.stages, answer.median, answer.initial, strict=True), strict=True))
    assert [found[handle][0] for handle in (5, 1, 2)] == [1, 2, 3]
    assert found[1][1] == found[1][2]
    assert found[2][2] == pytest.approx(30 + found[2][1])
    assert not answer.errors
    with valkey.client() as store:
        # Which artefacts there are, the service tells by itself.
        assert set(store.keys("trail:*")) <= {ARTEFACTS.encode()}


async def test_float32_and_bfloat16_rows_are_taken_too(predictor: Client) -> None:
    for dtype in (engine_pb2.DTYPE_FLOAT32, engine_pb2.DTYPE_BFLOAT16):
        stream = predictor.stream(f"e{dtype}")
        await stream.open(declaration(1), dtype=dtype)
        rows = decode_rows([1], [3])
        wide = vectors.unpack(rows.last, field="last").astype(np.float32)
        rows.last.CopyFrom(vectors.pack(wide, dtype))
        assert list((await stream.step(decodes=rows)).stages) == [predictor_pb2.STAGE_DECODE]


async def test_a_prediction_put_from_outside_becomes_r0_until_hidden_states_come(predictor: Client) -> None:
    stream = predictor.stream()
    await stream.open(declaration(1))
    put = predictor_pb2.PutPredictionRequest(
        engine_id="e", request_id="r1", output_tokens=100, standard_error_tokens=10
    )
    await predictor.stub.PutPrediction(put)
    answer = await stream.step()
    assert list(answer.stages) == [predictor_pb2.STAGE_EXTERNAL]
    assert answer.initial[0] == 100
    assert 64 < answer.median[0] < 128
    prefill = await stream.step(prompts=prompt_rows([1]))
    assert list(prefill.stages) == [predictor_pb2.STAGE_PREFILL]
    assert prefill.initial[0] == prefill.median[0]
    put.request_id = "unknown"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await predictor.stub.PutPrediction(put)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("tokens", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_prediction_put_from_outside_must_be_a_length(predictor: Client, tokens: float) -> None:
    put = predictor_pb2.PutPredictionRequest(engine_id="e", request_id="r1", output_tokens=tokens)
    with pytest.raises(grpc.aio.AioRpcError, match="output_tokens") as refused:
        await predictor.stub.PutPrediction(put)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_forget_drops_requests_with_and_without_a_stream(predictor: Client, valkey: Valkey) -> None:
    stream = predictor.stream()
    await stream.open(declaration(1), declaration(2))
    forget = predictor_pb2.ForgetRequest(engine_id="e", request_ids=["r1", "never"])
    assert (await predictor.stub.Forget(forget)).forgotten == 1
    assert set(stored(valkey)) == {"r2"}
    answer = await stream.step(decodes=decode_rows([1], [1]))
    assert answer.errors[0].status == predictor_pb2.ROW_STATUS_UNKNOWN_HANDLE
    stream.call.cancel()
    await asyncio.sleep(0.2)
    forget = predictor_pb2.ForgetRequest(engine_id="e", request_ids=["r2"])
    assert (await predictor.stub.Forget(forget)).forgotten == 1
    assert stored(valkey) == {}


async def test_models_are_listed_and_described(predictor: Client) -> None:
    models = (await predictor.stub.ListModels(predictor_pb2.ListModelsRequest())).models
    assert [model.name for model in models] == ["tiny"]
    model = (await predictor.stub.GetModel(predictor_pb2.GetModelRequest())).model
    assert (model.dim, list(model.layers), list(model.bin_edges)) == (16, [3], artefacts.EDGES)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await predictor.stub.GetModel(predictor_pb2.GetModelRequest(name="x"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_an_engine_over_the_limit_is_refused_until_another_leaves(tmp_path: Path, valkey: Valkey) -> None:
    artefacts.make(tmp_path / "tiny")
    async with service(tmp_path, valkey.url, max_engines=1) as address, client(address) as predictor:
        first = predictor.stream("a")
        await first.open()
        with pytest.raises(grpc.aio.AioRpcError, match="max_engines") as refused:
            await predictor.stream("b").open()
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await first.call.done_writing()
        assert await first.call.read() is grpc.aio.EOF
        await predictor.stream("b").open()
