"""Engines that crash, fall silent behind full rings, or share a name; rings and boards with rubbish in them."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator

from engine_adapter.board import BoardReader
from tests.chaos.engine import LoadedEngine
from tests.chaos.fault import Began, Plans, fault
from tests.chaos.processes import Agent, until
from tests.chaos.system import ENGINE_ID, System


@fault(Plans.MAY_PAUSE)
def engine_crashed_and_back_with_the_same_ids(system: System, began: Began) -> Iterator[None]:
    for _ in range(3):
        system.engine.crash()
        time.sleep(0.5)
    yield


@fault(Plans.END, lasts_s=4)
def rings_full_behind_a_stopped_agent(system: System, began: Began) -> Iterator[None]:
    system.agent.stop()
    dropped = system.engine.simulated._events.dropped
    until(lambda: _flooded(system, dropped), "events were dropped")
    yield
    system.agent.wake()


@fault(Plans.MAY_PAUSE)
def rings_with_broken_records(system: System, began: Began) -> Iterator[None]:
    chance, engine = random.Random(0), system.engine
    for _ in range(5):
        with engine.paused() as simulated:
            for ring in (simulated._events, simulated._rows):
                ring.write(b"\xee" + chance.randbytes(chance.randrange(200)))
                ring.write(b"")
        time.sleep(0.3)
    yield


@fault(Plans.MAY_PAUSE)
def board_with_rubbish_on_it(system: System, began: Began) -> Iterator[None]:
    """As a writer would leave it that dies in the midst of a plan."""
    chance = random.Random(0)
    board = BoardReader(system.engine.paths.board)
    try:
        for _ in range(100):
            at = chance.randrange(512, len(board._map) - 4096) if chance.random() < 0.5 else 512
            board._map[at : at + 4096] = chance.randbytes(4096)
            time.sleep(0.01)
    finally:
        board.close()
    yield


@fault(Plans.GO_ON)
def second_agent_on_the_same_engine(system: System, began: Began) -> Iterator[None]:
    """It is refused: a ring has one reader."""
    flags = [f"--engine-id={ENGINE_ID}", f"--shm-root={system.folder / 'shm'}"]
    command = [sys.executable, "-m", "engine_adapter.agent", *flags]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1, refused
    assert "another agent serves engine" in refused.stderr
    yield


@fault(Plans.MAY_PAUSE, lasts_s=6)
def two_engines_under_one_name(system: System, began: Began) -> Iterator[None]:
    """On another machine somebody starts an engine, agent and all, under this one's name."""
    shm = system.folder / f"rival-{time.monotonic_ns()}"
    targets = {
        "predictor_target": f"127.0.0.1:{system.predictor_link.address}",
        "scheduler_target": f"127.0.0.1:{system.scheduler_link.address}",
    }
    rival = LoadedEngine(ENGINE_ID, shm, seed=1, prefix="rival")
    with contextlib.closing(rival):
        settings = {"engine_id": ENGINE_ID, "shm_root": shm, **targets}
        agent = Agent(system.clock_file, system.folder / "rival.log", settings)
        with contextlib.closing(agent):
            rival.load()
            until(lambda: rival.first_step_after(0, planned=True), "the other engine is planned for too")
            yield
            rival.rest()
            until(lambda: not rival.living, "the other engine's requests have ended")
        assert (rival.changed, rival.submitted - rival.ended) == (0, 0)


def _flooded(system: System, dropped: int) -> bool:
    system.engine.submit(4, prompt_tokens=400, output_tokens=3)
    return system.engine.simulated._events.dropped > dropped
