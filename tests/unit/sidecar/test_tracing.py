import sys
import time

import pytest
import structlog

from engine_adapter.agent.settings import AgentSettings
from predictor_service.settings import PredictorSettings
from sidecar.settings import load
from sidecar.tracing import ENDPOINT_VARIABLES, Span, Tracing, exporting
from tests.otlp_collector import Collector, collecting

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-1] + "0"


def traced(collector: Collector, *traceparents: str, ratio: float | None = None, times: int = 1) -> list[Span]:
    with exporting("here", collector.endpoint, ratio) as tracing:
        spans = [tracing.follow("work", traceparent) for traceparent in traceparents for _ in range(times)]
        for span in spans:
            span.end()
    return spans


def test_the_parents_decision_is_followed_and_its_context_handed_on() -> None:
    with collecting() as collector:
        recorded, passed, broken = traced(collector, SAMPLED, UNSAMPLED, "nonsense")
    assert recorded.trace_id == SAMPLED[3:35]
    assert recorded.traceparent != SAMPLED
    assert (passed.traceparent, broken.traceparent) == (UNSAMPLED, "nonsense")
    (received,) = collector.received
    assert received.part == ("here", "work")
    assert received.span.parent_span_id.hex() == SAMPLED[36:52]


def test_a_process_that_exports_nothing_hands_the_context_on_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with exporting("here", "") as tracing:
        assert not tracing.enabled
        span = tracing.follow("work", SAMPLED)
    assert span.child("part").traceparent == span.traceparent == SAMPLED
    span.end()
    assert Tracing().sample("step", 0.0) is None


def test_the_share_of_traces_that_begin_is_the_ratio() -> None:
    with collecting() as collector, exporting("here", collector.endpoint, 0.2) as tracing:
        drawn = sum(tracing.sample("step", 0.0) is not None for _ in range(5_000))
    assert 850 < drawn < 1_150


def test_a_span_has_the_times_that_it_was_told_and_its_fault() -> None:
    with collecting() as collector:
        with exporting("here", collector.endpoint, 1.0) as tracing:
            now_s, unix_ns = time.perf_counter(), time.time_ns()
            span = tracing.sample("step", now_s - 2.0, engine="e")
            assert span is not None
            span.child("part", now_s - 1.5).end(now_s - 0.5)
            span.end(now_s, fault="no plan")
        spans = {received.span.name: received.span for received in collector.received}
    part, step = spans["part"], spans["step"]
    assert part.parent_span_id == step.span_id
    assert part.end_time_unix_nano - part.start_time_unix_nano == pytest.approx(1e9, rel=0.01)
    assert step.start_time_unix_nano == pytest.approx(unix_ns - 2_000_000_000, abs=100_000_000)
    assert step.status.message == "no plan"


def test_the_standard_variable_names_the_collector_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        with exporting("here", "") as tracing:
            tracing.follow("work", SAMPLED).end()
    assert [received.part for received in collector.received] == [("here", "work")]


def test_a_collector_that_is_gone_is_told_of_once_and_holds_nobody_up() -> None:
    with structlog.testing.capture_logs() as logs:
        begun_s = time.perf_counter()
        with exporting("here", "http://127.0.0.1:9", 1.0) as tracing:
            for _ in range(5_000):
                span = tracing.sample("step", 0.0)
                assert span is not None
                span.end()
            busy_s = time.perf_counter() - begun_s
    assert busy_s < 60
    assert time.perf_counter() - begun_s - busy_s < 3
    assert [entry["event"] for entry in logs].count("traces are lost") == 1


@pytest.mark.parametrize(
    ("settings", "flag"),
    [(AgentSettings, "--trace-ratio=0.01"), (PredictorSettings, "--otlp-endpoint=http://localhost:4317")],
)
def test_a_setting_that_asks_for_tracing_without_the_extra_names_it(
    settings: type[AgentSettings | PredictorSettings],
    flag: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc", None)
    monkeypatch.delitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", raising=False)
    with pytest.raises(SystemExit):
        load(settings, [flag])
    assert "pip install 'trail-sidecar[tracing]'" in capsys.readouterr().err
    load(settings, [])
