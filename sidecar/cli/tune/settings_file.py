"""The settings file, as ``scheduler.toml`` for ``trail scheduler --config`` and as ``scheduler.env`` for a shell's
``set -a; . scheduler.env``, for compose's ``env_file`` and for systemd's ``EnvironmentFile``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from scheduler_service.choice import PolicyChoice
from scheduler_service.settings import SchedulerSettings

TUNED = "preemption_limit", "preemption_margin", "aging_s"


def settings_of(chosen: Mapping[str, float]) -> dict[str, float | None]:
    """Every setting that was swept, those that stay as by default too; None where the scheduler decides."""
    default = PolicyChoice()
    return {name: chosen.get(name, getattr(default, name)) for name in TUNED}


def write_settings(folder: Path, chosen: Mapping[str, float], every: int, about: Iterable[str]) -> list[Path]:
    """Writes both files and names them; ``about`` are lines that say where the settings come from."""
    values = settings_of(chosen)
    comments = [" ".join(line.split()) for line in about] + _about_every(every)
    env_prefix = SchedulerSettings.model_config.get("env_prefix", "")
    env = folder / "scheduler.env"
    env.write_text(_text(comments, {f"{env_prefix}{name}".upper(): value for name, value in values.items()}, "="))
    toml = folder / "scheduler.toml"
    toml.write_text(_text(comments, values, " = "))
    return [toml, env]


def _text(comments: Iterable[str], values: Mapping[str, float | None], equals: str) -> str:
    lines = [f"# {line}" for line in comments]
    for name, value in values.items():
        unset = f"# {name} is not set: the mean service of a request decides"
        lines.append(unset if value is None else f"{name}{equals}{value:g}")
    return "\n".join(lines) + "\n"


def _about_every(every: int) -> list[str]:
    """K is no setting of the scheduler: the adapter in the engine has it."""
    if every == 1:
        return ["K = 1: the adapter's predict_every_tokens stays as it is"]
    return [
        f"K = {every} costs no more than 1 % of mean latency. It is the adapter's, in the engine's command line:",
        f'--additional-config \'{{"trail": {{..., "predict_every_tokens": {every}}}}}\'',
    ]
