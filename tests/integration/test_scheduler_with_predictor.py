"""Both services and the store, as they really are: hidden states in, plans by their predictions out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np

from predictor_service import main as predictor
from predictor_service.settings import PredictorSettings
from tests import artefacts
from tests.conftest import Valkey
from tests.integration.scheduler_engine import Predictor, declared, engine, running_scheduler
from tests.patience import PATIENCE_S
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc

ENGINE = "engine-both"
DIM = 16


@contextlib.asynccontextmanager
async def running_predictor(valkey: Valkey, folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    artefacts.make(folder / "tiny", hidden_size=DIM)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settings = PredictorSettings(port=0, redis_url=valkey.url, model_dir=[folder], drain_timeout_s=1.0)
    serving = asyncio.create_task(predictor.run(settings, ready=port.set_result))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await asyncio.wait_for(port, PATIENCE_S)}") as channel:
            yield channel
    finally:
        serving.cancel()
        await asyncio.wait([serving])


def decode_step(epoch: engine_pb2.Epoch, step: int, handles: list[int]) -> predictor_pb2.PredictStep:
    """Random hidden states of these requests, all `step` tokens old."""
    hidden = np.random.default_rng(step).standard_normal((len(handles), DIM)).astype(np.float16)
    vectors = engine_pb2.Vectors(data=hidden.tobytes(), dtype=engine_pb2.DTYPE_FLOAT16, rows=len(handles), dim=DIM)
    rows = predictor_pb2.DecodeRows(handles=handles, ages=[step] * len(handles), last=vectors)
    return predictor_pb2.PredictStep(epoch=epoch, step=step, decodes=rows)


async def test_plans_follow_what_the_predictor_says_of_hidden_states(valkey: Valkey, tmp_path: Path):
    handles = [1, 2, 3, 4]
    async with (
        running_predictor(valkey, tmp_path) as predictor_channel,
        running_scheduler(valkey, aging="none", preemption_margin=0.0) as scheduler_channel,
        engine(scheduler_channel, ENGINE, slots=8, handles=tuple(handles)) as connected,
    ):
        await Predictor(valkey, ENGINE).listened_to()
        stream = predictor_pb2_grpc.PredictorServiceStub(predictor_channel).StreamPredict()
        opening = predictor_pb2.OpenPredict(
            engine_id=ENGINE, epoch=connected.epoch, dtype=engine_pb2.DTYPE_FLOAT16, dim=DIM,
            requests=[declared(handle, prompt_token_ids=[handle] * 10) for handle in handles],
        )  # fmt: skip
        await stream.write(predictor_pb2.StreamPredictRequest(open=opening))
        assert (await stream.read()).HasField("opened")
        for step in range(1, 6):
            await connected.step(dict.fromkeys(handles, step))
            message = decode_step(connected.epoch, step, handles)
            await stream.write(predictor_pb2.StreamPredictRequest(step=message))
            told = (await stream.read()).predictions
            # trail: whoever reached 0.8 * r first, then by what remains.
            preemptible = (step < 0.8 * np.array(told.initial)).tolist()
            expected = sorted(zip(preemptible, told.median, told.handles, strict=True))
            plan = await connected.plan(
                lambda plan, step=step: plan.step == step and set(plan.predicted_at_ages) == {step},
                f"a plan by the predictions of step {step}",
            )
            assert list(plan.handles) == [handle for _, _, handle in expected]
            assert told.stages[0] == predictor_pb2.STAGE_DECODE
            assert not told.degraded
