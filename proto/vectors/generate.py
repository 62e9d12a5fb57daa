"""Writes the byte-exact vectors beside this file: `python proto/vectors/generate.py [FOLDER]`.

Each is one message: its full name, its canonical JSON form, and the bytes that every implementation writes for it,
in hexadecimal digits. Fields are in the order of their numbers, and what has its default value is not there.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from trail.v1 import engine_pb2 as engine
from trail.v1 import predictor_pb2 as predictor
from trail.v1 import scheduler_pb2 as scheduler
from trail.v1 import state_pb2 as state

LARGEST = 2**64 - 1
EPOCH = engine.Epoch(incarnation=0x0123456789ABCDEF, counter=3)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST = engine.RequestDeclaration(
    handle=LARGEST,
    request_id="anfrage-ü-要求",
    prompt_token_ids=[0, 1, 127, 128, 16384, 2**32 - 1],
    prompt_tokens=6,
    age_tokens=300,
    arrival_time_s=1792243200.125,
    priority=-1,
    tenant="acme",
    deadline_s=1792243260.0,
    max_tokens=1024,
    declared_output_tokens=77,
)
FLOAT16 = engine.Vectors(data=struct.pack("<4e", 1.0, -2.0, 0.5, 65504.0), dtype=engine.DTYPE_FLOAT16, rows=2, dim=2)
BFLOAT16 = engine.Vectors(data=bytes.fromhex("803f00c0"), dtype=engine.DTYPE_BFLOAT16, rows=1, dim=2)
FLOAT32 = engine.Vectors(
    data=struct.pack("<2f", float("nan"), float("-inf")), dtype=engine.DTYPE_FLOAT32, rows=1, dim=2
)
PREDICTIONS = predictor.StepPredictions(
    epoch=EPOCH,
    step=7,
    handles=[LARGEST, 1],
    ages=[0, 300],
    stages=[predictor.STAGE_PREFILL, predictor.STAGE_DECODE],
    mean=[0.1, 128.5],
    median=[0.0, 100.0],
    p10=[0.0, 1e-30],
    p90=[1e30, 300.25],
    initial=[12.0, 400.0],
    errors=[predictor.RowError(handle=9, status=predictor.ROW_STATUS_UNKNOWN_HANDLE, message="no such request")],
    degraded=True,
)
PLAN = scheduler.EnginePlan(
    epoch=EPOCH,
    number=2,
    step=7,
    ttl_ms=1000,
    handles=[LARGEST, 1],
    ranks=[0.25, 3.5],
    predicted_at_ages=[2**32 - 1, 300],
    preemptions=[scheduler.Preemption(victim=1, only_if_age_below=320, beneficiary=LARGEST)],
    policy="trail",
    traceparent=TRACE,
    reserve_kv_blocks=12,
    admit_together=5,
)
CAPACITY = scheduler.EngineCapacity(
    max_running_requests=256, kv_blocks=10_000, kv_block_tokens=16, step_token_budget=8192
)
OUTCOME = scheduler.Outcome(
    handle=1, reason=scheduler.FINISH_REASON_LENGTH, output_tokens=1024, latency_s=12.5, time_to_first_token_s=0.25,
    preemptions=1, recomputed_tokens=340,
)  # fmt: skip

VECTORS: Mapping[str, Mapping[str, Message]] = {
    "engine": {
        "epoch": EPOCH,
        "epoch of nobody": engine.Epoch(),
        "declaration": REQUEST,
        "declaration of a bare request": engine.RequestDeclaration(handle=1, request_id="a"),
        "vectors of float16": FLOAT16,
        "vectors of bfloat16": BFLOAT16,
        "vectors with NaN and infinity": FLOAT32,
    },
    "predictor": {
        "open": predictor.StreamPredictRequest(
            open=predictor.OpenPredict(
                engine_id="engine-0", epoch=EPOCH, model="smollm2-135m-instruct", dtype=engine.DTYPE_FLOAT16, dim=2304,
                requests=[REQUEST], projection="0123456789abcdef",
            )
        ),
        "step": predictor.StreamPredictRequest(
            step=predictor.PredictStep(
                epoch=EPOCH, step=LARGEST, declared=[REQUEST],
                prompts=predictor.PromptRows(handles=[LARGEST], last=BFLOAT16),
                decodes=predictor.DecodeRows(handles=[1, 2], ages=[1, 300], last=FLOAT16),
                finished=[3], traceparent=TRACE,
            )
        ),
        "step with nothing in it": predictor.StreamPredictRequest(step=predictor.PredictStep()),
        "opened": predictor.StreamPredictResponse(
            opened=predictor.PredictOpened(
                epoch=EPOCH, restored=1, predictions=predictor.StepPredictions(epoch=EPOCH),
                model=predictor.Model(
                    name="m", served_model="llm", layers=[6, 12, 18, 24], dim=2304, dtype=engine.DTYPE_FLOAT16,
                    bin_edges=[0.0, 32.0, 64.0], bin_representatives=[15.5, 47.25, 200.0], sha256="ab" * 32,
                    projection=predictor.Projection(id="0123456789abcdef", dim=512),
                ),
            )
        ),
        "predictions": predictor.StreamPredictResponse(predictions=PREDICTIONS),
        "put": predictor.PutPredictionRequest(
            engine_id="engine-0", request_id="a", output_tokens=120.5, standard_error_tokens=30.0
        ),
        "forget": predictor.ForgetRequest(engine_id="engine-0", request_ids=["a", ""]),
    },
    "scheduler": {
        "open": scheduler.CoordinateRequest(
            open=scheduler.OpenCoordinate(engine_id="engine-0", epoch=EPOCH, capacity=CAPACITY, requests=[REQUEST])
        ),
        "delta": scheduler.CoordinateRequest(
            delta=scheduler.StateDelta(
                epoch=EPOCH, step=7, step_duration_s=0.0125, arrived=[REQUEST],
                running=scheduler.RunningRequests(handles=[1, 2], ages=[0, 300], computed_tokens=[0, 512]),
                preempted=[2], finished=[OUTCOME], free_kv_blocks=4096, engine_steps=2, traceparent=TRACE,
            )
        ),
        "delta of an idle engine": scheduler.CoordinateRequest(
            delta=scheduler.StateDelta(epoch=EPOCH, step=8, running=scheduler.RunningRequests())
        ),
        "opened": scheduler.CoordinateResponse(
            opened=scheduler.CoordinateOpened(
                epoch=EPOCH,
                policy=scheduler.PolicySettings(
                    policy="trail", predictor="per_step", preemption_limit=0.8, preemption_margin=0.0,
                    max_preemptions=0, aging="exponential", aging_s=-1.0, overtaking_s=60.0, preemption_ratio=4.0,
                    least_preemption_limit=-1.0, deadline_slack_s=0.0, fair_share=0.0,
                ),
            )
        ),
        "plan": scheduler.CoordinateResponse(plan=PLAN),
        "plan that orders nothing": scheduler.CoordinateResponse(plan=scheduler.EnginePlan(epoch=EPOCH, ttl_ms=1)),
        "plan of one state": scheduler.PlanRequest(
            capacity=CAPACITY, policy=scheduler.PolicySettings(policy="srpt"), waiting=[REQUEST],
            running=[engine.RequestDeclaration(handle=1, request_id="a")], remaining_tokens=[1.5, 2.5],
        ),
    },
    "state": {
        "posterior": state.StoredPosterior(
            handle=1, step=7, age_tokens=300, stage=predictor.STAGE_DECODE, r0=110.0, r1=400.0, mean=128.5,
            median=100.0, p10=12.0, p90=300.25, posterior=[0.5, 0.25, 0.25], model="m",
        ),
        "published": state.PublishedPredictions(epoch=EPOCH, number=1, predictions=PREDICTIONS, traceparent=TRACE),
    },
}  # fmt: skip


def vector(name: str, message: Message) -> dict[str, object]:
    """One vector as it stands in the file."""
    return {
        "name": name,
        "message": message.DESCRIPTOR.full_name,
        "json": MessageToDict(message),
        "hex": message.SerializeToString(deterministic=True).hex(),
    }


def write(folder: Path) -> None:
    """One file for each of the contract's."""
    for file, messages in VECTORS.items():
        vectors = [vector(name, message) for name, message in messages.items()]
        (folder / f"{file}.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
