"""Clients that hang up while their rows are being predicted."""

import asyncio
import gc
from pathlib import Path
from typing import Any

from tests import artefacts
from tests.conftest import Valkey
from tests.integration.predictor_client import client, declaration, decode_rows, service
from trail.v1 import predictor_pb2

STREAMS, STEPS = 100, 3
_LATEST_S = 0.006


async def test_a_client_that_hangs_up_leaves_no_exception_that_nobody_asks_for(tmp_path: Path, valkey: Valkey) -> None:
    artefacts.make(tmp_path / "tiny")
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with service(tmp_path, valkey.url) as address, client(address) as engines:
        for number in range(STREAMS):
            stream = engines.stream(f"e{number}")
            await stream.open(declaration(1))
            for age in range(1, STEPS + 1):
                step = predictor_pb2.PredictStep(epoch=stream.epoch, step=age, decodes=decode_rows([1], [age]))
                await stream.call.write(predictor_pb2.StreamPredictRequest(step=step))
            # Sooner or later, so that one of them hangs up just when its answer is being written.
            await asyncio.sleep(_LATEST_S * number / STREAMS)
            stream.call.cancel()
        gc.collect()
    gc.collect()
    assert faults == []
