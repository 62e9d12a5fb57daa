"""The store behind its proxy: a Valkey that can be killed, emptied, replaced by another one, and told to refuse."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import redis

from tests.chaos.proxy import FaultProxy, Loop
from tests.conftest import Valkey, start_valkey


class Store:
    """Services reach it through ``proxy`` alone, at ``url``."""

    def __init__(self, loop: Loop, folder: Path) -> None:
        self._folder = folder
        self.valkey = self._started("a")
        self.proxy = FaultProxy(loop, folder / "store.sock", self.valkey.socket)

    @property
    def url(self) -> str:
        return f"unix://{self.proxy.address}"

    def client(self) -> redis.Redis:
        """Past the proxy."""
        return self.valkey.client()

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self.valkey.stop()

    def restart_empty(self) -> None:
        self.valkey.restart_empty()

    def stop(self) -> None:
        """SIGSTOP."""
        os.kill(self._pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def configure(self, **settings: str | int) -> None:
        """By CONFIG SET."""
        with self.client() as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    def start_spare(self, name: str) -> Valkey:
        """Another server, empty."""
        return self._started(name)

    def go_over_to(self, other: Valkey) -> None:
        """Who asks for the store reaches this one from now on; the old one is killed."""
        old, self.valkey = self.valkey, other
        self.proxy.upstream = other.socket
        self.proxy.reset()
        old.stop()

    def close(self) -> None:
        self.proxy.close()
        if self.valkey.server.is_running():
            self.valkey.stop()

    @property
    def _pid(self) -> int:
        process = self.valkey.server._process
        assert process is not None
        return int(process.pid)

    def _started(self, name: str) -> Valkey:
        folder = self._folder / name
        folder.mkdir()
        return start_valkey(folder)
