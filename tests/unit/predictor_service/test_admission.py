import grpc
import pytest

from predictor_service.admission import Admission
from predictor_service.engine import Stream
from predictor_service.engines import Engines
from sidecar.errors import Refused

LIMITS = {"max_rows_per_s": {"most_rows_per_s": 500.0}, "max_queue_ms": {"most_queue_ms": 10.0}}


def busy(admission: Admission, *, rows: int = 0, late_s: float = 0.0, seconds: int = 20) -> None:
    """So many rows a second, each look so late, for some seconds."""
    now_s = admission._looked_s
    for _ in range(seconds):
        now_s += 1.0
        admission.took(rows)
        admission.look(now_s, now_s - late_s)


def streaming(engines: Engines, *names: str) -> list[Stream]:
    """Each engine with an open stream, the first the oldest."""
    streams = [Stream() for _ in names]
    for name, stream in zip(names, streams, strict=True):
        engines.admit(name).stream = stream
    return streams


def test_rows_and_waiting_are_measured_over_the_last_looks() -> None:
    admission = Admission()
    busy(admission, rows=1000, late_s=0.02)
    assert admission.rows_per_s == pytest.approx(1000, rel=0.01)
    assert admission.queue_ms == pytest.approx(20, rel=0.01)
    busy(admission)
    assert admission.rows_per_s < 1
    assert admission.queue_ms < 0.1


def test_a_machine_that_stood_still_is_no_queue() -> None:
    admission = Admission(most_queue_ms=10.0)
    busy(admission, late_s=0.001)
    busy(admission, late_s=5.0, seconds=5)
    assert admission.queue_ms == pytest.approx(1)
    assert admission.surplus(8).engines == 0


def test_a_service_that_has_just_started_knows_too_little_to_refuse_anybody() -> None:
    admission = Admission(most_queue_ms=10.0)
    busy(admission, late_s=1.0, seconds=4)
    assert admission.refusal(8) == ""
    busy(admission, late_s=1.0, seconds=1)
    assert admission.refusal(8) != ""


def test_without_limits_nobody_is_refused_or_sent_away() -> None:
    admission = Admission()
    busy(admission, rows=10**6, late_s=1.0)
    assert admission.refusal(1000) == ""
    assert admission.surplus(1000).engines == 0


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_busy_replica_takes_no_new_engine_but_those_that_it_knows(limit: str) -> None:
    admission = Admission(**LIMITS[limit])
    engines = Engines(most=10, max_requests=10, admission=admission)
    moving, _ = streaming(engines, "known", "other")
    busy(admission, rows=400, late_s=0.008)
    with pytest.raises(Refused, match=rf"full: .* \({limit}\)") as refused:
        engines.admit("new")
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    engines.close(moving)
    engines.admit("known")
    busy(admission)
    engines.admit("new")


async def test_a_replica_that_serves_nobody_takes_one_however_slow_its_machine_is() -> None:
    admission = Admission(most_queue_ms=10.0)
    busy(admission, late_s=1.0)
    Engines(most=10, max_requests=10, admission=admission).admit("first")


@pytest.mark.parametrize("limit", LIMITS)
async def test_over_its_limit_a_replica_sends_the_newest_engines_away_and_keeps_the_oldest(limit: str) -> None:
    admission = Admission(**LIMITS[limit])
    engines = Engines(most=10, max_requests=10, admission=admission)
    streams = streaming(engines, "oldest", "b", "c", "d")
    # Moving to another stream makes nobody new.
    engines.close(streams[0])
    engines.admit("oldest").stream = streams[0]
    left = [4]
    for _ in range(5):
        busy(admission, rows=2000, late_s=0.04)
        engines.shed()
        left.append(len(engines.streaming))
    assert left == [4, 3, 2, 1, 1, 1]
    assert engines.streaming == ["oldest"]
    assert not streams[0].ended.done()
    for stream in streams[1:]:
        reason = stream.ended.result()
        assert reason.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert limit in str(reason)
        assert reason.retry_after_ms is not None


async def test_who_was_sent_away_comes_back_as_a_stranger_and_no_sooner_than_there_is_room() -> None:
    admission = Admission(most_rows_per_s=500.0)
    engines = Engines(most=10, max_requests=10, admission=admission)
    streaming(engines, "a", "b", "c", "d")
    busy(admission, rows=900)
    engines.shed()
    assert engines.streaming == ["a", "b", "c"]
    with pytest.raises(Refused, match="as many as it served well"):
        engines.admit("d")
    busy(admission, rows=400)
    engines.shed()
    with pytest.raises(Refused, match="full"):
        engines.admit("d")
    busy(admission, rows=300)
    engines.shed()
    streaming(engines, "d")
    with pytest.raises(Refused, match="as many as it served well"):
        engines.admit("e")


async def test_one_look_sends_away_half_of_what_is_too_much_and_the_next_one_waits_for_fresh_figures() -> None:
    admission = Admission(most_rows_per_s=500.0)
    busy(admission, rows=1000)
    assert admission.surplus(40).engines == 10
    assert admission.surplus(30).engines == 0
    busy(admission, rows=1000, seconds=4)
    assert admission.surplus(30).engines == 0
    busy(admission, rows=1000, seconds=1)
    assert admission.surplus(30).engines == 7
