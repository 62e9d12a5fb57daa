"""The gRPC channel to a service."""

import asyncio

import grpc
import structlog

from engine_adapter.agent.settings import AgentSettings
from sidecar import targets
from sidecar.dial import DialError


class Channel:
    """Spreads its calls over all replicas behind `target`, notices a dead peer by itself, and tries again as often as
    the links do.

    Its pings come no more often than the services allow; the links' own timeouts are the faster ones. New certificates
    are for the streams that are opened once they lie there.
    """

    def __init__(self, target: str, settings: AgentSettings) -> None:
        """Raises DialError."""
        self._target, self._settings, self._credentials = targets.target(target), settings, settings.credentials
        self._seen = self._credentials.fingerprint
        self._channel = self._open()
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """The channel for a stream that is about to be opened."""
        now = self._credentials.fingerprint
        if now and now != self._seen:
            self._seen = now
            try:
                replaced, self._channel = self._channel, self._open()
            except DialError as error:
                structlog.get_logger("agent").error("certificates were not taken", reason=str(error))
            else:
                closing = asyncio.create_task(replaced.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        return self._channel

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call carries. Raises DialError."""
        return self._credentials.metadata()

    async def close(self) -> None:
        await asyncio.gather(*self._closing, self._channel.close())

    def _open(self) -> grpc.aio.Channel:
        settings = self._settings
        options = [
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
        ]
        channel = self._credentials.aio_channel(self._target, options)
        # Whoever opens a stream before all replicas are reached opens it at the first of them.
        channel.get_state(try_to_connect=True)
        return channel
