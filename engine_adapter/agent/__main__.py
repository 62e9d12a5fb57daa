"""``python -m engine_adapter.agent``."""

import os
from collections.abc import Sequence

import uvloop

from engine_adapter.agent import process
from engine_adapter.agent.settings import AgentSettings
from engine_adapter.ring import RingError
from sidecar import log
from sidecar.dial import DialError
from sidecar.settings import load


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the agent until it is told to end; a start that cannot be exits with one line."""
    settings = load(AgentSettings, argv)
    log.configure(settings.log_level, settings.log_format)
    # What lies beside an engine is for its user alone.
    os.umask(0o077)
    try:
        uvloop.run(process.run(settings))
    except (process.StartError, RingError, DialError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
