"""Keeps a child process alive: starts it, starts it again when it dies, ends it with its parent."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

import structlog

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
GOOD_LIFE_S = 30.0
STOP_TIMEOUT_S = 8.0


class Supervisor:
    """Runs ``command`` as a child, with backoff between its lives. Usable as a context manager.

    The child's standard input is a pipe whose other end is here: one that is told to exit with its parent ends when
    this process dies, even by SIGKILL.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        log: IO[bytes] | None = None,
    ) -> None:
        """``environment`` is added to our own; ``log`` takes the child's output (default: our own)."""
        self.name, self.restarts = name, 0
        self.last_end = ""
        """How the last life ended, or why it could not begin."""
        self._command, self._output = list(command), log
        self._environment = os.environ | (environment or {})
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name=f"{name}-supervisor", daemon=True)
        self._log = structlog.get_logger("supervisor")

    def __enter__(self) -> "Supervisor":
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
        """Starts the child and the watch over it."""
        self._thread.start()

    def close(self) -> None:
        """Ends the child: SIGTERM, and SIGKILL where it has not ended in time."""
        self._closing.set()
        with self._lock:
            child = self._child
        if child is not None:
            _end(child)
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._closing.is_set():
            born_s = time.monotonic()
            self.last_end = self._live()
            if self._closing.is_set():
                return
            if time.monotonic() - born_s >= GOOD_LIFE_S:
                wait_s = FIRST_WAIT_S
            self._log.warning("died", process=self.name, reason=self.last_end, next_try_s=wait_s)
            if self._closing.wait(wait_s):
                return
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            self.restarts += 1

    def _live(self) -> str:
        """One life of the child; how it ended."""
        try:
            child = self._spawn()
        except OSError as error:
            return str(error)
        if child is None:
            return ""
        code = child.wait()
        with contextlib.suppress(OSError):
            child.stdin.close()  # type: ignore[union-attr]
        return _reason(code)

    def _spawn(self) -> "subprocess.Popen[bytes] | None":
        """A new child, or None when the supervisor is closing: the lock leaves no moment in which one is missed."""
        with self._lock:
            if self._closing.is_set():
                return None
            # A session of its own: Ctrl-C is for the parent, which then ends its children in order.
            self._child = subprocess.Popen(  # noqa: S603 - the command that the caller gave
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
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
