"""Our own agent behind the kit's line protocol: an engine that does what the kit's script says, with rings and board.

The agent is the real one, in a process of its own; the engine's side is as thin as it can be.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine_adapter.bell import Ringer
from engine_adapter.board import BoardPlan, BoardReader
from engine_adapter.paths import EVENT_RING_BYTES, ROW_RING_BYTES, engine_paths
from engine_adapter.records import Arrived, Engine, Finished, Rows, Step, handle_of
from engine_adapter.ring import RingProducer
from trail.v1 import engine_pb2, scheduler_pb2

LOOK_S = 0.01


class ScriptedSide:
    """The engine's side of rings and board."""

    def __init__(self, said: dict[str, Any], root: Path) -> None:
        paths = engine_paths(said["engine_id"], root)
        names = ("max_running_requests", "kv_blocks", "kv_block_tokens", "step_token_budget")
        self.capacity = Engine(**{name: said[name] for name in names})
        self.dim = said["dim"]
        self.events = RingProducer(paths.events, EVENT_RING_BYTES)
        self.rows = RingProducer(paths.rows, ROW_RING_BYTES, Ringer(paths.row_bell))
        self.board = BoardReader(paths.board)
        self.heard_by = -1
        self.living: dict[str, Arrived] = {}
        self.ages: dict[int, int] = {}
        """Of the running batch, by handle."""
        self.plan: BoardPlan | None = None

    def look(self) -> None:
        """A new agent, or one that lost something, is told everything anew."""
        if self.heard_by != self.events.consumer_generation:
            self.heard_by = self.events.consumer_generation
            self.events.write(self.capacity.pack())
            for request in self.living.values():
                self.events.write(request.pack())

    def arrived(self, said: dict[str, Any]) -> None:
        request = Arrived(
            handle=handle_of(said["request_id"]), request_id=said["request_id"], arrival_time_s=said["arrival_time_s"],
            age_tokens=0, max_tokens=said["max_tokens"], declared_output_tokens=0, priority=said["priority"],
            tenant=said["tenant"], prompt_token_ids=np.array(said["prompt_token_ids"], np.uint32),
        )  # fmt: skip
        self.living[request.request_id] = request
        self.events.write(request.pack())

    def step(self, said: dict[str, Any]) -> None:
        running = said["running"]
        self.ages = {handle_of(each["request_id"]): each["age"] for each in running}
        record = Step(
            step=said["step"], monotonic_ns=time.monotonic_ns(), plan_number=0, duration_s=said["duration_s"],
            free_kv_blocks=said["free_kv_blocks"], waiting=len(self.living) - len(running),
            running=np.array(list(self.ages), np.uint64), ages=np.array(list(self.ages.values()), np.uint32),
            computed_tokens=np.array([each["computed_tokens"] for each in running], np.uint32),
            preempted=np.array([handle_of(name) for name in said["preempted"]], np.uint64), preempted_by_plan=0,
        )  # fmt: skip
        self.events.write(record.pack())
        rows = said["rows"]
        if rows:
            shipped = Rows(
                said["step"], engine_pb2.DTYPE_FLOAT32, self.dim,
                np.array([handle_of(row["request_id"]) for row in rows], np.uint64),
                np.array([row["age"] for row in rows], np.uint32),
                np.array([row["values"] for row in rows], np.float32),
            )  # fmt: skip
            self.rows.write(*shipped.pack())

    def finished(self, said: dict[str, Any]) -> None:
        handle = self.living.pop(said["request_id"]).handle
        self.ages.pop(handle, None)
        reason = scheduler_pb2.FinishReason.Value(f"FINISH_REASON_{said['reason'].upper()}")
        numbers = ("output_tokens", "latency_s", "time_to_first_token_s", "preemptions", "recomputed_tokens")
        self.events.write(Finished(handle, reason, *(said[name] for name in numbers)).pack())

    def decide(self) -> dict[str, list[str]]:
        newest = self.board.newest()
        plan = self.plan = newest or self.plan
        if plan is None or not plan.alive():
            return {"order": [], "preempt": []}
        names = {request.handle: name for name, request in self.living.items()}
        return {
            "order": [names[handle] for handle in plan.handles.tolist() if handle in names],
            "preempt": self._victims(newest, names) if newest else [],
        }

    def _victims(self, plan: BoardPlan, names: dict[int, str]) -> list[str]:
        """As the scheduler mixin chooses them."""
        waiting = names.keys() - self.ages.keys()
        planned = zip(plan.victims.tolist(), plan.guards.tolist(), plan.beneficiaries.tolist(), strict=True)
        return [
            names[victim]
            for victim, below, beneficiary in planned
            if self.ages.get(victim, below) < below and beneficiary in waiting
        ]


def main() -> None:
    said = json.loads(sys.stdin.readline())
    lines: queue.Queue[str] = queue.Queue()
    with tempfile.TemporaryDirectory(prefix="trail-") as folder:
        settings = {
            "ENGINE_ID": said["engine_id"], "SHM_ROOT": folder, "EXIT_WITH_PARENT": "true", "LOG_FORMAT": "console",
            "PREDICTOR_TARGET": os.environ["TRAIL_PREDICTOR"], "SCHEDULER_TARGET": os.environ["TRAIL_SCHEDULER"],
        }  # fmt: skip
        environment = os.environ | {f"TRAIL_AGENT_{name}": value for name, value in settings.items()}
        side = ScriptedSide(said, Path(folder))
        agent = subprocess.Popen([sys.executable, "-m", "engine_adapter.agent"], env=environment, stdin=subprocess.PIPE)
        threading.Thread(target=_read, args=(lines,), daemon=True).start()
        while _turn(side, lines):
            side.look()
        assert agent.stdin is not None
        agent.stdin.close()
        sys.exit(agent.wait())


def _read(lines: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    lines.put("")


def _turn(side: ScriptedSide, lines: "queue.Queue[str]") -> bool:
    """The next line, if there is one; False at the end."""
    try:
        line = lines.get(timeout=LOOK_S)
    except queue.Empty:
        return True
    if not line:
        return False
    said = json.loads(line)
    if said["event"] == "schedule":
        print(json.dumps(side.decide()), flush=True)
    else:
        getattr(side, said["event"])(said)
    return True


if __name__ == "__main__":
    main()
