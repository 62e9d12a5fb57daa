"""How a mistake in a message becomes a gRPC status."""

from collections.abc import Iterable
from typing import NoReturn

import grpc

# Trailing metadata that gRPC clients with retries understand as "not before this many milliseconds".
PUSHBACK_KEY = "grpc-retry-pushback-ms"
LONGEST_PUSHBACK_S = 60.0


class InvalidField(ValueError):
    """A field of a message breaks the contract.

    `field` is the path of the field (`step.decodes.ages`), `limit` what would have been accepted.
    """

    def __init__(self, field: str, message: str, *, limit: object = None) -> None:
        self.field = field
        self.limit = limit
        suffix = "" if limit is None else f" (limit {limit})"
        super().__init__(f"{field}: {message}{suffix}")


class Refused(Exception):
    """A call that a service ends on purpose, with the status and the text that the caller sees."""

    def __init__(self, code: grpc.StatusCode, message: str, *, retry_after_ms: int | None = None) -> None:
        self.code = code
        self.retry_after_ms = retry_after_ms
        super().__init__(message)


def pushback_s(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> float:
    """How long the service that ended a call asks to be left alone, at most a minute; 0 where it does not say."""
    for name, value in trailing_metadata:
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if name == PUSHBACK_KEY and text.isdecimal():
            return min(int(text[:9]) / 1000, LONGEST_PUSHBACK_S)
    return 0.0


async def abort(context: "grpc.aio.ServicerContext[object, object]", error: Exception) -> NoReturn:
    """Ends a call with the status of `error`: INVALID_ARGUMENT for InvalidField, its own for Refused."""
    if isinstance(error, InvalidField):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    if isinstance(error, Refused):
        pushback = error.retry_after_ms
        metadata = () if pushback is None else ((PUSHBACK_KEY, str(pushback)),)
        await context.abort(error.code, str(error), metadata)
    raise error
