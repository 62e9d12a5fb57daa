"""The command line that ``trail serve`` gives to vLLM."""

from __future__ import annotations

import json

import pytest

from sidecar.cli.serve import ServeError, vllm_command

pytest.importorskip("vllm")


def test_every_other_flag_goes_through_and_additional_config_is_joined() -> None:
    flags = ["--max-num-seqs", "8", "--additional-config", '{"mine": 1}', "--dtype=float32"]
    command = vllm_command("model", flags, {"engine_id": "e"})
    assert command[-3:] == ["--max-num-seqs", "8", "--dtype=float32"]
    given = json.loads(command[command.index("--additional-config") + 1])
    assert given == {"mine": 1, "trail": {"engine_id": "e"}}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--scheduler-cls", "x.Y"], "--scheduler-cls"),
        (["--worker_cls=x.Y"], "--worker-cls"),
        (["--additional-config", "{"], "--additional-config"),
        (["--additional-config", "[1]"], "JSON object"),
    ],
)
def test_flags_that_would_detach_the_adapter_are_refused(flags: list[str], says: str) -> None:
    with pytest.raises(ServeError, match=says):
        vllm_command("model", flags, {})
