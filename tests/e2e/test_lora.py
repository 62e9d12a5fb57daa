"""LoRA: requests with an adapter and without one in a batch, under plans that preempt, tapped alike."""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine_adapter.board import BoardPlan, BoardWriter
from engine_adapter.paths import engine_paths
from engine_adapter.records import Step, handle_of
from engine_adapter.ring import RingConsumer
from tests.e2e.test_tap_shapes import LAYERS, OUTPUT_TOKENS, checked, made, read_all

RANK, ALPHA = 4, 8
PROMPTS = {"plain": list(range(3, 40)), "adapted": [7, 7, 9], "adapted-too": list(range(100, 80, -1)), "last": [5, 6]}

pytestmark = pytest.mark.vllm


def test_rows_with_an_adapter_are_those_of_the_merged_model_through_preemption(tmp_path: Path) -> None:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    base = made("Llama", tmp_path / "model")
    merged = _with_adapter(base, tmp_path / "adapter")
    paths = engine_paths("lora", tmp_path)
    events, rows = RingConsumer(paths.events, 1 << 20), RingConsumer(paths.rows, 1 << 22)
    board = BoardWriter(paths.board)
    trail = {
        "tap_share": 1,
        "engine_id": "lora", "shm_root": str(tmp_path), "layers": LAYERS, "row_dtype": "float32",
        "event_ring_bytes": 1 << 20, "row_ring_bytes": 1 << 22,
    }  # fmt: skip
    llm = LLM(
        str(tmp_path / "model"), dtype="float32", enforce_eager=True, skip_tokenizer_init=True, max_num_seqs=2,
        max_num_batched_tokens=32, max_model_len=256, block_size=32, seed=0, additional_config={"trail": trail},
        # One adapter more than there is: vLLM 0.32 on CPU gives the last one to requests that have none.
        enable_lora=True, max_loras=2, max_lora_rank=8,
        scheduler_cls="engine_adapter.vllm.scheduler.TrailScheduler",
        worker_cls="engine_adapter.vllm.cpu_worker.TrailCPUWorker",
    )  # fmt: skip
    engine = llm.llm_engine
    try:
        greedy = SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0, ignore_eos=True, detokenize=False)
        adapter = LoRARequest("adapter", 1, str(tmp_path / "adapter"))
        for name, prompt in PROMPTS.items():
            lora = adapter if name.startswith("adapted") else None
            engine.add_request(name, {"prompt_token_ids": prompt}, greedy, lora_request=lora)
        tokens: dict[tuple[int, ...], list[int]] = {}
        for number in range(1, 200):
            if not engine.has_unfinished_requests():
                break
            _exchange(engine.engine_core.engine_core.scheduler, board, number)
            for output in engine.step():
                prompt = PROMPTS[output.request_id]
                tokens[tuple(prompt)] = [*prompt, *output.outputs[0].token_ids]
        assert {prompt: len(given) - len(prompt) for prompt, given in tokens.items()} == {
            tuple(prompt): OUTPUT_TOKENS for prompt in PROMPTS.values()
        }
        told = read_all(events)
        assert sum(record.preempted_by_plan for record in told if isinstance(record, Step)) >= 2
        references = {tuple(p): merged if name.startswith("adapted") else base for name, p in PROMPTS.items()}
        assert checked(references, tokens, told, read_all(rows)) >= len(PROMPTS) * OUTPUT_TOKENS
    finally:
        engine.engine_core.shutdown()


def _exchange(scheduler: Any, board: BoardWriter, number: int) -> None:
    """Before every third step, the batch's first gives way to the first that waits."""
    if number % 3 or not scheduler.running or not scheduler.waiting:
        return
    victim = handle_of(scheduler.running[0].request_id)
    beneficiary = handle_of(next(iter(scheduler.waiting)).request_id)
    board.publish(
        BoardPlan(
            number=number,
            expires_ns=time.monotonic_ns() + 10**10,
            handles=np.array([beneficiary, victim], np.uint64),
            ranks=np.zeros(2, np.float32),
            victims=np.array([victim], np.uint64),
            guards=np.array([OUTPUT_TOKENS], np.uint32),
            beneficiaries=np.array([beneficiary], np.uint64),
        )
    )


def _with_adapter(base: Any, folder: Path) -> Any:
    """Saves a random adapter of ``base`` in PEFT's format; returns the model with it merged: W + alpha / rank * B A."""
    merged, weights = copy.deepcopy(base), {}
    torch.manual_seed(1)
    for index, layer in enumerate(merged.model.layers):
        for name in ("q_proj", "v_proj"):
            weight = getattr(layer.self_attn, name).weight
            a, b = torch.randn(RANK, weight.shape[1]) * 0.1, torch.randn(weight.shape[0], RANK) * 0.1
            weight.data += ALPHA / RANK * b @ a
            at = f"base_model.model.model.layers.{index}.self_attn.{name}"
            weights |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "v_proj"],
                    "task_type": "CAUSAL_LM", "bias": "none"})
    )  # fmt: skip
    return merged
