import socket
from collections.abc import Iterator

import pytest

from sidecar.cli import up
from sidecar.cli.top import METRICS_PORTS

VARIABLE = "TRAIL_PREDICTOR_METRICS_PORT"


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Somebody has the usual port of the predictor's metrics."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setitem(METRICS_PORTS, "predictor", server.getsockname()[1])
        yield server


def test_metrics_are_where_top_looks_unless_somebody_is_there(
    listening: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    port = METRICS_PORTS["predictor"]
    assert up._metrics_port("predictor", "127.0.0.1") == 0
    assert capsys.readouterr().err == (
        f"trail up: no metrics of the predictor: 127.0.0.1:{port} is taken; {VARIABLE} names another port\n"
    )
    listening.close()
    assert up._metrics_port("predictor", "127.0.0.1") == port
    assert capsys.readouterr().err == ""


def test_a_port_in_the_environment_is_left_to_the_service(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening.close()
    monkeypatch.setenv(VARIABLE, "9999")
    assert up._metrics_port("predictor", "127.0.0.1") == 0
