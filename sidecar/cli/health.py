"""``trail health``: what the standard gRPC health check of a service says."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.dial import DialError, dialled

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
COMPONENTS = ("model", "store")
"""What a service may be made of; one that lacks a component does not know its name."""


def verdict(target: str, timeout_s: float) -> tuple[bool, str]:
    """Whether the service at ``target`` serves, and one line that says so or what is missing."""
    try:
        with dialled(target) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            if _status(health, "", timeout_s) == SERVING:
                return True, f"{target}: serving"
            missing = [name for name in COMPONENTS if _status(health, name, timeout_s) == NOT_SERVING]
    except grpc.RpcError as error:
        return False, f"{target}: no answer: {error.details()}"
    except DialError as error:
        return False, f"{target}: {error}"
    return False, f"{target}: not serving: {', '.join(missing) or 'draining'}"


def _status(health: health_pb2_grpc.HealthStub, name: str, timeout_s: float) -> int:
    """Status of a server (no name) or of one of its components; an unknown one counts as unknown."""
    try:
        return int(health.Check(health_pb2.HealthCheckRequest(service=name), timeout=timeout_s).status)
    except grpc.RpcError as error:
        if name and error.code() is grpc.StatusCode.NOT_FOUND:
            return int(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        raise
