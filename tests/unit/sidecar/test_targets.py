import pytest

from sidecar.stream_age import announced_s, server_options
from sidecar.targets import target


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("host:1", "host:1"),
        ("dns:///predictors:50061", "dns:///predictors:50061"),
        ("127.0.0.1:1, 127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2"),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
    ],
)
def test_addresses_of_replicas_become_one_target(given: str, taken: str) -> None:
    assert target(given) == taken


@pytest.mark.parametrize("given", ["", "a:1,b:2", "127.0.0.1:1,[::1]:2", "127.0.0.1:1,127.0.0.2"])
def test_a_list_that_grpc_cannot_take_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"address|IP:PORT|mixes"):
        target(given)


def test_connections_end_before_the_streams_on_them_and_are_cut_after_all_of_these() -> None:
    options = dict(server_options(100.0))
    longest_connection_ms = 1.1 * options["grpc.max_connection_age_ms"]
    shortest_connection_ms = 0.9 * options["grpc.max_connection_age_ms"]
    shortest_stream_ms, longest_stream_ms = 90_000, 100_000
    assert longest_connection_ms < shortest_stream_ms
    # A stream that opened just before its connection was asked to end.
    assert shortest_connection_ms + options["grpc.max_connection_age_grace_ms"] >= (
        shortest_connection_ms + longest_stream_ms
    )
    assert server_options(0.0) == []


def test_an_age_that_nobody_can_read_is_none() -> None:
    assert announced_s((("trail-stream-age-ms", "1500"),)) == 1.5
    assert announced_s((("trail-stream-age-ms", "soon"),)) is None
    assert announced_s(None) is None
