"""The tap on each family of models, small and with random weights, against transformers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine_adapter.paths import engine_paths
from engine_adapter.records import Arrived, Rows, unpack
from engine_adapter.ring import RingConsumer

LAYERS = (1, 3)
OUTPUT_TOKENS = 6
PROMPTS = {"a": list(range(3, 40)), "b": [7, 7, 9], "c": list(range(100, 80, -1))}

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_rows_are_the_hidden_states_of_every_family(family: str, tmp_path: Path) -> None:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    from vllm import LLM, SamplingParams

    reference = made(family, tmp_path / "model")
    paths = engine_paths("tap", tmp_path)
    events, rows = RingConsumer(paths.events, 1 << 20), RingConsumer(paths.rows, 1 << 22)
    trail = {
        "tap_share": 1,
        "engine_id": "tap", "shm_root": str(tmp_path), "layers": LAYERS, "row_dtype": "float32",
        "event_ring_bytes": 1 << 20, "row_ring_bytes": 1 << 22,
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
        assert (
            checked(dict.fromkeys(tokens, reference), tokens, read_all(events), read_all(rows))
            == len(PROMPTS) * OUTPUT_TOKENS
        )
    finally:
        llm.llm_engine.engine_core.shutdown()


def made(family: str, folder: Path) -> Any:
    """A model of four layers, saved to `folder`."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, tie_word_embeddings=False,
        sliding_window=None, architectures=[f"{family}ForCausalLM"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    model.save_pretrained(folder)
    return model


def read_all(ring: RingConsumer) -> list[Any]:
    found = []
    while (record := ring.read()) is not None:
        found.append(unpack(record))
    return found


def checked(
    references: dict[tuple[int, ...], Any],
    tokens: dict[tuple[int, ...], list[int]],
    events: list[Any],
    rows: list[Any],
    *,
    sent: Callable[[Any], Any] = lambda states: states,
    error: float = 1e-4,
) -> int:
    """Rows that agree with their prompt's reference at their position; fails at the first that does not.

    ``tokens``: prompt -> prompt and output. ``sent``: what an engine makes of hidden states [N, D]. ``error``: of the
    largest value.
    """
    prompts = {e.handle: tuple(e.prompt_token_ids.tolist()) for e in events if isinstance(e, Arrived)}
    states: dict[int, Any] = {}
    for handle, prompt in prompts.items():
        with torch.no_grad():
            hidden = references[prompt](torch.tensor([tokens[prompt]]), output_hidden_states=True).hidden_states
        states[handle] = sent(torch.cat([hidden[layer][0] for layer in LAYERS], 1).numpy())
    agreed = 0
    for step in rows:
        assert isinstance(step, Rows)
        for handle, age, vector in zip(step.handles.tolist(), step.ages.tolist(), step.vectors, strict=True):
            wanted = states[handle][len(prompts[handle]) + age - 1]
            np.testing.assert_allclose(vector, wanted, atol=error * np.abs(wanted).max())
            agreed += 1
    return agreed
