"""vLLM's own scheduler in the place of the simulated engine, so that both can be told apart by what they do."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from engine_adapter.board import BoardPlan, BoardWriter
from engine_adapter.paths import engine_paths
from engine_adapter.simulated.request import SimulatedRequest
from engine_adapter.simulated.step_result import StepLoad, StepResult
from engine_adapter.vllm.scheduler import PlanMixin
from sidecar.cli.simulate.setup import EngineSetup
from tests.integration.vllm_engine import VOCABULARY, block_hasher, config_of, scheduler_of


class Watched(Scheduler):  # type: ignore[misc]
    """vLLM's scheduler; remembers whom a step took out of the batch, and how many KV entries went with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gone: list[tuple[str, int]] = []

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.gone.append((request.request_id, request.num_computed_tokens))
        super()._preempt_request(request, *args, **kwargs)


class WatchedWithPlans(PlanMixin, Watched):
    """The same behind the mixin; victims of a plan are counted apart."""

    by_plan = 0

    def _apply_plan(self) -> list[Request]:
        victims = super()._apply_plan()
        self.by_plan = len(victims)
        return victims


class VllmModel:
    """What `Simulation` needs of an `EngineModel`, done by vLLM's scheduler, on the simulation's clock."""

    def __init__(self, setup: EngineSetup, folder: Path, *, attached: bool) -> None:
        trail = {"engine_id": "e0", "shm_root": str(folder / "shm")} if attached else None
        config = config_of(
            folder / "model", setup.slots, asynchronous=False, trail=trail, step_tokens=setup.token_budget
        )
        self._board = BoardWriter(engine_paths("e0", folder / "shm").board) if attached else None
        self._hasher = block_hasher()
        # One block more: vLLM keeps one for itself.
        self.scheduler = scheduler_of(WatchedWithPlans if attached else Watched, config, setup.kv_blocks + 1)
        self._requests: dict[str, SimulatedRequest] = {}
        self._plan: BoardPlan | None = None
        self.queue, self.kv = self.scheduler.waiting, self

    @property
    def batch(self) -> list[Request]:
        running: list[Request] = self.scheduler.running
        return running

    @property
    def free(self) -> int:
        """KV blocks."""
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def submit(self, request: SimulatedRequest) -> None:
        # The simulator's handles are numbers of its own.
        self._requests[request.request_id] = request
        content = np.random.default_rng(request.handle).integers(VOCABULARY, size=request.prompt_tokens).tolist()
        parameters = SamplingParams(max_tokens=request.output_tokens, ignore_eos=True)
        real = Request(
            request.request_id, content, parameters, None, arrival_time=request.arrival_s, block_hasher=self._hasher
        )
        self.scheduler.add_request(real)
        if self._board is not None:
            self.scheduler._reporter._by_handle[request.handle] = request.request_id

    def schedule(self, plan: BoardPlan | None) -> StepResult:
        if plan is not self._plan and plan is not None and self._board is not None:
            self._board.publish(replace(plan, expires_ns=time.monotonic_ns() + 600 * 10**9))
        self._plan = plan
        scheduler = self.scheduler
        scheduler.gone.clear()
        self._output = scheduler.schedule()
        self._batch = list(scheduler.running)
        scheduled = self._output.num_scheduled_tokens
        chunks = np.array([scheduled.get(each.request_id, 0) for each in self._batch], np.int64)
        computed = np.array([each.num_computed_tokens for each in self._batch], np.int64) - chunks
        prompts = np.array([each.num_prompt_tokens for each in self._batch], np.int64)
        requests = [self._requests[each.request_id] for each in self._batch]
        admitted = self._enter(dict(zip((each.request_id for each in self._batch), computed.tolist(), strict=True)))
        gone, by_plan = self._leave(), getattr(scheduler, "by_plan", 0)
        return StepResult(
            requests,
            np.array([each.handle for each in requests], np.uint64),
            np.array([each.num_output_tokens for each in self._batch], np.int64),
            computed,
            chunks,
            StepLoad(
                int(np.count_nonzero(chunks)), int(chunks[computed < prompts].sum()), int((computed + chunks).sum())
            ),
            admitted,
            gone[:by_plan],
            gone[by_plan:],
        )

    def execute(self, result: StepResult, now_s: float) -> None:
        """Any token will do, for each request's prompt is its own."""
        scheduled = list(self._output.num_scheduled_tokens)
        made = {each.request_id for each in self._batch if each.num_computed_tokens >= each.num_tokens} & {*scheduled}
        result.made = np.array([each.request_id in made for each in self._batch], np.bool_)
        finished = []
        for row in np.flatnonzero(result.made).tolist():
            request = result.requests[row]
            request.parked_age_tokens = int(result.ages[row]) + 1
            if request.first_token_s is None:
                request.first_token_s = now_s
            if request.parked_age_tokens == request.output_tokens:
                finished.append(request)
        result.finished = finished
        answer = ModelRunnerOutput(
            req_ids=scheduled,
            req_id_to_index={name: at for at, name in enumerate(scheduled)},
            sampled_token_ids=[[1] if name in made else [] for name in scheduled],
            prompt_logprobs_dict={},
        )
        self.scheduler.update_from_output(self._output, answer)

    def _enter(self, computed: dict[str, int]) -> list[SimulatedRequest]:
        """Who was admitted, with what the prefix cache gave them."""
        new = [each.req_id for each in self._output.scheduled_new_reqs]
        admitted = [
            self._requests[name] for name in (*new, *self._output.scheduled_cached_reqs.resumed_req_ids)
        ]  # fmt: skip
        for request in admitted:
            found = computed[request.request_id]
            request.cached_tokens += found
            request.parked_recomputed_tokens += max(request.parked_lost_tokens - found, 0)
            request.parked_lost_tokens = 0
        return admitted

    def _leave(self) -> list[SimulatedRequest]:
        left = []
        for name, lost in self.scheduler.gone:
            request = self._requests[name]
            request.preemptions += 1
            request.parked_lost_tokens = lost
            left.append(request)
        return left
