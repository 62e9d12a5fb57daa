"""A collector of traces: a real server of OTLP's TraceService, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

Part = tuple[str, str]
"""Names of a service and of one of its spans."""


@dataclass(frozen=True)
class Received:
    part: Part
    span: trace_pb2.Span


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps all spans."""

    endpoint: str

    def __init__(self) -> None:
        self.received: list[Received] = []

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            attributes = resource.resource.attributes
            (service,) = (each.value.string_value for each in attributes if each.key == "service.name")
            for scope in resource.scope_spans:
                self.received.extend(Received((service, span.name), span) for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def traces(self) -> list[dict[Part, trace_pb2.Span]]:
        """The spans of each trace."""
        found: dict[bytes, dict[Part, trace_pb2.Span]] = {}
        for received in list(self.received):
            found.setdefault(received.span.trace_id, {})[received.part] = received.span
        return list(found.values())


@contextmanager
def collecting() -> Iterator[Collector]:
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()
