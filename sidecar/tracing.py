"""Traces of single engine steps across processes: OpenTelemetry's spans, joined by W3C trace context.

OpenTelemetry is an optional extra, imported only where a process traces. Spans leave from a bounded queue in a thread
of their own: a collector that is slow or gone costs spans, never a step. Times are those of ``time.perf_counter()``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import structlog

if TYPE_CHECKING:
    from opentelemetry import context, trace

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_S = 1.0
"""What a process that ends gives the collector to take the last spans."""

T = TypeVar("T")


class Span:
    """One part of a traced step. This one is of a process that exports nothing: it hands on the context that came."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    def child(self, name: str, begin_s: float | None = None) -> Span:
        """A part of this part, from ``begin_s`` or now on."""
        return self

    def end(self, end_s: float | None = None, *, fault: str = "") -> None:
        """Ends it, now if not told otherwise; one that does not end is never seen."""


class _Recorded(Span):
    def __init__(self, span: trace.Span, tracer: trace.Tracer) -> None:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        self._span, self._tracer, self._context = span, tracer, set_span_in_context(span)
        TraceContextTextMapPropagator().inject(carrier, self._context)
        super().__init__(carrier["traceparent"])

    def child(self, name: str, begin_s: float | None = None) -> Span:
        return _Recorded(self._tracer.start_span(name, self._context, start_time=_unix_ns(begin_s)), self._tracer)

    def end(self, end_s: float | None = None, *, fault: str = "") -> None:
        if fault:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, fault)
        self._span.end(_unix_ns(end_s))


class Tracing:
    """Begins traces, or goes on with those that others began. Without a tracer nothing is recorded."""

    def __init__(self, tracer: trace.Tracer | None = None) -> None:
        self._tracer = tracer

    @property
    def enabled(self) -> bool:
        return self._tracer is not None

    def sample(self, name: str, begin_s: float, **attributes: str | int) -> Span | None:
        """The first span of a new trace; None where this one is not drawn."""
        return self._started(name, None, begin_s, attributes)

    def follow(self, name: str, traceparent: str, begin_s: float | None = None) -> Span:
        """What a span of another process leads to here; recorded where that one is."""
        if self._tracer is None:
            return Span(traceparent)
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
        return self._started(name, parent, begin_s, {}) or Span(traceparent)

    def _started(
        self, name: str, parent: context.Context | None, begin_s: float | None, attributes: dict[str, str | int]
    ) -> Span | None:
        from opentelemetry.trace import SpanKind

        if self._tracer is None:
            return None
        kind = SpanKind.INTERNAL if parent is None else SpanKind.CONSUMER
        span = self._tracer.start_span(name, parent, kind, attributes, start_time=_unix_ns(begin_s))
        return _Recorded(span, self._tracer) if span.is_recording() else None


@contextlib.contextmanager
def exporting(service: str, endpoint: str, ratio: float | None = None) -> Iterator[Tracing]:
    """Spans to an OTLP/gRPC ``endpoint``; empty: the one in OpenTelemetry's environment variables.

    With a ``ratio``, the share of traces that begin here (0: nothing is traced); without, only traces that others
    began are gone on with, and only where an endpoint is known.
    """
    known = bool(endpoint) or any(map(os.environ.get, ENDPOINT_VARIABLES))
    if not (ratio if ratio is not None else known and _installed()):
        yield Tracing()
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    _log_first_fault()
    exporter = OTLPSpanExporter(endpoint or None)
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(ratio or 0.0),
        resource=Resource.create({SERVICE_NAME: service}).merge(OTELResourceDetector().detect()),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield Tracing(provider.get_tracer("trail"))
    finally:
        flushing = threading.Thread(target=provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)
        if flushing.is_alive():
            exporter.shutdown()


def needs_extra(value: T) -> T:
    """For settings that ask for tracing. Raises ValueError where it is not installed."""
    if value and not _installed():
        raise ValueError("tracing is not installed: pip install 'trail-sidecar[tracing]'")
    return value


def _installed() -> bool:
    try:
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter  # noqa: F401
    except ImportError:
        return False
    return True


def _unix_ns(at_s: float | None) -> int | None:
    return None if at_s is None else time.time_ns() - round((time.perf_counter() - at_s) * 1e9)


def _log_first_fault() -> None:
    """The library says again and again that spans do not arrive; once is enough."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_FirstFault(logging.WARNING)]


class _FirstFault(logging.Handler):
    _told = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._told:
            self._told = True
            structlog.get_logger("tracing").warning("traces are lost", reason=record.getMessage())
