"""The gRPC channel to a service."""

import grpc

from engine_adapter.agent.settings import AgentSettings
from sidecar import targets


def connect(target: str, settings: AgentSettings) -> grpc.aio.Channel:
    """A channel that spreads its calls over all replicas behind `target`, notices a dead peer by itself, and tries
    again as often as the links do.

    Its pings come no more often than the services allow; the links' own timeouts are the faster ones.
    """
    channel = grpc.aio.insecure_channel(
        targets.target(target),
        options=[
            *targets.ROUND_ROBIN,
            # Two agents in one process are two clients.
            ("grpc.use_local_subchannel_pool", 1),
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
    # Whoever opens a stream before all replicas are reached opens it at the first of them.
    channel.get_state(try_to_connect=True)
    return channel
