import math

from sidecar.cli.top.figures import Figures
from sidecar.cli.top.reading import figures
from sidecar.cli.top.samples import Interval, Samples
from tests.unit.cli.top.metrics_text import AGENT, PREDICTOR, SCHEDULER


def read(*texts: str) -> Figures:
    nothing = Samples("", 0.0)
    return figures({f"host:{index}": Interval(nothing, Samples(text, 10.0)) for index, text in enumerate(texts)})


def test_an_engine_is_what_its_scheduler_and_its_agent_say_of_it() -> None:
    (engine,) = read(SCHEDULER, AGENT).engines
    assert (engine.engine, engine.policy, engine.predictor) == ("e", "trail", "per_step")
    assert (engine.running, engine.waiting, engine.longest_wait_s) == (8, 4, 3.5)
    assert (engine.starvation_margin_s, engine.kv_used) == (math.inf, None)
    assert (engine.steps_per_s, engine.plans_per_s, engine.preemptions_per_min) == (100.0, 10.0, 36.0)
    assert (engine.fail_open, engine.fail_open_reason) == (0.11, "plan_expired")
    assert (engine.error_tokens, engine.preemption_net_s) == (30.0, -2.0)
    assert engine.missing_links == ("predictor",)


def test_an_engine_is_shown_by_what_one_of_both_knows() -> None:
    (planned,), (served,) = read(SCHEDULER).engines, read(AGENT).engines
    assert (planned.running, planned.agent_answers, planned.steps_per_s) == (8, False, None)
    assert (served.running, served.agent_answers, served.steps_per_s) == (None, True, 100.0)


def test_services_are_known_by_what_they_serve() -> None:
    found = read(PREDICTOR, SCHEDULER, AGENT)
    (predictor,), (scheduler,) = found.predictors, found.schedulers
    assert (predictor.address, predictor.rows_per_s, predictor.store_up) == ("host:0", 500.0, False)
    assert predictor.queue_p99_s is not None
    assert 0.009 < predictor.queue_p99_s < 0.01
    assert (scheduler.address, scheduler.engines, scheduler.store_up) == ("host:1", 1, True)


def test_models_are_told_with_what_they_promised_and_what_becomes_of_the_canary() -> None:
    live, canary = read(PREDICTOR).models
    assert (live.model, live.requests, live.mae_tokens, live.tested["mae_tokens"]) == ("m", 300, 70, 61)
    assert (canary.model, canary.canary, canary.requests) == ("n", "on trial", None)


def test_an_experiment_is_told_with_its_arms_effects_and_stops() -> None:
    (experiment,) = read(SCHEDULER).experiments
    assert experiment.arms == {"e": "treatment"}
    assert experiment.requests == {"control": 42}
    assert experiment.effects == {"treatment latency": (-0.1, -0.2, 0.0)}
    assert experiment.stopped == ("treatment by p99",)


def test_nobody_is_nothing() -> None:
    assert read() == Figures()
