"""The simulated engine's size and speed."""

from __future__ import annotations

from dataclasses import dataclass

from engine_adapter.records import Engine
from engine_adapter.simulated.step_time import StepTime
from scheduler_service.view import Capacity
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.workload import Workload


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """What the engine can hold, and how long its steps take.

    Raises SimulateError where the limits contradict each other.
    """

    step_time: StepTime
    slots: int = 64
    kv_blocks: int = 8192
    block_tokens: int = 16
    token_budget: int = 2048
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        for option in ("slots", "kv_blocks", "block_tokens", "token_budget"):
            value = getattr(self, option)
            if value < 1:
                raise SimulateError(f"--{option.replace('_', '-')} {value}: must be 1 or more")
        if self.token_budget < self.slots:
            raise SimulateError(
                f"--token-budget {self.token_budget}: less than --slots {self.slots}, "
                "so a step could not decode for all that run"
            )
        if self.kv_blocks < self.slots:
            raise SimulateError(
                f"--kv-blocks {self.kv_blocks}: less than --slots {self.slots}, and each request needs one or more"
            )

    @property
    def engine(self) -> Engine:
        return Engine(self.slots, self.kv_blocks, self.block_tokens, self.token_budget)

    @property
    def capacity(self) -> Capacity:
        """As the scheduler is told."""
        return Capacity(self.slots, self.kv_blocks, self.block_tokens, self.token_budget)

    def check_fits(self, workload: Workload) -> None:
        """Raises SimulateError where a request could never run to its end."""
        tokens = workload.prompt_tokens + workload.output_tokens
        worst = int(tokens.argmax())
        blocks = -(-int(tokens[worst]) // self.block_tokens)
        if blocks > self.kv_blocks:
            raise SimulateError(
                f"--kv-blocks {self.kv_blocks}: row {worst + 1} has {workload.prompt_tokens[worst]} prompt_tokens and "
                f"{workload.output_tokens[worst]} output_tokens, which take {blocks} blocks of {self.block_tokens}"
            )
