"""The gRPC channel to a service."""

import grpc

from engine_adapter.agent.settings import AgentSettings


def connect(target: str, settings: AgentSettings) -> grpc.aio.Channel:
    """A channel that notices a dead peer by itself, and tries again as often as the links do.

    Its pings come no more often than the services allow; the links' own timeouts are the faster ones.
    """
    return grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", settings.reconnect_initial_ms),
            ("grpc.min_reconnect_backoff_ms", settings.reconnect_initial_ms),
            ("grpc.max_reconnect_backoff_ms", settings.reconnect_max_ms),
        ],
    )
