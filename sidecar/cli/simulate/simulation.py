"""One run: requests arrive, the engine steps, the scheduler plans, on a clock that only the steps move."""

from __future__ import annotations

import numpy as np

from engine_adapter.simulated.fast_forward import fast_forward, kv_blocks_during, quiet_steps
from engine_adapter.simulated.model import EngineModel
from sidecar.cli.simulate.ledger import Ledger
from sidecar.cli.simulate.planning import Planning
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.workload import Workload

MOST_STEPS_WITHOUT_WORK = 1000


class Simulation:
    """Serves a workload to its end. Without a ``planning`` the engine goes its own way, and steps that only decode are
    taken many at once; ``leaps=False`` takes them one by one, with the same result."""

    def __init__(
        self, setup: EngineSetup, workload: Workload, planning: Planning | None, *, leaps: bool = True
    ) -> None:
        setup.check_fits(workload)
        self._setup, self._workload, self._planning = setup, workload, planning
        self._leaps = leaps and planning is None
        self._arrivals = workload.arrival_s.tolist()
        self.model = EngineModel(setup.engine, prefix_cache=setup.prefix_cache)
        self.ledger = Ledger.of(workload)
        self.now_s = 0.0
        self.tokens = 0
        """Generated so far."""
        self._next = 0
        self._step = 0
        self._last_s = 0.0
        self._without_work = 0

    def run(self) -> Ledger:
        """Serves all requests."""
        while self.advance():
            pass
        return self.ledger

    def advance(self) -> bool:
        """One step, or a leap over some; False when everything is done."""
        if not len(self.model.batch) and not len(self.model.queue):
            if self._next == len(self._arrivals):
                return False
            self.now_s, self._last_s = max(self.now_s, self._arrivals[self._next]), 0.0
        self._arrive()
        if not (self._leaps and self._leap()):
            self._one_step()
        return True

    def _arrive(self) -> None:
        while self._next < len(self._arrivals) and self._arrivals[self._next] <= self.now_s:
            request = self._workload.request(self._next, self._setup.block_tokens)
            self.model.submit(request)
            if self._planning is not None:
                self._planning.arrived(request)
            self._next += 1

    def _one_step(self) -> None:
        model, load_of = self.model, self._setup.step_time.of
        result = model.schedule(None if self._planning is None else self._planning.plan_for(self._step))
        self.ledger.scheduled(result, self.now_s)
        free_kv_blocks, waiting = model.kv.free, len(model.queue)
        duration_s = float(load_of(result.load.batch, result.load.prefill_tokens, result.load.kv_tokens))
        end_s = self.now_s + duration_s
        model.execute(result, end_s)
        if self._planning is not None:
            self._planning.stepped(
                self._step, result, self._last_s, waiting=waiting, free_kv_blocks=free_kv_blocks, end_s=end_s
            )
        for request in result.finished:
            self.ledger.finished(request, end_s)
        self.ledger.stepped(duration_s, self._setup.kv_blocks - free_kv_blocks)
        self.tokens += int(np.count_nonzero(result.made))
        self.now_s, self._last_s, self._step = end_s, duration_s, self._step + 1
        self._check_work(result.load.batch)

    def _leap(self) -> bool:
        """As many steps at once as only decode and start before the next arrival; False where there is none."""
        model, steps = self.model, quiet_steps(self.model)
        if not steps:
            return False
        batch = len(model.batch)
        kv_tokens = int(model.batch.computed.sum()) + batch * np.arange(1, steps + 1)
        durations_s = np.broadcast_to(self._setup.step_time.of(batch, 0, kv_tokens), steps)
        ends_s = np.add.accumulate(np.concatenate([[self.now_s], durations_s]))
        if self._next < len(self._arrivals):
            steps = int(np.searchsorted(ends_s[:-1], self._arrivals[self._next], side="left"))
        if not steps:
            return False
        self.ledger.step_s.extend(durations_s[:steps].tolist())
        self.ledger.kv_blocks.extend(kv_blocks_during(model, steps).tolist())
        fast_forward(model, steps)
        self.tokens += batch * steps
        self.now_s, self._last_s = float(ends_s[steps]), float(durations_s[steps - 1])
        self._step += steps
        return True

    def _check_work(self, computing: int) -> None:
        """Raises RuntimeError where the engine and the plans keep each other from work, which would be a fault."""
        self._without_work = 0 if computing else self._without_work + 1
        if self._without_work > MOST_STEPS_WITHOUT_WORK:
            raise RuntimeError(f"{MOST_STEPS_WITHOUT_WORK} steps in a row computed nothing")
