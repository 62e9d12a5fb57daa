"""Rows that the engine has projected, through a real predictor service."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from predictor_service.artefact import load
from sidecar import projection
from sidecar.cli.serve import keep_projection
from sidecar.cli.tapping import RowKind, ServeError, fetch_projection
from tests import artefacts
from tests.conftest import Valkey
from tests.integration.predictor_client import Client, declaration, decode_rows, hidden, prompt_rows, service
from tests.integration.test_agent_real_services import Loop
from tests.integration.test_model_reload import IN_TRIAL, SHARE, deliver, metric, predictor, until_served
from trail.v1 import predictor_pb2

HANDLES = [1, 2, 3]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    artefacts.make(tmp_path / "models" / "tiny", projected=True)
    return tmp_path / "models"


async def fetched(connected: Client, name: str = "") -> bytes:
    answers = connected.stub.GetProjection(predictor_pb2.GetProjectionRequest(name=name))
    return b"".join([part.content async for part in answers])


async def projected_stream(connected: Client, engine_id: str = "p") -> tuple[Any, projection.Projection]:
    """An open stream of projected rows, and the projection that the service gave."""
    model = (await connected.stub.GetModel(predictor_pb2.GetModelRequest())).model
    content = await fetched(connected)
    assert projection.id_of(content) == model.projection.id
    project = projection.unpack(content)
    assert project.dim == model.projection.dim
    stream = connected.stream(engine_id)
    declared = [declaration(handle) for handle in HANDLES]
    await stream.open(*declared, dim=project.dim, projection=model.projection.id)
    return stream, project


async def test_projected_rows_are_predicted_as_the_hidden_states_are(models: Path, valkey: Valkey) -> None:
    async with predictor(models, valkey) as connected:
        whole = connected.stream("whole")
        await whole.open(*[declaration(handle) for handle in HANDLES])
        cut, project = await projected_stream(connected)
        for age in range(30):
            rows = hidden(len(HANDLES), seed=age)
            short = project(rows)
            answers = []
            for stream, matrix in ((whole, rows), (cut, short)):
                parts = (
                    {"decodes": decode_rows(HANDLES, [age] * 3, matrix)}
                    if age
                    else {"prompts": prompt_rows(HANDLES, matrix)}
                )
                answers.append(await stream.step(**parts))
            assert not answers[1].errors
            assert list(answers[1].ages) == [age] * 3
            for figure in ("mean", "median", "p10", "p90", "initial"):
                expected, found = (getattr(answer, figure) for answer in answers)
                np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01, err_msg=figure)


async def test_rows_of_another_projection_are_refused_by_both_names_and_nobody_else_is_disturbed(
    models: Path, valkey: Valkey
) -> None:
    own = load(models / "tiny").projected
    assert own is not None
    async with predictor(models, valkey) as connected:
        good, project = await projected_stream(connected)
        with pytest.raises(grpc.aio.AioRpcError, match="start the engine again") as refusal:
            await connected.stream("old").open(dim=own.project.dim, projection="0123456789abcdef")
        assert refusal.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert own.id in str(refusal.value.details())
        assert "0123456789abcdef" in str(refusal.value.details())
        with pytest.raises(grpc.aio.AioRpcError, match=r"open\.dim: 16 \(limit 12 of model tiny\)"):
            await connected.stream("wide").open(projection=own.id)
        with pytest.raises(grpc.aio.AioRpcError, match=r"open\.dim: 12 \(limit 16 of model tiny\)"):
            await connected.stream("narrow").open(dim=12)
        answer = await good.step(decodes=decode_rows(HANDLES, [1] * 3, project(hidden(3))))
        assert len(answer.handles) == 3


async def test_an_engine_goes_on_with_a_new_artefact_of_its_projection_and_is_refused_by_one_of_another(
    models: Path, valkey: Valkey, tmp_path: Path
) -> None:
    async with predictor(models, valkey) as connected:
        stream, project = await projected_stream(connected)
        switches, age = metric("trail_predictor_switches_total"), 0
        same = artefacts.make(tmp_path / "same", projected=True)
        artefacts.edit(same, tau=0.25)
        shutil.rmtree(deliver(models, same))
        while metric("trail_predictor_switches_total") == switches:
            age += 1
            answer = await stream.step(decodes=decode_rows(HANDLES, [age] * 3, project(hidden(3))))
            assert len(answer.handles) == 3
            await asyncio.sleep(0.02)

        deliver(models, artefacts.make(tmp_path / "other", projected=True, seed=1))
        other = (await until_served(connected, models / "tiny")).projected
        assert other is not None
        with pytest.raises(grpc.aio.AioRpcError, match=f"has {other.id}: start the engine again") as refusal:
            await stream.step(decodes=decode_rows(HANDLES, [age + 1] * 3, project(hidden(3))))
        assert refusal.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        as_they_are = connected.stream("hidden")
        await as_they_are.open(*[declaration(handle) for handle in HANDLES])
        assert len((await as_they_are.step(decodes=decode_rows(HANDLES, [1] * 3))).handles) == 3


async def test_a_canary_gets_no_engine_whose_rows_it_does_not_read(models: Path, valkey: Valkey) -> None:
    artefacts.make(models / "next", name="next", projected=True, seed=1)
    trial = {"default_model": "tiny", "canary_model": "next", "canary_share": SHARE}
    own = load(models / "tiny").projected
    assert own is not None
    async with predictor(models, valkey, **trial) as connected:
        assert (await connected.stream(IN_TRIAL).open()).model.name == "next"
        projecting = connected.stream(IN_TRIAL, counter=2)
        assert (await projecting.open(dim=own.project.dim, projection=own.id)).model.name == "tiny"


async def test_projected_rows_are_not_recorded(
    models: Path, valkey: Valkey, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with predictor(models, valkey, record_dir=tmp_path / "recorded") as connected:
        stream, project = await projected_stream(connected)
        await stream.step(decodes=decode_rows(HANDLES, [1] * 3, project(hidden(3))))
        as_they_are = connected.stream("hidden")
        await as_they_are.open(*[declaration(handle) for handle in HANDLES])
        await as_they_are.step(decodes=decode_rows(HANDLES, [1] * 3))
    folders = [path.parent.name for path in (tmp_path / "recorded").rglob("*.npz")]
    assert folders == ["engine-hidden"]
    assert "start it with `trail serve --rows hidden`" in "".join(capfd.readouterr())


async def test_a_model_without_a_projection_says_so(models: Path, valkey: Valkey) -> None:
    artefacts.make(models / "old", name="old")
    async with predictor(models, valkey, default_model="tiny") as connected:
        model = (await connected.stub.GetModel(predictor_pb2.GetModelRequest(name="old"))).model
        assert not model.HasField("projection")
        with pytest.raises(grpc.aio.AioRpcError, match="'old' has no projection"):
            await fetched(connected, "old")
        with pytest.raises(grpc.aio.AioRpcError, match="'old' has none"):
            await connected.stream().open(model="old", dim=12, projection="0123456789abcdef")


async def test_an_engine_is_planned_by_projected_rows_until_an_artefact_of_another_projection_comes(
    tmp_path: Path, valkey: Valkey
) -> None:
    first = load(artefacts.make(tmp_path / "first", projected=True)).projected
    other = load(artefacts.make(tmp_path / "other", projected=True, seed=1)).projected
    assert first is not None
    assert other is not None
    loop = Loop(tmp_path, valkey, dim=artefacts.WIDTH, projection=first.id)
    await loop.start()
    try:
        loop.harness.submit(4, output_tokens=2_500)
        await loop.refined_again()
        shutil.copytree(tmp_path / "other", tmp_path / "model", dirs_exist_ok=True)
        await loop.harness.until(lambda: not loop.harness.statistics()["connected"]["predictor_link"])
        await loop.harness.until(lambda: loop.engine.plan is None)
        assert loop.harness.statistics()["connected"]["scheduler_link"]
        assert loop.engine.living == 4
        shutil.copytree(tmp_path / "first", tmp_path / "model", dirs_exist_ok=True)
        await loop.refined_again()
        assert loop.count("row_errors") == 0
    finally:
        log = await loop.stop()
    assert f"rows come projected by {first.id}, but model 'tiny' has {other.id}: start the engine again" in log


async def test_serve_fetches_what_it_is_told_to_have_projected(models: Path, valkey: Valkey, tmp_path: Path) -> None:
    """The one of four megabytes is too large for one message of gRPC's."""
    artefacts.make(models / "large", name="large", projected=True, hidden_size=180_000)
    artefacts.make(models / "old", name="old")
    own = load(models / "tiny").projected
    assert own is not None

    async with service(models, valkey.url, default_model="tiny") as address:

        async def fetch(artefact: str, rows: RowKind | None, layers: str = "") -> bytes | None:
            return await asyncio.to_thread(fetch_projection, address, artefact, layers, rows, 10.0)

        assert await fetch("tiny", "projected") == own.content
        assert await fetch("tiny", None) is None, "rows would not be much shorter"
        assert await fetch("", "hidden") is None
        assert await fetch("old", None) is None
        assert await fetch("", None, "3") is None
        large = await fetch("large", None)
        assert large == (models / "large" / "projection.npz").read_bytes()
        assert len(large) > 4 << 20
        with pytest.raises(ServeError, match="'old' has no projection"):
            await fetch("old", "projected")
        with pytest.raises(ServeError, match="leave --layers out"):
            await fetch("", "projected", "3")

    kept = keep_projection(own.content, tmp_path / "engine")
    path = tmp_path / "engine" / "projection.npz"
    assert kept == {"path": str(path), "id": own.id, "dim": artefacts.WIDTH}
    assert path.read_bytes() == own.content
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
