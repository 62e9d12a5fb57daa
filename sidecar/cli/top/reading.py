"""Reads figures out of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sidecar.cli.top.figures import Engine, Experiment, Figures, Model, Predictor, Scheduler
from sidecar.cli.top.samples import Interval
from sidecar.cli.top.scrape import Fault

Intervals = Iterable[Interval]
_LIVE = ("mae_tokens", "kendall_tau", "coverage")


def figures(answered: Mapping[str, Interval], faults: Iterable[Fault] = ()) -> Figures:
    """All of it, from whoever answered: what an address serves tells what it is."""
    predictors = {at: each for at, each in answered.items() if "trail_predictor_streams" in each.now}
    schedulers = {at: each for at, each in answered.items() if "trail_scheduler_streams" in each.now}
    agents = [each for each in answered.values() if "trail_agent_steps_total" in each.now]
    return Figures(
        engines=tuple(_engines(schedulers.values(), agents)),
        predictors=tuple(_predictor(at, each) for at, each in predictors.items()),
        schedulers=tuple(_scheduler(at, each) for at, each in schedulers.items()),
        models=tuple(_models(predictors.values())),
        experiments=tuple(_experiments(schedulers.values())),
        unreachable=tuple(faults),
    )


def _engines(schedulers: Intervals, agents: Intervals) -> Iterable[Engine]:
    planned = {name: each for each in schedulers for name in each.now.values_of("engine", "trail_scheduler_requests")}
    served = {name: each for each in agents for name in each.now.values_of("engine", "trail_agent_steps_total")}
    for name in sorted(planned.keys() | served.keys()):
        seen = _by_scheduler(name, planned[name]) if name in planned else {}
        seen |= _by_agent(name, served[name]) if name in served else {}
        yield Engine(name, **seen)  # type: ignore[arg-type]


def _by_scheduler(name: str, at: Interval) -> dict[str, object]:
    now, prefix = at.now, "trail_scheduler"
    arm = next((labels for labels, value in now.of(f"{prefix}_arm", engine=name) if value), {})
    won, lost = (now.value(f"{prefix}_preemption_seconds_total", engine=name, verdict=v) for v in ("paid", "unpaid"))
    return {
        "policy": arm.get("policy"),
        "predictor": arm.get("predictor"),
        "running": now.value(f"{prefix}_running_requests", engine=name),
        "waiting": now.value(f"{prefix}_waiting_requests", engine=name),
        "longest_wait_s": now.value(f"{prefix}_longest_wait_seconds", engine=name),
        "starvation_margin_s": now.value(f"{prefix}_starvation_margin_seconds", engine=name),
        "kv_used": now.value(f"{prefix}_kv_used_ratio", engine=name),
        "plans_per_s": at.rate(f"{prefix}_plans_total", engine=name),
        "latency_p50_s": at.quantile(0.5, f"{prefix}_request_latency_seconds", engine=name),
        "preemption_net_s": None if won is None or lost is None else won - lost,
    }


def _by_agent(name: str, at: Interval) -> dict[str, object]:
    prefix = "trail_agent"
    reasons = at.now.values_of("reason", f"{prefix}_fail_open_steps_total")
    rates = {reason: at.rate(f"{prefix}_fail_open_steps_total", engine=name, reason=reason) or 0 for reason in reasons}
    main = max(rates, key=rates.__getitem__, default="")
    errors = at.now.value(f"{prefix}_absolute_error_tokens_total", engine=name)
    judged = at.now.value(f"{prefix}_finished_predictions_total", engine=name)
    preempted = [at.rate(f"{prefix}_preemptions_by_{who}_total", engine=name) for who in ("plan", "engine")]
    return {
        "agent_answers": True,
        "steps_per_s": at.rate(f"{prefix}_steps_total", engine=name),
        "fail_open": at.share(f"{prefix}_fail_open_steps_total", f"{prefix}_steps_total", engine=name),
        "fail_open_reason": main if rates.get(main) else None,
        "plan_age_p50_s": at.quantile(0.5, f"{prefix}_plan_age_seconds", engine=name),
        "prediction_age_p50_tokens": at.quantile(0.5, f"{prefix}_prediction_age_tokens", engine=name),
        "error_tokens": errors / judged if errors is not None and judged else None,
        "preemptions_per_min": None if None in preempted else 60 * sum(filter(None, preempted)),
        "missing_links": tuple(
            labels["link"].removesuffix("_link")
            for labels, value in at.now.of(f"{prefix}_connected", engine=name)
            if not value
        ),
    }


def _predictor(address: str, at: Interval) -> Predictor:
    prefix = "trail_predictor"
    return Predictor(
        address,
        engines=at.now.value(f"{prefix}_streams"),
        requests=at.now.value(f"{prefix}_posteriors"),
        rows_per_s=at.rate(f"{prefix}_rows_total"),
        steps_per_s=at.rate(f"{prefix}_steps_total"),
        queue_p99_s=at.quantile(0.99, f"{prefix}_step_seconds", part="queue"),
        compute_p99_s=at.quantile(0.99, f"{prefix}_step_seconds", part="compute"),
        store_up=at.now.value(f"{prefix}_store_up") == 1,
    )


def _scheduler(address: str, at: Interval) -> Scheduler:
    prefix = "trail_scheduler"
    return Scheduler(
        address,
        engines=at.now.value(f"{prefix}_streams"),
        plans_per_s=at.rate(f"{prefix}_plans_total") if f"{prefix}_plans_total" in at.now else 0.0,
        wait_p99_s=at.quantile(0.99, f"{prefix}_plan_wait_seconds"),
        plan_p99_s=at.quantile(0.99, f"{prefix}_plan_seconds"),
        withheld_per_s=at.rate(f"{prefix}_plans_withheld_total"),
        store_up=at.now.value(f"{prefix}_store_up") == 1,
    )


def _models(predictors: Intervals) -> Iterable[Model]:
    prefix = "trail_predictor"
    told = {
        model: each.now
        for each in predictors
        for name in ("live_requests", "canary")
        for model in each.now.values_of("model", f"{prefix}_{name}")
    }
    for model, now in sorted(told.items()):
        live, tested = (
            {
                name: now.value(f"{prefix}_{kind}_{name}", model=model)
                for name in ("mae_tokens", "kendall_tau", "coverage")
            }
            for kind in ("live", "test")
        )
        states = (labels[f"{prefix}_canary"] for labels, value in now.of(f"{prefix}_canary", model=model) if value)
        requests = now.value(f"{prefix}_live_requests", model=model)
        yield Model(model, requests, **live, tested=tested, canary=next(states, None))


def _experiments(schedulers: Intervals) -> Iterable[Experiment]:
    prefix, schedulers = "trail_scheduler_experiment", list(schedulers)
    names = {
        name
        for each in schedulers
        for metric in ("arm", "requests_total", "effect")
        for name in each.now.values_of("experiment", f"{prefix}_{metric}")
    }
    for name in sorted(names):
        seen = [each.now for each in schedulers]
        arms = {at["engine"]: at["arm"] for now in seen for at, on in now.of(f"{prefix}_arm", experiment=name) if on}
        requests: dict[str, float] = {}
        effects: dict[str, dict[str, float]] = {}
        stopped: set[str] = set()
        for now in seen:
            for labels, value in now.of(f"{prefix}_requests_total", experiment=name):
                requests[labels["arm"]] = requests.get(labels["arm"], 0.0) + value
            for labels, value in now.of(f"{prefix}_effect", experiment=name):
                effects.setdefault(f"{labels['arm']} {labels['metric']}", {})[labels["bound"]] = value
            for labels, value in now.of(f"{prefix}_guardrail_stops_total", experiment=name):
                stopped |= {f"{labels['arm']} by {labels['guardrail']}"} if value else set()
        told = {metric: (of.get("estimate"), of.get("low"), of.get("high")) for metric, of in effects.items()}
        yield Experiment(name, arms, requests, told, tuple(sorted(stopped)))
