"""The life of a gRPC server: bind, ask who calls, serve with health, reflection and metrics, drain, stop."""

import asyncio
import contextlib
import resource
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

import grpc
import structlog
import uvloop
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from sidecar import metrics_port, permissions, stream_age
from sidecar.access import AccessError
from sidecar.guard import Guard
from sidecar.health import Health, HealthServicer
from sidecar.settings import ServerSettings
from sidecar.stopping import stop as stop_all
from sidecar.stopping import until_told
from sidecar.tls import ServerTls, TlsError

PING_MS = 10_000
ANSWER_MS = 20_000
"""That a peer has for what a working one does at once: end a handshake, answer a ping."""
IDLE_MS = 300_000
"""After which a connection without calls is closed; gRPC clients open it anew when they need it."""
MOST_CONNECTIONS = 4096


class StartError(RuntimeError):
    """The server cannot start; the text is one line for whoever started it."""


def serve(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a server's coroutine under uvloop to its end; a StartError exits with its one line."""
    try:
        uvloop.run(coroutine)
    except StartError as error:
        raise SystemExit(str(error)) from None


async def run(
    name: str,
    settings: ServerSettings,
    add_services: Callable[[grpc.aio.Server], Sequence[str]],
    health: Health,
    *,
    drain: Callable[[], Awaitable[None]] | None = None,
    ready: Callable[[int], None] | None = None,
) -> None:
    """Serves until SIGTERM, SIGINT or cancellation.

    `add_services` registers servicers and returns their full names. `ready` is told the bound port.
    At the end: health says NOT_SERVING, `drain` runs, and calls have `drain_timeout_s` to finish.
    Raises StartError when an address is taken, certificates or access file cannot be used, or a method has no rule.
    """
    log = structlog.get_logger(name)
    guard = _guard(name, settings)
    server = grpc.aio.server(options=_options(settings), interceptors=[guard] if guard else [])
    services = list(add_services(server))
    HealthServicer(health, services).add_to(server)
    offered = (*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(offered, server)
    _all_have_rules(name, offered)
    port = _bind(name, server, settings)
    stop = asyncio.Event()
    with _metrics(name, settings), until_told(stop, exit_with_parent=settings.exit_with_parent):
        await server.start()
        background = [] if guard is None else [asyncio.create_task(guard.watch())]
        log.info(
            "ready",
            address=f"{settings.host}:{port}",
            services=services,
            tls=settings.tls_files is not None,
            access_control=guard is not None,
        )
        if ready is not None:
            ready(port)
        try:
            await stop.wait()
            log.info("draining", timeout_s=settings.drain_timeout_s)
            health.drain()
            if drain is not None:
                await drain()
            await server.stop(settings.drain_timeout_s)
        finally:
            await stop_all(background)
            await server.stop(0)
        log.info("stopped")


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        *stream_age.server_options(settings.max_connection_age_s),
        # Otherwise a second server on the same port would quietly take half of the streams.
        ("grpc.so_reuseport", 0),
        # An agent whose host is gone is noticed within 15 s, by the kernel; one that stands still within 30.
        ("grpc.keepalive_time_ms", PING_MS),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", ANSWER_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.max_ping_strikes", 0),
        # Strangers reach the health service: a message is as large as what they send for it, and streams have an end.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_concurrent_streams", 1024),
        # So have connections: of TLS's handshake (two minutes otherwise), HTTP/2's (one), and without calls (never).
        ("grpc.server_handshake_timeout_ms", ANSWER_MS),
        ("grpc.http2.settings_timeout", ANSWER_MS),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.max_allowed_incoming_connections", _most_connections()),
    ]


def _most_connections() -> int:
    """Of the process's file handles half, lest none is left for the store, models and logs."""
    handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if handles == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, handles // 2)


def _guard(name: str, settings: ServerSettings) -> Guard | None:
    """None: nobody is asked who he is."""
    if settings.access_file is None:
        return None
    try:
        return Guard(settings.access_file)
    except AccessError as error:
        raise StartError(f"{name}: {error}") from None


def _all_have_rules(name: str, services: Sequence[str]) -> None:
    """Also where nobody is asked: whoever adds a method must not find out later."""
    pool = descriptor_pool.Default()
    methods = (f"/{each}/{method.name}" for each in services for method in pool.FindServiceByName(each).methods)
    if forgotten := permissions.without_rule(methods):
        raise StartError(f"{name}: sidecar/permissions.py has no rule for {', '.join(forgotten)}")


def _bind(name: str, server: grpc.aio.Server, settings: ServerSettings) -> int:
    address = f"{settings.host}:{settings.port}"
    try:
        if settings.tls_files is not None:
            port = server.add_secure_port(address, ServerTls(settings.tls_files).credentials())
        else:
            port = server.add_insecure_port(address)
    except TlsError as error:
        raise StartError(f"{name}: {error}") from None
    except RuntimeError:
        port = 0
    if port == 0:
        raise StartError(f"{name}: cannot listen on {address}: is another process using the port?")
    return port


@contextlib.contextmanager
def _metrics(name: str, settings: ServerSettings) -> Iterator[None]:
    if settings.metrics_port == 0:
        yield
        return
    address = f"{settings.metrics_host}:{settings.metrics_port}"
    with contextlib.ExitStack() as parts:
        try:
            parts.enter_context(metrics_port.serving(settings.metrics_host, settings.metrics_port))
        except OSError as error:
            raise StartError(f"{name}: cannot serve metrics on {address}: {error.strerror}") from None
        yield
