"""Artefacts that are replaced, broken, put back and tried out under open streams with living requests."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from predictor_service.artefact import Artefact, load
from predictor_service.canary import in_share
from predictor_service.step import Stage
from predictor_service.switching import rebinned
from sidecar.redis import keys
from tests import artefacts
from tests.conftest import Valkey
from tests.integration.predictor_client import (
    Client,
    EngineStream,
    client,
    declaration,
    decode_rows,
    hidden,
    prompt_rows,
    service,
)
from tests.live_outcomes import write_outcomes
from tests.patience import PATIENCE_S
from trail.v1 import predictor_pb2, state_pb2

OTHER_EDGES = [0, 3, 9, 20, 40, 80, 160, 320, 640, 1280]
OTHER_MIDDLES = [1, 5, 15, 30, 60, 120, 240, 480, 900, 2000]
SHARE = 0.5
_ENGINES = [f"engine-{number}" for number in range(99)]
IN_TRIAL, ALSO_IN_TRIAL, *_ = (engine_id for engine_id in _ENGINES if in_share(engine_id, "next", SHARE))
BESIDE, *_ = (engine_id for engine_id in _ENGINES if not in_share(engine_id, "next", SHARE))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    artefacts.make(tmp_path / "models" / "tiny")
    return tmp_path / "models"


@asynccontextmanager
async def predictor(models: Path, valkey: Valkey, **settings: Any) -> AsyncIterator[Client]:
    quick: dict[str, Any] = {"model_poll_s": 0.05, "outcome_poll_s": 0.05}
    async with service(models, valkey.url, **(quick | settings)) as address, client(address) as connected:
        yield connected


async def until(condition: Callable[[], Any], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


async def until_served(connected: Client, folder: Path) -> Artefact:
    """Waits until the artefact in `folder` is what its name means; loads it here too."""
    artefact = load(folder)
    wanted = artefact.manifest.files.model
    async with asyncio.timeout(PATIENCE_S):
        while (await connected.stub.GetModel(predictor_pb2.GetModelRequest(name=artefact.name))).model.sha256 != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return artefact


def deliver(models: Path, folder: Path, name: str = "tiny") -> Path:
    """Puts a folder that is complete in place of one, as documentation says; tells where the old one is now."""
    old = models / f".{name}.old"
    new = models / f".{name}.new"
    shutil.move(folder, new)
    (models / name).rename(old)
    new.rename(models / name)
    return old


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def returns() -> float:
    return metric("trail_predictor_canary_returns_total", model="next")


def stored_q(valkey: Valkey, request_id: str) -> Any:
    with valkey.client() as store:
        value = store.hget(keys("e").posterior, request_id)
    return np.array(state_pb2.StoredPosterior.FromString(value).posterior)


async def test_a_new_artefact_serves_the_next_step_of_an_open_stream_and_the_old_one_put_back_the_one_after(
    models: Path, valkey: Valkey, tmp_path: Path
) -> None:
    old = load(models / "tiny")
    retrained = artefacts.make(tmp_path / "retrained", seed=1)
    artefacts.edit(retrained, edges=OTHER_EDGES, representatives=OTHER_MIDDLES)
    async with predictor(models, valkey) as connected:
        stream = connected.stream()
        await stream.open(declaration(1), declaration(2), declaration(3))
        prefill = await stream.step(prompts=prompt_rows([1, 2]))
        await stream.step(decodes=decode_rows([1], [4]))
        q = stored_q(valkey, "r1")[None, :]

        kept = deliver(models, retrained)
        new = await until_served(connected, models / "tiny")
        row = hidden(1, seed=8)
        found = await stream.step(decodes=decode_rows([1], [6], row), declared=[declaration(4)])
        q = new.transition.advance(rebinned(q, old.bins, new.bins), np.array([2]))
        q = new.evidence.update(q, new.classifier(row, np.array([6])))
        assert list(found.handles) == [4, 1]
        assert found.mean[1] == pytest.approx(new.bins.mean(q)[0], rel=1e-3)
        assert found.initial[1] == pytest.approx(prefill.initial[0], rel=1e-6), "r1 is frozen"
        np.testing.assert_allclose(stored_q(valkey, "r1"), q[0], rtol=1e-3, atol=1e-7)

        shutil.rmtree(models / "tiny")
        kept.rename(models / "tiny")
        await until_served(connected, models / "tiny")
        row = hidden(2, seed=9)
        found = await stream.step(decodes=decode_rows([1, 3], [7, 3], row))
        assert not found.errors, "all requests live on"
        q = old.transition.advance(rebinned(q, new.bins, old.bins), np.array([1]))
        q = old.evidence.update(q, old.classifier(row[:1], np.array([7])))
        assert found.mean[0] == pytest.approx(old.bins.mean(q)[0], rel=1e-3)
        assert found.mean[1] == pytest.approx(old.bins.mean(old.classifier(row[1:], np.array([3])))[0], rel=1e-3)


async def test_no_step_and_no_request_is_lost_while_artefacts_come_and_go_under_load(
    models: Path, valkey: Valkey, tmp_path: Path
) -> None:
    handles = list(range(1, 41))
    switches = metric("trail_predictor_switches_total")
    async with predictor(models, valkey, model_poll_s=0.01) as connected:
        stream = connected.stream()
        opened = await stream.open(*map(declaration, handles))
        await stream.step(prompts=prompt_rows(handles))
        for age in range(1, 151):
            if age % 30 == 0:
                newer = artefacts.make(tmp_path / "newer", seed=age)
                shutil.rmtree(deliver(models, newer))
            answer = await stream.step(decodes=decode_rows(handles, [age] * len(handles)))
            assert sorted(answer.handles) == handles
            assert not answer.errors
            assert set(answer.ages) == {age}
            await asyncio.sleep(0.005)
        assert len(opened.predictions.handles) == len(handles)
    assert metric("trail_predictor_switches_total") - switches >= 3


async def test_a_corrupt_artefact_is_refused_with_the_old_one_still_serving(
    models: Path, valkey: Valkey, tmp_path: Path
) -> None:
    old = load(models / "tiny")
    corrupt = artefacts.make(tmp_path / "corrupt", seed=1)
    content = bytearray((corrupt / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (corrupt / "model.onnx").write_bytes(content)
    refused = metric("trail_predictor_bad_artefacts_total")
    async with predictor(models, valkey) as connected:
        stream = connected.stream()
        await stream.open(declaration(1))
        deliver(models, corrupt)
        await until(lambda: metric("trail_predictor_bad_artefacts_total") > refused, "the refusal was counted")
        row = hidden(1, seed=3)
        found = await stream.step(decodes=decode_rows([1], [5], row))
        assert found.mean[0] == pytest.approx(old.bins.mean(old.classifier(row, np.array([5])))[0], rel=1e-4)
        assert (await connected.stream("another").open()).model.sha256 == old.manifest.files.model
        health = await health_pb2_grpc.HealthStub(connected.channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert metric("trail_predictor_bad_artefacts_total") == refused + 1


async def test_a_service_without_a_model_serves_once_one_is_there(models: Path, valkey: Valkey, tmp_path: Path) -> None:
    shutil.move(models / "tiny", tmp_path / "tiny")
    async with predictor(models, valkey) as connected:
        health = health_pb2_grpc.HealthStub(connected.channel)
        request = health_pb2.HealthCheckRequest(service="model")
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        shutil.move(tmp_path / "tiny", models / "tiny")
        async with asyncio.timeout(PATIENCE_S):
            while (await health.Check(request)).status != health_pb2.HealthCheckResponse.SERVING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await connected.stream().open()).model.name == "tiny"


async def test_with_an_unknown_default_it_is_not_ready_yet_serves_what_engines_ask_for_by_name(
    models: Path, valkey: Valkey, capsys: pytest.CaptureFixture[str]
) -> None:
    async with predictor(models, valkey, default_model="tinny") as connected:
        health = health_pb2_grpc.HealthStub(connected.channel)
        for component in ("", "model"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=component))
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError, match=r"'tinny' is not loaded \(loaded: tiny\)") as refusal:
            await connected.stream().open()
        assert refusal.value.code() == grpc.StatusCode.NOT_FOUND
        assert (await connected.stream("by-name").open(model="tiny")).model.name == "tiny"
        artefacts.make(models / "tinny", name="tinny")
        request = health_pb2.HealthCheckRequest()
        async with asyncio.timeout(PATIENCE_S):
            while (await health.Check(request)).status != health_pb2.HealthCheckResponse.SERVING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await connected.stream("late").open()).model.name == "tinny"
    assert capsys.readouterr().out.count("'tinny' is not loaded (loaded: tiny)") >= 1


async def test_sighup_has_the_folders_read_where_nothing_polls(models: Path, valkey: Valkey, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "predictor_service.main", "--port", "0", "--model-poll-s", "0"]
    command += ["--model-dir", str(models), "--redis-url", valkey.url, "--redis-timeout-ms", "5000"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert child.stderr is not None
    try:
        ready = next(line for line in child.stderr if '"ready"' in line)
        address = ready.partition('"address": "')[2].partition('"')[0]
        shutil.rmtree(deliver(models, artefacts.make(tmp_path / "newer", seed=4)))
        async with client(address) as connected:
            os.kill(child.pid, signal.SIGHUP)
            await until_served(connected, models / "tiny")
    finally:
        child.kill()
        child.communicate()


async def serve_requests(stream: EngineStream, handles: list[int]) -> dict[int, float]:
    """Each is declared and prefilled and ends; what was predicted for it then, as total tokens."""
    answer = await stream.step(
        declared=[declaration(handle) for handle in handles], prompts=prompt_rows(handles, hidden(len(handles), 5))
    )
    await stream.step(finished=handles)
    return dict(zip(answer.handles, answer.median, strict=True))


async def test_outcomes_make_live_figures_of_the_artefact_that_predicted(models: Path, valkey: Valkey) -> None:
    async with predictor(models, valkey) as connected:
        stream = connected.stream()
        await stream.open()
        predicted = await serve_requests(stream, list(range(1, 41)))
        off = {handle: round(total) + (10 if handle % 2 else 200) for handle, total in predicted.items()}
        write_outcomes(valkey, "e", off)
        write_outcomes(valkey, "e", {99: 1e6})
        await until(lambda: metric("trail_predictor_live_requests", model="tiny") == 40, "40 judged requests")
        errors = [abs(off[handle] - total) for handle, total in predicted.items()]
        assert metric("trail_predictor_live_mae_tokens", model="tiny") == pytest.approx(np.mean(errors))
        assert 0 < metric("trail_predictor_live_kendall_tau", model="tiny") < 1
        aborted = await serve_requests(stream, list(range(101, 141)))
        write_outcomes(valkey, "e", aborted, reason="abort")
        again = await serve_requests(stream, [200])
        write_outcomes(valkey, "e", again)
        await until(lambda: metric("trail_predictor_live_requests", model="tiny") == 41, "one more, without aborts")


async def test_a_repeated_step_changes_nothing_in_the_live_figures(models: Path, valkey: Valkey) -> None:
    handles = list(range(1, 31))
    async with predictor(models, valkey) as connected:
        stream = connected.stream()
        await stream.open()
        predicted = await serve_requests(stream, handles)
        # As a new request each would come back, of which nothing was predicted.
        repeated = await stream.step(step=1, declared=[declaration(handle) for handle in handles])
        assert not repeated.handles
        write_outcomes(valkey, "e", predicted)
        await until(lambda: metric("trail_predictor_live_requests", model="tiny") == 30, "30 judged requests")


async def which(stream: EngineStream, handle: int, *candidates: Artefact) -> str:
    """Name of the artefact that answers a new request's prefill."""
    row = hidden(1, seed=handle)
    answer = await stream.step(declared=[declaration(handle)], prompts=prompt_rows([handle], row))
    assert list(answer.stages) == [Stage.PREFILL]
    means = {artefact.name: artefact.bins.mean(artefact.classifier(row, np.zeros(1)))[0] for artefact in candidates}
    return next(name for name, mean in means.items() if answer.mean[0] == pytest.approx(mean, rel=1e-4))


