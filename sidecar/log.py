"""Structured logs on stderr. A line about a request names its `engine`, its `request_id` and its trace."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Literal, TextIO, cast

import structlog

from sidecar.tracing import Span

Format = Literal["json", "console"]

_CONTEXT = "traceparent"


class _Stderr:
    """Whatever stderr is when a line is written: it may be replaced while the process lives. A line that cannot be
    written, on a full disk or to a reader that is gone, is lost: serving does not depend on it."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


_STDERR = _Stderr()


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
            _trace_ids,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if format == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: structlog.PrintLogger(cast(TextIO, _STDERR)),
        cache_logger_on_first_use=False,
    )


def like(service: str) -> Format:
    """The form that the environment asks of a service's lines, for lines of ours among them."""
    return "console" if os.environ.get(f"TRAIL_{service.upper()}_LOG_FORMAT") == "console" else "json"


def of_engine(engine_id: str) -> None:
    """Every line of this task, and of those that it starts from now on, says which engine it is about."""
    structlog.contextvars.bind_contextvars(engine=engine_id)


@contextlib.contextmanager
def within(span: Span | None) -> Iterator[None]:
    """Lines inside carry `trace_id` and `span_id`; None: the step is not traced."""
    if span is None:
        yield
        return
    with structlog.contextvars.bound_contextvars(**{_CONTEXT: span.traceparent}):
        yield


def _trace_ids(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """W3C trace context (version-trace-span-flags) as the two ids that log stores look for."""
    parts = line.pop(_CONTEXT, "").split("-")
    # It may be a client's, and anything.
    if len(parts) >= 4:
        line["trace_id"], line["span_id"] = parts[1:3]
    return line
