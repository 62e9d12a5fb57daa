"""``trail serve`` as a user and a client meet it."""

from __future__ import annotations

import subprocess
import sys

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e.conftest import PROMPTS
from tests.e2e.parts import System, statistics, until
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.vllm


def test_a_chat_completion_is_answered_and_predicted(system: System) -> None:
    before = statistics()["counters"]["predictions_received"]
    answer = httpx.post(
        f"{system.engine.url}/v1/chat/completions",
        json={"model": "smollm2", "messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 16},
        timeout=PATIENCE_S,
    )
    assert answer.is_success, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    until(lambda: statistics()["counters"]["predictions_received"] > before, "predictions come")


def test_reflection_lists_the_services(system: System) -> None:
    for service, names in (
        (system.predictor, {"trail.v1.PredictorService"}),
        (system.scheduler, {"trail.v1.SchedulerService", "trail.v1.SchedulerAdminService"}),
    ):
        with grpc.insecure_channel(service.address) as channel:
            listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
        assert names | {"grpc.health.v1.Health"} <= listed


def test_the_wait_for_a_missing_predictor_ends_with_what_to_do(model: object) -> None:
    command = [sys.executable, "-m", "sidecar.cli.main", "serve", str(model), "--predictor", "127.0.0.1:9"]
    run = subprocess.run([*command, "--wait-s", "1"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert run.returncode == 2
    assert "no predictor service at 127.0.0.1:9" in run.stderr
    assert "Traceback" not in run.stderr