async def test_a_canary_with_worse_outcomes_goes_back_by_itself_on_every_replica_and_after_a_restart(
    models: Path, valkey: Valkey
) -> None:
    both = [load(models / "tiny"), load(artefacts.make(models / "next", name="next", seed=1))]
    trial = {"default_model": "tiny", "canary_model": "next", "canary_share": SHARE, "canary_requests": 30}
    handles = list(range(1, 31))
    before = returns()
    async with predictor(models, valkey, **trial) as connected, predictor(models, valkey, **trial) as replica:
        tried, beside, elsewhere = connected.stream(IN_TRIAL), connected.stream(BESIDE), replica.stream(ALSO_IN_TRIAL)
        assert (await tried.open()).model.name == "next"
        assert (await beside.open()).model.name == "tiny"
        assert await which(tried, 900, *both) == "next"
        assert (await elsewhere.open()).model.name == "next"
        by_name = connected.stream(f"{IN_TRIAL}-by-name")
        assert (await by_name.open(model="tiny")).model.name == "tiny"

        good = await serve_requests(beside, handles)
        poor = await serve_requests(tried, handles)
        write_outcomes(valkey, BESIDE, {handle: total + 5 for handle, total in good.items()})
        write_outcomes(valkey, IN_TRIAL, {handle: total + 300 for handle, total in poor.items()})
        await until(lambda: returns() == before + 2, "both sent it back")
        assert await which(tried, 901, *both) == "tiny"
        assert await which(beside, 901, *both) == "tiny"
        assert await which(elsewhere, 901, *both) == "tiny"
    async with predictor(models, valkey, **trial) as restarted:
        assert (await restarted.stream(IN_TRIAL, counter=2).open()).model.name == "tiny"


