"""The port that Prometheus reads, plain HTTP: whoever reaches it takes neither threads nor file handles for good."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import prometheus_client
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import REGISTRY, CollectorRegistry

MOST_CONNECTIONS = 32
"""Each has a thread; the oldest gives way to the next."""
LONGEST_S = 15.0
"""From its first byte to the last of its answer; Prometheus itself gives up after ten seconds by default."""


class _Server(ThreadingWSGIServer):
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self._since_s: dict[socket.socket, float] = {}
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._end(len(self._since_s) - MOST_CONNECTIONS + 1)
        self._since_s[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called twice a second."""
        late_s = time.monotonic() - LONGEST_S
        self._end(sum(since_s < late_s for since_s in list(self._since_s.values())))

    def shutdown_request(self, request: Any) -> None:
        self._since_s.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody hung up: nothing that anybody has to be told."""

    def _end(self, oldest: int) -> None:
        """Their threads find the connection closed, and end."""
        for request in list(self._since_s)[: max(oldest, 0)]:
            self._since_s.pop(request, None)
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of single requests."""


@contextlib.contextmanager
def serving(host: str, port: int, registry: CollectorRegistry = REGISTRY) -> Iterator[None]:
    """Serves until the block ends. Raises OSError where the address cannot be had."""
    # When each series began: twice as many series, and nobody asks.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    application = prometheus_client.make_wsgi_app(registry)
    server = make_server(host, port, application, _Server, _Handler)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
