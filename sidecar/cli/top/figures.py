"""What one frame shows. None: not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.cli.top.scrape import Fault


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine, as its scheduler and its agent see it. Times in seconds, shares 0 to 1."""

    engine: str
    policy: str | None = None
    predictor: str | None = None
    running: float | None = None
    waiting: float | None = None
    longest_wait_s: float | None = None
    starvation_margin_s: float | None = None
    kv_used: float | None = None
    plans_per_s: float | None = None
    latency_p50_s: float | None = None
    agent_answers: bool = False
    steps_per_s: float | None = None
    fail_open: float | None = None
    fail_open_reason: str | None = None
    plan_age_p50_s: float | None = None
    prediction_age_p50_tokens: float | None = None
    error_tokens: float | None = None
    preemptions_per_min: float | None = None
    preemption_net_s: float | None = None
    missing_links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Predictor:
    """One predictor service."""

    address: str
    engines: float | None
    requests: float | None
    rows_per_s: float | None
    steps_per_s: float | None
    queue_p99_s: float | None
    compute_p99_s: float | None
    store_up: bool


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One scheduler service."""

    address: str
    engines: float | None
    plans_per_s: float | None
    wait_p99_s: float | None
    plan_p99_s: float | None
    withheld_per_s: float | None
    store_up: bool


@dataclass(frozen=True, slots=True)
class Model:
    """One artefact's live figures, and in `tested` the same on its own test data."""

    model: str
    requests: float | None
    mae_tokens: float | None
    kendall_tau: float | None
    coverage: float | None
    tested: Mapping[str, float | None]
    canary: str | None


@dataclass(frozen=True, slots=True)
class Experiment:
    """Arms that serve now, requests that ended in each, effects by arm and metric (estimate, low, high), and stops."""

    experiment: str
    arms: Mapping[str, str]
    requests: Mapping[str, float]
    effects: Mapping[str, tuple[float | None, float | None, float | None]]
    stopped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """One frame."""

    engines: tuple[Engine, ...] = ()
    predictors: tuple[Predictor, ...] = ()
    schedulers: tuple[Scheduler, ...] = ()
    models: tuple[Model, ...] = ()
    experiments: tuple[Experiment, ...] = ()
    unreachable: tuple[Fault, ...] = ()
