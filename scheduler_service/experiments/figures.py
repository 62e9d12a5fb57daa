"""What can be measured of a block, and how two blocks are compared by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scheduler_service.experiments.tally import Tally


@dataclass(frozen=True, slots=True)
class Figure:
    """`of` takes a block's tally and its measured seconds; None where the block has nothing to tell.

    A `relative` figure is compared by the logarithm of the ratio of two blocks, any other by their difference.
    """

    name: str
    title: str
    unit: str
    of: Callable[[Tally, float], float | None]
    relative: bool = True
    less_is_better: bool = True

    def difference(self, treated: float, control: float) -> float | None:
        """log(treated / control), or treated - control; None where a ratio cannot be had."""
        if not self.relative:
            return treated - control
        return math.log(treated / control) if treated > 0 and control > 0 else None

    def effect(self, difference: float) -> float:
        """A mean difference as people say it: a share of control's (0.1: 10 % more), or in the figure's unit."""
        return math.expm1(min(difference, 700.0)) if self.relative else difference

    def worse(self, difference: float) -> bool:
        return difference > 0 if self.less_is_better else difference < 0


def _share(count: Callable[[Tally], int]) -> Callable[[Tally, float], float | None]:
    return lambda tally, _: count(tally) / tally.requests if tally.requests else None


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("mean_latency", "mean latency", "s", lambda t, _: t.latency_s.mean),
        Figure("p50_latency", "p50 latency", "s", lambda t, _: t.latency_s.quantile(0.5)),
        Figure("p95_latency", "p95 latency", "s", lambda t, _: t.latency_s.quantile(0.95)),
        Figure("p99_latency", "p99 latency", "s", lambda t, _: t.latency_s.quantile(0.99)),
        Figure("mean_ttft", "mean time to first token", "s", lambda t, _: t.ttft_s.mean),
        Figure("p99_ttft", "p99 time to first token", "s", lambda t, _: t.ttft_s.quantile(0.99)),
        Figure("mean_slowdown", "mean latency by output tokens", "s/token", lambda t, _: t.slowdown_s.mean),
        Figure("throughput", "output tokens", "tokens/s", lambda t, s: t.finished_tokens / s, less_is_better=False),
        Figure("preemptions", "preemptions", "a request", _share(lambda t: t.preemptions), relative=False),
        Figure("recomputed", "recomputed tokens", "a request", _share(lambda t: t.recomputed_tokens), relative=False),
        Figure("error_rate", "errors", "of requests", _share(lambda t: t.errors), relative=False),
        Figure("abort_rate", "aborts", "of requests", _share(lambda t: t.aborts), relative=False),
    )
}
