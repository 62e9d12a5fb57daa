"""Which requests count for which block."""

import pytest

from scheduler_service.experiments.clock import StoreClock
from scheduler_service.experiments.record import Ending, Record, State
from scheduler_service.experiments.timeline import Timeline
from tests.unit.experiments.designs import design

LINE = Timeline(design(), 1000.0)  # 20 blocks of 100 s, washout 10 s


@pytest.mark.parametrize(
    ("arrival_s", "block"),
    [(999.0, None), (1000.0, None), (1009.9, None), (1010.0, 0), (1089.9, 0), (1090.0, None), (1110.0, 1), (2989.0, 19),
     (2995.0, None), (3010.0, None)],
)  # fmt: skip
def test_a_request_counts_by_its_arrival_outside_of_washouts(arrival_s: float, block: int | None):
    assert LINE.counted_in(arrival_s) == block


def test_a_block_is_closed_a_washout_after_its_end():
    assert not LINE.closed(0, 1109.9)
    assert LINE.closed(0, 1110.0)


def test_after_a_halt_every_engine_serves_control_until_it_is_stopped():
    running = Record(design(), 0.0, 1000.0)
    assert running.state(999.0) is State.RUNNING
    assert running.serving("e0", 999.0) is None
    assert running.serving("e0", 1001.0) is not None
    assert running.serving("other", 1001.0) is None
    assert running.state(3000.0) is State.FINISHED
    assert running.serving("e0", 3000.0) is None
    halted = Record(design(), 0.0, 1000.0, halted=Ending(1500.0, "worse"))
    for now_s in (1600.0, 9000.0):
        arm, block = halted.serving("e0", now_s) or (None, 0)
        assert (arm, block) == (halted.design.control, -1)
    stopped = Record(design(), 0.0, 1000.0, halted=Ending(1500.0, "worse"), stopped=Ending(1700.0, ""))
    assert stopped.serving("e0", 1800.0) is None
    assert stopped.ended_s() == 1500.0


def test_the_clock_tells_a_jump_from_a_slow_answer():
    clock = StoreClock()
    assert clock.looked(1000.0, 10.0, 10.1) == 0.0
    assert clock.looked(1005.0, 15.0, 15.1) == 0.0
    # An answer that took four seconds may be off by as much.
    assert clock.looked(1013.5, 20.0, 24.0) == 0.0
    assert clock.looked(1079.0, 30.0, 30.1) == pytest.approx(57.5, abs=2)
    assert clock.looked(1019.0, 31.0, 31.1) == pytest.approx(-61, abs=1)
