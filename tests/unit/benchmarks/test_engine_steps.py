"""What is read off an engine's steps: its capacity, its preemptions, what one step takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.engine_counts import StepLog
from benchmarks.overhead import sample_of
from benchmarks.power import EnergyMeter


def stats(waiting: int, queries: int = 0, hits: int = 0) -> Any:
    cache = SimpleNamespace(preempted_requests=int(queries > 0), preempted_queries=queries, preempted_hits=hits)
    return SimpleNamespace(num_waiting_reqs=waiting, prefix_cache_stats=cache)


def iteration(tokens: int, gaps: list[float], preempted: int = 0) -> Any:
    return SimpleNamespace(
        num_generation_tokens=tokens, inter_token_latencies_iter=gaps, num_preempted_reqs=preempted
    )  # fmt: skip


def test_the_capacity_counts_only_steps_while_requests_waited() -> None:
    log = StepLog()
    log.at_s, log.tokens, log.waiting = [0.0, 1.0, 2.0, 3.0, 4.0], [4, 8, 8, 8, 1], [0, 3, 2, 1, 0]
    assert log.saturated_tokens_per_s() == pytest.approx(8.0)
    assert log.tokens_until(2.5) == 20
    log.waiting = [0] * 5
    with pytest.raises(ValueError, match="never full"):
        log.saturated_tokens_per_s()


def test_looks_at_the_cache_that_admitted_nobody_are_not_recomputed_tokens() -> None:
    log = StepLog()
    log.add(stats(1, queries=100, hits=60), None)
    log.add(stats(1, queries=100, hits=60), iteration(3, [0.01, 0.02, 0.03], preempted=1))
    log.add(stats(0), iteration(0, []))
    assert (log.preemptions, log.resumptions, log.recomputed_tokens) == (1, 2, 40)
    assert log.interval_s == [0.02]
    log.clear()
    assert (log.recomputed_tokens, log.tokens) == (0, [])


def test_a_step_time_is_of_steps_with_the_whole_batch_but_for_those_at_the_ends() -> None:
    intervals = [9.0] * 11 + [0.002] * 30 + [9.0] * 11
    tokens = [3] + [4] * 50 + [1]
    at_s = [float(step) for step in range(52)]
    sample = sample_of(tokens, intervals, at_s, 4, EnergyMeter())
    assert (sample.step_ms, sample.steps, sample.tokens) == (2.0, 30, 4 * 29)
    with pytest.raises(RuntimeError, match="all 5 requests"):
        sample_of(tokens, intervals, at_s, 5, EnergyMeter())
