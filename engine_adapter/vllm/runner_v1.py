"""What the tap needs to know of vLLM's V1 model runner. Another runner is another file like this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine_adapter.vllm.tap import StepBatch

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


def newest_pass(runner: GPUModelRunner) -> tuple[StepBatch, Sequence[torch.Tensor]] | None:
    """The forward pass that waits for its sampling, with one [tokens, hidden] tensor a tapped layer.

    None where no pass waits (nothing was scheduled). To be called before ``sample_tokens``, which moves the counts on.
    """
    state = runner.execute_model_state
    if state is None or state.aux_hidden_states is None:
        return None
    scheduled = state.scheduler_output.num_scheduled_tokens
    inputs = runner.input_batch
    names = inputs.req_ids
    batch = StepBatch(
        request_ids=names,
        computed=inputs.num_computed_tokens_cpu[: len(names)],
        scheduled=np.array([scheduled[name] for name in names], np.int64),
        prompt_tokens=inputs.num_prompt_tokens[: len(names)],
    )
    return batch, state.aux_hidden_states
