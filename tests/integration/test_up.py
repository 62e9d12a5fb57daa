"""``trail up`` in a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import grpc
import psutil
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.cli import stack
from sidecar.cli.demo.engine import free_port
from sidecar.cli.stack import StackError, _answers, embedded_valkey
from tests.patience import PATIENCE_S


def started(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sidecar.cli.main", "up", *flags]
    # Metrics have usual ports, which another test on this machine may want.
    metrics = {f"TRAIL_{service}_METRICS_PORT": "0" for service in ("PREDICTOR", "SCHEDULER")}
    environment = os.environ | {"COLUMNS": "200"} | metrics
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ready_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return next((line for line in process.stdout if line.startswith("ready")), "")


def serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_up_says_when_it_is_ready_and_ctrl_c_leaves_nothing_behind() -> None:
    ports = free_port(), free_port()
    process = started("--predictor-port", str(ports[0]), "--scheduler-port", str(ports[1]))
    line = ready_line(process)
    assert all(str(port) in line for port in ports)
    assert all(serving(f"127.0.0.1:{port}") for port in ports)
    for child in psutil.Process(process.pid).children():
        if "scheduler_service.main" in child.cmdline():
            child.kill()
            child.wait()
    until(lambda: serving(f"127.0.0.1:{ports[1]}"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "stopped" in out
    # The supervisor's lines too.
    told = [json.loads(line) for line in err.splitlines()]
    assert [(each["process"], each["reason"]) for each in told if each["event"] == "died"] == [
        ("scheduler", "signal 9")
    ]
    assert not any(serving(f"127.0.0.1:{port}") for port in ports)


def test_up_that_is_killed_takes_its_services_along() -> None:
    ports = free_port(), free_port()
    process = started("--predictor-port", str(ports[0]), "--scheduler-port", str(ports[1]))
    assert ready_line(process)
    process.kill()
    process.wait()
    until(lambda: not any(serving(f"127.0.0.1:{port}") for port in ports))


def test_up_on_a_port_that_is_taken_says_so() -> None:
    first_port, second_port, taken = free_port(), free_port(), free_port()
    first = started("--predictor-port", str(taken), "--scheduler-port", str(first_port))
    assert ready_line(first)
    second = started("--predictor-port", str(taken), "--scheduler-port", str(second_port))
    _, err = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 1
    assert f"trail up: cannot listen on 127.0.0.1:{taken}: Address already in use" in err
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=PATIENCE_S)


def test_the_embedded_store_comes_back_when_it_is_killed() -> None:
    with embedded_valkey() as url, redis.Redis(unix_socket_path=url.removeprefix("unix://")) as client:
        os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
        until(lambda: _answers(client))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ([sys.executable, "-c", "raise SystemExit('no such server')"], "no such server"),
        ([sys.executable, "-m", "no_such_module"], "No module named no_such_module"),
        (["/no/such/program"], "No such file or directory"),
    ],
)
def test_a_store_that_cannot_start_says_why_at_once(
    command: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "VALKEY", command)
    with pytest.raises(StackError, match=told), embedded_valkey(start_timeout_s=PATIENCE_S):
        pass
