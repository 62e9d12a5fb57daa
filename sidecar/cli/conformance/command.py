"""What ``trail conformance`` does with its options."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence

from rich.console import Console

from sidecar.cli.conformance.service.channel import Limits
from sidecar.cli.conformance.verdict import Verdict, as_dict, show

ADAPTER = "adapter"


class MistakeError(ValueError):
    """An option cannot be used; the text says what to give instead."""


def run_conformance(
    target: str, command: Sequence[str], only: Sequence[str], timeout_s: float, limits: Limits, as_json: bool
) -> bool:
    """Plays the checks on stderr, prints the verdicts on stdout; whether all passed.

    Raises:
        MistakeError: a bad option, nobody at the address, or a command that cannot be started.
    """
    if (target == ADAPTER) != bool(command):
        raise MistakeError("give HOST:PORT of a service, or `adapter -- COMMAND...`")
    verdicts = _adapter(command, timeout_s, only) if command else _service(target, timeout_s, only, limits)
    if as_json:
        print(json.dumps(as_dict(" ".join(command) or target, verdicts), indent=1))
    else:
        show(verdicts, Console())
    return all(verdict.passed for verdict in verdicts)


def _adapter(command: Sequence[str], timeout_s: float, only: Sequence[str]) -> list[Verdict]:
    from sidecar.cli.conformance.adapter.play import check_adapter
    from sidecar.cli.conformance.adapter.scenarios import SCENARIOS

    _check_names(only, SCENARIOS)
    try:
        with Console(stderr=True).status("starting") as status:
            return asyncio.run(check_adapter(command, timeout_s, only, lambda name: status.update(f"playing {name}")))
    except OSError as error:
        raise MistakeError(f"cannot start {command[0]!r}: {error.strerror}") from None


def _service(target: str, timeout_s: float, only: Sequence[str], limits: Limits) -> list[Verdict]:
    from sidecar.cli.conformance.service.play import CHECKS, NotServedError, check_service

    _check_names(only, CHECKS)
    try:
        with Console(stderr=True).status("starting") as status:
            played = check_service(target, timeout_s, limits, only, lambda name: status.update(f"playing {name}"))
            return asyncio.run(played)
    except (NotServedError, ValueError) as error:
        raise MistakeError(f"{target}: {error}") from None


def _check_names(only: Sequence[str], known: Collection[str]) -> None:
    unknown = [name for name in only if name not in known]
    if unknown:
        raise MistakeError(f"--only {unknown[0]}: there is no such check; there are {', '.join(known)}")
