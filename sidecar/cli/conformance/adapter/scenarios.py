"""The registry of checks on an adapter: name -> what it plays. Its docstring is the promise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sidecar.cli.conformance.adapter.stage import Stage

Scenario = Callable[[Stage], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Registers a check under a name."""

    def register(played: Scenario) -> Scenario:
        SCENARIOS[name] = played
        return played

    return register


def promise(name: str) -> str:
    """What the check promises, in one line."""
    return " ".join((SCENARIOS[name].__doc__ or "").split()).rstrip(".")
