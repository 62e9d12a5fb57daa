"""How the agent learns at once that there are rows: a named pipe beside the ring, in which a byte says "look".

The timers of an event loop count milliseconds; to wait for the next one would cost more than to send a step's rows.
The byte is a hint and no more: whoever rings does not wait, and who misses it looks again by itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from engine_adapter.paths import private_folder


class Bell:
    """The side that is called; `fileno` becomes readable when somebody rang."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where something else lies at `path`, or it belongs to another user."""
        private_folder(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # For writing too: without a writer a pipe would be readable all the time, for its end is.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(self._fd)
        if not stat.S_ISFIFO(status.st_mode) or status.st_uid != os.getuid():
            os.close(self._fd)
            raise OSError(f"{path}: not a pipe of user {os.getuid()}; remove it and start again")

    def fileno(self) -> int:
        return self._fd

    def silence(self) -> None:
        """Takes out all that was rung."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, 4096):
                pass

    def close(self) -> None:
        os.close(self._fd)


class Ringer:
    """The side that calls. It never waits and never fails, whether or not anybody listens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def ring(self) -> None:
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
                if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
                    self.close()
                    return
            os.write(self._fd, b"\0")
        except BlockingIOError:
            pass  # Full, so it is ringing already.
        except OSError:
            self.close()  # Nobody listens now; the next one may have made the pipe anew.

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
