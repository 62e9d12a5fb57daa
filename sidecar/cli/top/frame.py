"""Draws one frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sidecar.cli.top.figures import Engine, Experiment, Figures, Model, Predictor, Scheduler

NOTHING = Text("·", style="dim")
_WORRYING_FAIL_OPEN = 0.1
_FULL_KV = 0.95

Cell = Text | str


def frame(figures: Figures, title: str) -> RenderableType:
    """Tables of what is there, and what does not answer."""
    return Group(Text(title, style="bold"), *_tables(figures), *_unreachable(figures))


def _tables(figures: Figures) -> Iterator[RenderableType]:
    if figures.engines:
        yield _table("Queues", _QUEUE, map(_queue, figures.engines))
        yield _table("Plans and predictions", _LOOP, map(_loop, figures.engines))
    elif figures.schedulers:
        yield Text("\nno engine is connected: trail serve MODEL attaches one", style="dim")
    if figures.predictors:
        yield _table("Predictors", _PREDICTOR, map(_predictor, figures.predictors))
    if figures.schedulers:
        yield _table("Schedulers", _SCHEDULER, map(_scheduler, figures.schedulers))
    if figures.models:
        yield _table("Predictions, live (when tested)", _MODEL, map(_model, figures.models))
    if figures.experiments:
        yield _table("Experiments", _EXPERIMENT, map(_experiment, figures.experiments))


def _unreachable(figures: Figures) -> Iterator[RenderableType]:
    for fault in figures.unreachable:
        yield Text(f"\n{fault.address}: {fault.reason}", style="yellow")


_QUEUE = ("engine", "arm", "run", "wait", "longest", "margin", "memory", "latency p50")
_LOOP = ("engine", "steps/s", "no plan", "plan age", "pred. age", "error", "preempt/min", "saved", "why")
_PREDICTOR = ("predictor", "engines", "requests", "rows/s", "steps/s", "queue p99", "compute p99", "store")
_SCHEDULER = ("scheduler", "engines", "plans/s", "wait p99", "plan p99", "withheld/s", "store")
_MODEL = ("model", "requests", "error", "Kendall tau", "coverage", "canary")
_EXPERIMENT = ("experiment", "arms", "requests", "effect", "stopped")


def _queue(engine: Engine) -> Iterator[Cell]:
    yield engine.engine
    yield f"{engine.policy}/{engine.predictor}" if engine.policy else NOTHING
    yield from map(_number, (engine.running, engine.waiting))
    yield _seconds(engine.longest_wait_s)
    yield _seconds(engine.starvation_margin_s, bad=lambda margin: margin == 0)
    yield _percent(engine.kv_used, bad=lambda used: used > _FULL_KV)
    yield _seconds(engine.latency_p50_s)


def _loop(engine: Engine) -> Iterator[Cell]:
    yield engine.engine if engine.agent_answers else Text.assemble(engine.engine, (" (no agent)", "dim"))
    yield _number(engine.steps_per_s)
    yield _percent(engine.fail_open, bad=lambda share: share > _WORRYING_FAIL_OPEN)
    yield _seconds(engine.plan_age_p50_s)
    yield _number(engine.prediction_age_p50_tokens, "tok")
    yield _number(engine.error_tokens, "tok")
    yield _number(engine.preemptions_per_min)
    yield _seconds(engine.preemption_net_s, bad=lambda net: net < 0)
    yield _why(engine)


def _why(engine: Engine) -> Cell:
    """Why steps follow no plan: the streams that are missing, or what the agent found."""
    missing = f"no {', '.join(engine.missing_links)}" if engine.missing_links else engine.fail_open_reason
    return Text(missing.replace("_", " "), style="red") if missing else NOTHING


def _predictor(service: Predictor) -> Iterator[Cell]:
    yield service.address
    yield from map(_number, (service.engines, service.requests, service.rows_per_s, service.steps_per_s))
    yield from map(_seconds, (service.queue_p99_s, service.compute_p99_s))
    yield _up(service.store_up)


def _scheduler(service: Scheduler) -> Iterator[Cell]:
    yield service.address
    yield from map(_number, (service.engines, service.plans_per_s))
    yield from map(_seconds, (service.wait_p99_s, service.plan_p99_s))
    yield _number(service.withheld_per_s, bad=lambda rate: rate > 0)
    yield _up(service.store_up)


def _model(model: Model) -> Iterator[Cell]:
    tested = model.tested
    yield model.model
    yield _number(model.requests)
    yield _beside(_number(model.mae_tokens, "tok"), _number(tested["mae_tokens"]))
    yield _beside(_fraction(model.kendall_tau), _fraction(tested["kendall_tau"]))
    yield _beside(_percent(model.coverage), _percent(tested["coverage"]))
    yield model.canary or NOTHING


def _experiment(experiment: Experiment) -> Iterator[Cell]:
    yield experiment.experiment
    yield "\n".join(f"{engine}: {arm}" for engine, arm in sorted(experiment.arms.items())) or NOTHING
    yield "\n".join(f"{arm}: {requests:.0f}" for arm, requests in sorted(experiment.requests.items())) or NOTHING
    yield Text("\n").join(_effect(metric, *of) for metric, of in sorted(experiment.effects.items())) or NOTHING
    yield Text("\n".join(experiment.stopped), style="red") if experiment.stopped else NOTHING


def _effect(metric: str, estimate: float | None, low: float | None, high: float | None) -> Text:
    told = Text(f"{metric} ") + (NOTHING if estimate is None else Text(f"{estimate:+.1%}"))
    return told if low is None or high is None else told + Text(f" ({low:+.1%} to {high:+.1%})", style="dim")


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Cell]]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold cyan",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for index, column in enumerate(columns):
        # Names and words to the left, numbers to the right.
        words = index == 0 or column in ("arm", "arms", "effect", "stopped", "canary", "store", "why")
        table.add_column(column, justify="left" if words else "right", no_wrap=column != "effect")
    for row in rows:
        table.add_row(*row)
    return table


def _shown(value: float | None, text: Callable[[float], str], bad: Callable[[float], bool] | None) -> Text:
    if value is None:
        return NOTHING
    return Text(text(value), style="bold red" if bad is not None and bad(value) else "")


def _number(value: float | None, unit: str = "", bad: Callable[[float], bool] | None = None) -> Text:
    suffix = f" {unit}" if unit else ""
    return _shown(value, lambda v: (f"{v:.1f}" if 0 < abs(v) < 10 and v != round(v) else f"{v:,.0f}") + suffix, bad)


def _fraction(value: float | None) -> Text:
    return _shown(value, lambda v: f"{v:.2f}", None)


def _percent(value: float | None, bad: Callable[[float], bool] | None = None) -> Text:
    return _shown(value, lambda v: f"{v:.0%}", bad)


def _seconds(value: float | None, bad: Callable[[float], bool] | None = None) -> Text:
    return _shown(value, _duration, bad)


def _duration(seconds: float) -> str:
    size = abs(seconds)
    if math.isinf(size):
        return "∞"
    if size >= 120:
        return f"{seconds / 60:.0f} min"
    if size >= 1 or size == 0:
        return f"{seconds:.0f} s" if size >= 10 or size == 0 else f"{seconds:.1f} s"
    return f"{seconds * 1e3:.0f} ms" if size >= 0.01 else f"{seconds * 1e3:.1f} ms"


def _beside(live: Text, tested: Text) -> Text:
    return live if tested is NOTHING else Text.assemble(live, (f" ({tested.plain})", "dim"))


def _up(up: bool) -> Text:
    return Text("up", style="green") if up else Text("gone", style="bold red")
