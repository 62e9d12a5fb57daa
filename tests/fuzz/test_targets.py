"""A short run of each target without guidance, and inputs that once broke one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.fuzz.targets import Target, Targets

INPUTS = 150
NAMES = (
    "predictor_stream", "scheduler_stream", "scheduler_plan", "policy", "experiment", "ring", "ring_records", "board",
    "predictions_channel", "stored_records", "manifest", "redis_url", "trace", "access_file",
)  # fmt: skip


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    with Targets() as found:
        yield found


def test_every_target_is_tried(targets: dict[str, Target]) -> None:
    assert set(NAMES) == set(targets)


@pytest.mark.parametrize("name", NAMES)
def test_random_bytes_raise_nothing_but_what_callers_are_told(targets: dict[str, Target], name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(INPUTS):
        targets[name](rng.bytes(int(rng.integers(0, 2000))))
