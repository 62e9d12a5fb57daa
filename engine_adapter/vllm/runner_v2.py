"""What the tap needs to know of vLLM's V2 model runner, the one that it uses on GPUs by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from engine_adapter.vllm.tap import StepBatch

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner


def newest_pass(runner: GPUModelRunner) -> tuple[StepBatch, Sequence[torch.Tensor]] | None:
    """The forward pass that waits for its sampling, with one [tokens, hidden] tensor a tapped layer.

    None where no pass waits (nothing was scheduled). To be called before ``sample_tokens``, which takes the pass away.
    """
    state = runner.execute_model_state
    if state is None or state.aux_hidden_states is None:
        return None
    inputs = state.input_batch
    batch = StepBatch(
        request_ids=inputs.req_ids,
        computed=inputs.num_computed_tokens_np,
        scheduled=inputs.num_scheduled_tokens,
        prompt_tokens=runner.req_states.prompt_len.np[inputs.idx_mapping_np],
    )
    return batch, state.aux_hidden_states
