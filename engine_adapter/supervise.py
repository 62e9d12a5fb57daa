"""Keeps an engine's agent alive: starts it, starts it again when it dies, ends it with the engine."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

import structlog

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
GOOD_LIFE_S = 30.0
STOP_TIMEOUT_S = 5.0


class AgentSupervisor:
    """Runs ``python -m engine_adapter.agent`` as a child, with backoff between its lives.

    The child holds the other end of a pipe: where this process dies, even by SIGKILL, the child ends too.
    Usable as a context manager.
    """

    def __init__(self, settings: Mapping[str, str]) -> None:
        """``settings`` by their names in lower case (``engine_id``, ``predictor_target``): they go into the child's
        environment."""
        given = {f"TRAIL_AGENT_{name.upper()}": value for name, value in settings.items()}
        self._environment = os.environ | given | {"TRAIL_AGENT_EXIT_WITH_PARENT": "true"}
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="agent-supervisor", daemon=True)
        self._log = structlog.get_logger("supervisor")
        self.restarts = 0

    def __enter__(self) -> "AgentSupervisor":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def process_id(self) -> int | None:
        """Of the living child; None between two lives."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def start(self) -> None:
        """Starts the agent and the watch over it."""
        self._thread.start()

    def close(self) -> None:
        """Ends the agent: SIGTERM, and SIGKILL where it has not ended 5 s later."""
        self._closing.set()
        with self._lock:
            child = self._child
        if child is not None:
            _end(child)
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        wait_s = FIRST_WAIT_S
        while (child := self._spawn()) is not None:
            born_s = time.monotonic()
            code = child.wait()
            with contextlib.suppress(OSError):
                child.stdin.close()  # type: ignore[union-attr]
            if self._closing.is_set():
                return
            if time.monotonic() - born_s >= GOOD_LIFE_S:
                wait_s = FIRST_WAIT_S
            self._log.warning("agent died", reason=_reason(code), next_try_s=wait_s)
            if self._closing.wait(wait_s):
                return
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            self.restarts += 1

    def _spawn(self) -> "subprocess.Popen[bytes] | None":
        """A new child, or None when the supervisor is closing: the lock leaves no moment in which one is missed."""
        with self._lock:
            if self._closing.is_set():
                return None
            # A session of its own: Ctrl-C is for the engine, which then ends the agent in order.
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "engine_adapter.agent"],
                env=self._environment,
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            return self._child


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _reason(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"
