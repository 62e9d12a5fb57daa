"""The scheduler service, as `trail ab` talks to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc

from sidecar.cli.ab.errors import AbError
from sidecar.dial import DialError, dialled
from trail.v1 import experiment_pb2_grpc

TIMEOUT_S = 30.0
MOST_BYTES = 256 * 1024 * 1024


@contextlib.contextmanager
def experiments(address: str) -> Iterator[experiment_pb2_grpc.ExperimentServiceStub]:
    """A stub; what the service says against a call becomes an AbError."""
    try:
        with dialled(address, [("grpc.max_receive_message_length", MOST_BYTES)]) as channel:
            yield experiment_pb2_grpc.ExperimentServiceStub(channel)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE and "store" not in (error.details() or ""):
            raise AbError(f"no scheduler service answers at {address} (--scheduler)") from None
        raise AbError(error.details() or error.code().name) from None
    except DialError as error:
        raise AbError(str(error)) from None
