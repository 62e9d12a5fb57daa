"""The tap of an engine that projects its rows, against transformers and the projection in numpy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from engine_adapter.paths import engine_paths
from engine_adapter.ring import RingConsumer
from sidecar.cli.serve import keep_projection
from sidecar.projection import Projection
from tests.e2e.test_tap_shapes import LAYERS, OUTPUT_TOKENS, PROMPTS, checked, made, read_all

HIDDEN, P = 128, 32

pytestmark = pytest.mark.vllm


def test_rows_are_the_projected_hidden_states(tmp_path: Path) -> None:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    from vllm import LLM, SamplingParams

    reference, rng, dim = made("Llama", tmp_path / "model"), np.random.default_rng(0), HIDDEN * len(LAYERS)
    mean, scale = rng.normal(0, 0.3, dim).astype(np.float32), rng.uniform(0.5, 5, dim).astype(np.float32)
    weight = rng.normal(0, dim**-0.5, (dim, P)).astype(np.float16)
    project = Projection(mean, scale, np.array(1.5, np.float32), weight)
    paths = engine_paths("tap", tmp_path)
    events, rows = RingConsumer(paths.events, 1 << 20), RingConsumer(paths.rows, 1 << 22)
    trail = {
        "tap_share": 1,
        "engine_id": "tap", "shm_root": str(tmp_path), "layers": LAYERS, "event_ring_bytes": 1 << 20,
        "row_ring_bytes": 1 << 22, "projection": keep_projection(project.pack(), paths.folder),
    }  # fmt: skip
    llm = LLM(
        str(tmp_path / "model"), dtype="float32", enforce_eager=True, skip_tokenizer_init=True, max_num_seqs=2,
        max_num_batched_tokens=32, max_model_len=256, block_size=32, seed=0, additional_config={"trail": trail},
        scheduler_cls="engine_adapter.vllm.scheduler.TrailScheduler",
        worker_cls="engine_adapter.vllm.cpu_worker.TrailCPUWorker",
    )  # fmt: skip
    try:
        greedy = SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0, ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": tokens} for tokens in PROMPTS.values()]
        outputs = llm.generate(prompts, greedy, use_tqdm=False)
        tokens = {tuple(o.prompt_token_ids): [*o.prompt_token_ids, *o.outputs[0].token_ids] for o in outputs}
        shipped = read_all(rows)
        assert {record.dim for record in shipped} == {P}
        found = checked(dict.fromkeys(tokens, reference), tokens, read_all(events), shipped, sent=project, error=2e-3)
        assert found == len(PROMPTS) * OUTPUT_TOKENS
    finally:
        llm.llm_engine.engine_core.shutdown()
