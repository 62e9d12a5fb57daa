"""What one vLLM engine says of its steps, read where its outputs arrive."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class StepLog:
    """One entry a step that gave out tokens, and counts since the engine started."""

    at_s: list[float] = field(default_factory=list)
    """Monotonic time at which its outputs came."""
    tokens: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    """Requests in the waiting queue after it."""
    interval_s: list[float] = field(default_factory=list)
    """Time since the step before, by the engine's own clock: the median over its requests; nan: all are new."""
    preemptions: int = 0
    resumptions: int = 0
    """Looks into the prefix cache for a preempted request: more than one where it is not admitted at once."""
    resumed_tokens: int = 0
    """Tokens of the requests in those looks that the cache did not hold."""

    def add(self, scheduler: Any, iteration: Any) -> None:
        """Takes vLLM's `SchedulerStats` and `IterationStats` of one step; either may be None."""
        if scheduler is not None:
            cache = scheduler.prefix_cache_stats
            self.resumptions += cache.preempted_requests
            self.resumed_tokens += cache.preempted_queries - cache.preempted_hits
        if iteration is None:
            return
        self.preemptions += iteration.num_preempted_reqs
        if not iteration.num_generation_tokens:
            return
        gaps = iteration.inter_token_latencies_iter
        self.at_s.append(time.monotonic())
        self.tokens.append(iteration.num_generation_tokens)
        self.waiting.append(scheduler.num_waiting_reqs if scheduler is not None else 0)
        self.interval_s.append(float(np.median(gaps)) if gaps else float("nan"))

    def clear(self) -> None:
        """Starts anew."""
        for entries in (self.at_s, self.tokens, self.waiting, self.interval_s):
            entries.clear()
        self.preemptions = self.resumptions = self.resumed_tokens = 0

    @property
    def recomputed_tokens(self) -> int:
        """Tokens computed once more for requests that had been preempted: the mean of a look, for each preemption.

        Exact where the preempted are admitted at their first look; where KV blocks are short, an estimate.
        """
        return round(self.resumed_tokens * self.preemptions / self.resumptions) if self.resumptions else 0

    def tokens_until(self, end_s: float) -> int:
        """Output tokens that came before that monotonic time."""
        return int(np.array(self.tokens, np.int64)[np.array(self.at_s) < end_s].sum())

    def saturated_tokens_per_s(self) -> float:
        """Output tokens a second while requests waited for a place.

        Raises ValueError where they never did.
        """
        busy = np.flatnonzero(np.array(self.waiting) > 0)
        if len(busy) < 2:
            raise ValueError("the engine was never full: more requests or fewer slots are needed")
        first, last = busy[0], busy[-1]
        return float(sum(self.tokens[first + 1 : last + 1]) / (self.at_s[last] - self.at_s[first]))


def recorder(log: StepLog) -> type:
    """A stat logger for `AsyncLLM` that writes into `log`, in place of vLLM's Prometheus metrics.

    Those are global to a process, so that two engines in one would share them; vLLM leaves them out where a logger of
    their class is given.
    """
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class Recorder(PrometheusStatLogger):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **named: Any) -> None:
            log.add(scheduler_stats, iteration_stats)

        def log(self) -> None:
            pass

        def log_engine_initialized(self) -> None:
            pass

        def record_sleep_state(self, *states: Any, **named: Any) -> None:
            pass

    return Recorder
