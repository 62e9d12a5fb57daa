"""How long a stream lives before its client moves on, so that streams spread over replicas.

A service says so when the stream opens, and the client ends the stream in good order between two messages: nothing is
lost, and nothing counts as a fault. gRPC asks clients to leave the connection a little sooner, so that the next stream
opens on another one, and cuts whoever has not left when as much time again is over.
"""

from typing import Any

KEY = "trail-stream-age-ms"
_CONNECTION_SHARE = 0.8
"""gRPC varies the age of a connection by a tenth either way: even so it ends before its streams do."""


def server_options(age_s: float) -> list[tuple[str, int]]:
    """For a gRPC server; `age_s` 0: streams live for ever."""
    if not age_s:
        return []
    return [
        ("grpc.max_connection_age_ms", max(round(_CONNECTION_SHARE * age_s * 1000), 1)),
        ("grpc.max_connection_age_grace_ms", max(round(age_s * 1000), 1)),
    ]


async def announce(context: Any, age_s: float) -> None:
    """Tells the client of a stream that has just begun."""
    if age_s:
        await context.send_initial_metadata(((KEY, str(round(age_s * 1000))),))


def announced_s(metadata: Any) -> float | None:
    """What the service said, seconds; None where it said nothing that can be read."""
    for name, value in metadata or ():
        if name == KEY and str(value).isdigit():
            return int(value) / 1000
    return None
