"""What holds of the simulated engine and of the simulator, whatever arrives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_adapter.simulated.model import EngineModel
from engine_adapter.simulated.step_time import StepTime
from sidecar.cli.simulate.arms import parse_arm
from sidecar.cli.simulate.error_models import LogNormal
from sidecar.cli.simulate.ledger import Ledger
from sidecar.cli.simulate.metrics import measure
from sidecar.cli.simulate.planning import Planning
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation
from sidecar.cli.simulate.workload import Workload

STEP_TIMES = st.sampled_from([StepTime(0.005), StepTime(0.004, 1e-4, 2e-5, 1e-6)])
REQUESTS = st.lists(
    st.tuples(st.floats(0, 0.3), st.integers(1, 90), st.integers(1, 60), st.integers(0, 2)), min_size=1, max_size=25
)


def setup_of(step_time: StepTime, slots: int, kv_blocks: int, budget: int, cache: bool) -> EngineSetup:
    return EngineSetup(step_time, slots, kv_blocks, 16, max(budget, slots), cache)


SETUPS = st.builds(
    setup_of, STEP_TIMES, st.integers(1, 6), st.integers(10, 40), st.integers(8, 128), st.booleans()
)  # fmt: skip


def workload_of(requests: list[tuple[float, int, int, int]]) -> Workload:
    """Gap, prompt, output, and one of three prompts that are alike as far as they go."""
    gaps, prompt, output, content = zip(*requests, strict=True)
    return Workload(np.cumsum(gaps), np.array(prompt), np.array(output), tuple((each,) for each in content))


def planning_of(policy: str, setup: EngineSetup, workload: Workload, kind: type[Planning] = Planning) -> Planning:
    paths = LogNormal(0.75).paths(workload.output_tokens, np.random.default_rng(0))
    return kind(parse_arm(policy), setup.capacity, paths, 1, 1)


class PlanningAlways(Planning):
    """Leaves no plan out."""

    def _idle(self, *_: object) -> bool:
        return False


def same(one: Ledger, other: Ledger) -> bool:
    arrays = ("first_token_s", "finished_s", "wait_s", "preemptions", "recomputed_tokens", "cached_tokens")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
    return equal and one.step_s == other.step_s and one.kv_blocks == other.kv_blocks


def blocks_in_use(model: EngineModel) -> int:
    """Counted from the requests: what they hold alone, and what they share once."""
    held = [model.kv.count(tokens) for tokens in model.batch.computed.tolist()]
    shared = {key for request in model.running for key in request.held_keys}
    return sum(held) - sum(len(request.held_keys) for request in model.running) + len(shared)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, SETUPS, st.sampled_from(["fcfs", "trail:c=0.8", "srpt:margin=0:max_preemptions=20", "oracle"]))
def test_blocks_are_conserved_and_every_request_ends_whole(
    requests: list[tuple[float, int, int, int]], setup: EngineSetup, policy: str
) -> None:
    workload = workload_of(requests)
    simulation = Simulation(setup, workload, planning_of(policy, setup, workload))
    while simulation.advance():
        model = simulation.model
        assert model.kv.free >= 0
        assert setup.kv_blocks - model.kv.free == blocks_in_use(model)
        assert len(model.running) <= setup.slots
    assert simulation.model.kv.free == setup.kv_blocks
    assert simulation.tokens == workload.output_tokens.sum()
    ledger = simulation.ledger
    assert (ledger.first_token_s <= ledger.finished_s).all()
    assert (ledger.first_token_s > workload.arrival_s).all()
    assert (ledger.wait_s >= 0).all()
    assert measure(workload, ledger, setup).requests == len(requests)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, SETUPS)
def test_leaps_give_exactly_what_single_steps_give(
    requests: list[tuple[float, int, int, int]], setup: EngineSetup
) -> None:
    workload = workload_of(requests)
    leaping = Simulation(setup, workload, None).run()
    assert same(leaping, Simulation(setup, workload, None, leaps=False).run())


@settings(max_examples=40, deadline=None)
@given(REQUESTS, SETUPS, st.sampled_from(["trail:c=0.8:margin=0", "srpt", "oracle"]))
def test_plans_that_are_left_out_would_have_changed_nothing(
    requests: list[tuple[float, int, int, int]], setup: EngineSetup, policy: str
) -> None:
    workload = workload_of(requests)
    one, other = (
        Simulation(setup, workload, planning_of(policy, setup, workload, kind)).run()
        for kind in (Planning, PlanningAlways)
    )
    assert same(one, other)


@settings(max_examples=20, deadline=None)
@given(REQUESTS, SETUPS)
def test_the_same_run_twice_is_the_same(requests: list[tuple[float, int, int, int]], setup: EngineSetup) -> None:
    workload = workload_of(requests)
    one, other = (Simulation(setup, workload, planning_of("trail", setup, workload)).run() for _ in range(2))
    assert same(one, other)


@settings(max_examples=30, deadline=None)
@given(REQUESTS, st.integers(1, 6))
def test_first_come_first_served_by_plan_is_the_engines_own_order(
    requests: list[tuple[float, int, int, int]], slots: int
) -> None:
    setup = setup_of(StepTime(0.005), slots, 10 * slots, 256, True)
    workload = workload_of(requests)
    planned = Simulation(setup, workload, planning_of("fcfs", setup, workload)).run()
    assert same(planned, Simulation(setup, workload, None).run())


def test_requests_alone_on_the_engine_have_no_slowdown() -> None:
    setup = EngineSetup(StepTime(0.004, 1e-4, 2e-5, 1e-6), token_budget=64)
    workload = Workload(np.array([0.0, 50.0]), np.array([150, 1]), np.array([40, 1]))
    figures = measure(workload, Simulation(setup, workload, None).run(), setup)
    assert figures.mean_slowdown == pytest.approx(1.0)
