"""The agent's numbers for Prometheus: what its parts count anyway, put together when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.fail_open import REASONS
from engine_adapter.agent.hops import Hops
from engine_adapter.agent.link import Link
from engine_adapter.agent.living import LivingRequests
from engine_adapter.agent.plan_book import PlanBook

PREFIX = "trail_agent"
AGES_TOKENS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1023)

COUNTERS = {
    "steps": "Engine steps seen",
    "requests_declared": "Requests that arrived and were told to the services",
    "requests_finished": "Requests that ended",
    "requests_undeclared": "Requests that no service learns of, for too many are alive",
    "handle_collisions": "Requests that no service learns of, for another has their handle",
    "rows_shipped": "Hidden-state rows sent to the predictor",
    "rows_dropped": "Rows that a newer one replaced, of unknown requests, or that came while the stream was down",
    "row_records_dropped": "Whole steps of rows that did not fit into the ring",
    "row_errors": "Rows that the predictor refused",
    "predictions_received": "Predictions received",
    "degraded_answers": "Answers that the predictor gave without its store",
    "predictions_used": "Running requests in steps under a plan that rests on a prediction of theirs",
    "predictions_used_past_first_token": "Those of age 2 and more",
    "refined_predictions_used": "Those of age 2 and more whose prediction a decode step refined",
    "plans_received": "Plans received",
    "plans_rejected": "Plans of another epoch, that contradict themselves, or that came again or too late",
    "plans_applied": "Plans that the engine followed for at least one step",
    "preemptions_by_plan": "Preemptions that a plan asked for and the engine did",
    "preemptions_by_engine": "Preemptions that the engine did by itself, for want of memory",
    "finished_predictions": "Predictions whose request has ended, so that their error is known",
    "absolute_error_tokens": "Over the finished predictions: |predicted - true remaining length|",
    "outcomes_lost": "Requests that ended while no scheduler listened",
    "resynchronisations": "Times that the engine was asked to declare its requests again",
    "predictor_streams_opened": "Streams to the predictor",
    "scheduler_streams_opened": "Streams to the scheduler",
}
"""Each a field of `Counters`, and what it counts."""
_FIELD = {"absolute_error_tokens": "absolute_error_tokens_sum"}


class AgentMetrics(Collector):
    """Every series names the engine. Nothing here runs on the hot path."""

    def __init__(
        self,
        engine_id: str,
        counters: Counters,
        plans: PlanBook,
        living: LivingRequests,
        links: tuple[Link[Any, Any], ...],
        hops: Hops,
    ) -> None:
        self._engine_id = engine_id
        self._counters, self._plans, self._living, self._links, self._hops = counters, plans, living, links, hops

    def collect(self) -> Iterator[Metric]:
        for metric in self._parts():
            metric.samples = [
                sample._replace(labels={"engine": self._engine_id, **sample.labels}) for sample in metric.samples
            ]
            yield metric

    def _parts(self) -> Iterator[Metric]:
        for name, text in COUNTERS.items():
            value = getattr(self._counters, _FIELD.get(name, name))
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
        yield self._fail_open()
        yield GaugeMetricFamily(f"{PREFIX}_living_requests", "Requests that are declared", value=len(self._living))
        connected = GaugeMetricFamily(f"{PREFIX}_connected", "1 while the stream is open", labels=["link"])
        for link in self._links:
            connected.add_metric([link.name], float(link.connected))
        yield connected
        yield self._prediction_age()
        yield from self._plans.plan_age_seconds.collect()
        yield from self._hops.seconds.collect()

    def _fail_open(self) -> Metric:
        reasons = "; ".join(f"{reason}: {text}" for reason, text in REASONS.items())
        text = f"Steps with a batch and without a plan in force, by reason. {reasons}"
        steps = CounterMetricFamily(f"{PREFIX}_fail_open_steps", text, labels=["reason"])
        for reason, count in self._plans.fail_open.steps.items():
            steps.add_metric([reason], count)
        return steps

    def _prediction_age(self) -> Metric:
        up_to = np.cumsum(self._plans.age_histogram)
        buckets = [(str(float(age)), float(up_to[age])) for age in AGES_TOKENS]
        return HistogramMetricFamily(
            f"{PREFIX}_prediction_age_tokens",
            "How many tokens a request had generated since the prediction that its rank rests on was made, of each "
            "running request at each step under a plan; beyond 1024 tokens counted as 1024",
            buckets=[*buckets, ("+Inf", float(up_to[-1]))],
            sum_value=float(self._plans.age_tokens_sum),
        )
