import grpc
import pytest

from predictor_service.admission import Admission
from predictor_service.engine import Stream
from predictor_service.engines import Engines
from sidecar.errors import Refused


def busy(admission: Admission, *, rows: int = 0, late_s: float = 0.0, seconds: int = 20) -> None:
    """So many rows a second, each look so late, for some seconds."""
    now_s = admission._looked_s
    for _ in range(seconds):
        now_s += 1.0
        admission.took(rows)
        admission.look(now_s, now_s - late_s)


def test_rows_and_waiting_are_measured_over_the_last_seconds() -> None:
    admission = Admission()
    busy(admission, rows=1000, late_s=0.02)
    assert admission.rows_per_s == pytest.approx(1000, rel=0.01)
    assert admission.queue_ms == pytest.approx(20, rel=0.01)
    busy(admission)
    assert admission.rows_per_s < 1
    assert admission.queue_ms < 0.1


def test_without_limits_nobody_is_refused() -> None:
    admission = Admission()
    busy(admission, rows=10**6, late_s=1.0)
    assert admission.refusal == ""


@pytest.mark.parametrize("limit", ["max_rows_per_s", "max_queue_ms"])
async def test_a_busy_replica_takes_no_new_engine_but_those_that_it_knows(limit: str) -> None:
    most = {"max_rows_per_s": {"most_rows_per_s": 500.0}, "max_queue_ms": {"most_queue_ms": 5.0}}[limit]
    admission = Admission(**most)
    engines = Engines(most=10, max_requests=10, admission=admission)
    stream = Stream()
    engines.admit("known").stream = stream
    busy(admission, rows=1000, late_s=0.02)
    with pytest.raises(Refused, match=f"full: .* is more than {limit}") as refused:
        engines.admit("new")
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    engines.close(stream)
    engines.admit("known")
    busy(admission)
    engines.admit("new")
