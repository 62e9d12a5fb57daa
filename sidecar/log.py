"""Structured logs on stderr."""

import logging
import sys
from typing import Literal

import structlog

Format = Literal["json", "console"]


def configure(level: str = "info", format: Format = "json") -> None:
    """Sets up structlog for the process: one JSON object a line, or coloured text for a terminal.

    `level` is a name that `logging` knows. Raises ValueError for any other.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} is not one of debug, info, warning, error, critical")
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if format == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if format == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # Whatever stderr is when a line is written: it may be replaced while the process lives.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
