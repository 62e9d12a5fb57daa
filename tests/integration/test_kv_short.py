"""Where KV memory is short: vLLM's own scheduler under plans of the planner that runs in production, no model."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("vllm")

from engine_adapter.simulated.step_time import StepTime
from sidecar.cli.simulate.arms import parse_arm
from sidecar.cli.simulate.error_models import LogNormal
from sidecar.cli.simulate.ledger import Ledger
from sidecar.cli.simulate.load_names import parse_load
from sidecar.cli.simulate.planning import Planning
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation
from sidecar.cli.simulate.workload import Workload
from tests.integration.vllm_model import VllmModel

pytestmark = pytest.mark.vllm
SMALL_MODEL = StepTime(1.5e-3, 3.6e-5, 2.2e-5, 0.0, 6.2e-3)
"""About what a 135M shape's steps take on an H100."""
WITHOUT = "default:kv_reserve=0"
POLICIES = ("engine", WITHOUT, "default")
SETUP = EngineSetup(SMALL_MODEL, slots=64, kv_blocks=200, token_budget=2048)


def load() -> Workload:
    """More than the memory can hold for a while."""
    return parse_load("poisson:alpaca").draw(28.0, 4.0, 1)


def simulation_of(policy: str, workload: Workload, setup: EngineSetup = SETUP) -> Simulation:
    arm = parse_arm(policy)
    planning = None
    if arm.choice is not None:
        paths = LogNormal(0.75).paths(workload.output_tokens, np.random.default_rng(0))
        planning = Planning(arm, setup.capacity, paths, 1, 1)
    return Simulation(setup, workload, planning, leaps=False)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ledger]:
    """By policy: the load as vLLM's scheduler served it."""
    ledgers = {}
    for policy in POLICIES:
        simulation = simulation_of(policy, load())
        folder = tmp_path_factory.mktemp("vllm")
        simulation.model = cast(Any, VllmModel(SETUP, folder, attached=policy != "engine"))
        ledgers[policy] = simulation.run()
    return ledgers


@pytest.mark.parametrize("policy", POLICIES)
def test_the_simulated_engine_does_what_vllms_scheduler_does(real: dict[str, Ledger], policy: str) -> None:
    """Times, evictions and tokens computed again are the same, request by request."""
    vllm, simulated = real[policy], simulation_of(policy, load()).run()
    assert vllm.evictions == simulated.evictions > 0
    np.testing.assert_array_equal(vllm.preemptions, simulated.preemptions)
    np.testing.assert_array_equal(vllm.recomputed_tokens, simulated.recomputed_tokens)
    np.testing.assert_allclose(vllm.finished_s, simulated.finished_s)


def test_memory_kept_free_spares_most_of_vllms_evictions(real: dict[str, Ledger]) -> None:
    without, kept = real[WITHOUT], real["default"]
    assert kept.evictions < without.evictions / 2
    assert kept.preemptions.sum() < without.preemptions.sum() / 2
    assert kept.recomputed_tokens.sum() < without.recomputed_tokens.sum()


def test_where_slots_are_short_and_memory_is_not_nothing_changes() -> None:
    setup = EngineSetup(SMALL_MODEL, slots=12, kv_blocks=2048, token_budget=2048)
    names = "default:margin=0:kv_reserve=0", "default:margin=0"
    one, other = (simulation_of(policy, load(), setup).run() for policy in names)
    assert one.preemptions.sum() > 0
    np.testing.assert_array_equal(one.finished_s, other.finished_s)
