"""How long a request of a load runs, for aging's T is counted in that."""

from __future__ import annotations

import numpy as np

from sidecar.cli.simulate.loads import Load
from sidecar.cli.simulate.setup import EngineSetup

REQUESTS = 2000


def mean_service_s(setup: EngineSetup, load: Load) -> float:
    """Seconds of one place that a request of this load takes: mean output tokens times the time of a decode step,
    and its prompt at the prefill rate for every slot, as the scheduler counts it (`scheduler_service.work`).

    The step is that of a full batch: of as many requests as there are slots, or as KV memory holds. A running
    request holds its prompt and what it has generated, so over its o steps p + o / 2 tokens on average; of those that
    run at some moment, long ones are seen more often, by o.
    """
    rows = load.typical(REQUESTS)
    prompt, output = rows.prompt_tokens.astype(np.float64), rows.output_tokens.astype(np.float64)
    held_tokens = float((output * (prompt + output / 2)).sum() / output.sum())
    batch = min(float(setup.slots), max(setup.kv_blocks * setup.block_tokens / held_tokens, 1.0))
    step_s = float(setup.step_time.of(batch, 0, batch * held_tokens))
    prefill_s = setup.step_time.e_s + float(prompt.mean()) * max(setup.step_time.c_s, step_s / setup.token_budget)
    return load.mean_output_tokens * step_s + setup.slots * prefill_s