async def test_an_experiment_names_the_artefact_of_an_engine_for_as_long_as_it_says_so(
    models: Path, valkey: Valkey
) -> None:
    both = [load(models / "tiny"), load(artefacts.make(models / "next", name="next", seed=1))]
    artefacts.make(models / "other", name="other", layers=(1, 2))
    handles = iter(range(900, 10_000))
    async with predictor(models, valkey, default_model="tiny") as connected:
        stream, beside = connected.stream("in-it"), connected.stream("beside")
        await stream.open()
        await beside.open()

        async def until_served_by(name: str) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while await which(stream, next(handles), *both) != name:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)

        store = valkey.client()
        store.set(keys("in-it").artefact, "next", px=60_000)
        await until_served_by("next")
        assert await which(beside, next(handles), *both) == "tiny"
        # Neither what is not there nor what reads other layers is used.
        for useless in ("missing", "other"):
            store.set(keys("in-it").artefact, useless, px=60_000)
            await until_served_by("tiny")
            store.set(keys("in-it").artefact, "next", px=60_000)
            await until_served_by("next")
        store.delete(keys("in-it").artefact)
        await until_served_by("tiny")
        store.set(keys("in-it").artefact, "next", px=60_000)
        await until_served_by("next")
        valkey.stop()
        await until_served_by("tiny")


async def test_a_canary_that_cannot_serve_disturbs_nobody(models: Path, valkey: Valkey) -> None:
    artefacts.make(models / "next", name="next", layers=(1, 2))
    trial = {"default_model": "tiny", "canary_model": "next", "canary_share": SHARE}
    async with predictor(models, valkey, **trial) as connected:
        stream = connected.stream(IN_TRIAL)
        assert (await stream.open(declaration(1))).model.name == "tiny"
        good = artefacts.make(models.parent / "good", name="next", seed=1)
        refused = metric("trail_predictor_bad_artefacts_total")
        shutil.rmtree(deliver(models, good, "next"))
        await until(lambda: metric("trail_predictor_bad_artefacts_total") > refused, "the refusal was counted")
        assert await which(stream, 5, load(models / "tiny")) == "tiny", "its layers differ under a name in use"
