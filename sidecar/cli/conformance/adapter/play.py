"""Plays the checks, each to an adapter of its own, and gathers what was found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sidecar.cli.conformance.adapter import faults, lives, plans
from sidecar.cli.conformance.adapter.rules import RULES, findings
from sidecar.cli.conformance.adapter.scenarios import SCENARIOS, promise
from sidecar.cli.conformance.adapter.stage import Stage
from sidecar.cli.conformance.verdict import Broken, Verdict

__all__ = ["check_adapter", "faults", "lives", "plans"]


async def check_adapter(
    command: Sequence[str], timeout_s: float, only: Sequence[str] = (), told: Callable[[str], None] = lambda _: None
) -> list[Verdict]:
    """The verdict of each check, then of each rule that holds of all streams.

    Args:
        command: what starts the adapter.
        timeout_s: how long to wait for anything that should happen.
        only: names of checks; none: all.
        told: hears of each check before it is played.

    Raises:
        OSError: the command cannot be started.
    """
    verdicts: list[Verdict] = []
    broken: dict[str, str] = {}
    messages = 0
    for name in only or SCENARIOS:
        told(name)
        stage = Stage(command, timeout_s)
        verdicts.append(await _play(name, stage))
        for life in stage.lives:
            messages += sum(len(stream.messages) for stream in [*life.predictor, *life.scheduler])
            for rule, seen in findings(life):
                broken.setdefault(rule, f"{seen} (in check {name!r})")
    for rule, expected in RULES.items():
        seen = broken.get(rule, f"{messages} messages" if messages else "no message came")
        verdicts.append(Verdict(rule, bool(messages) and rule not in broken, expected, seen))
    return verdicts


async def _play(name: str, stage: Stage) -> Verdict:
    try:
        await stage.raise_curtain()
        await SCENARIOS[name](stage)
    except Broken as error:
        return Verdict(name, False, f"{promise(name)}: {error.expected}", error.seen)
    finally:
        await asyncio.shield(stage.close())
    return Verdict(name, True, promise(name))
