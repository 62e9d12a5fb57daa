"""The tap against transformers: the same model, the same tokens, the same hidden states.

On a CPU in float32 and bfloat16; where there is a GPU, on that in bfloat16, with CUDA graphs and asynchronous
scheduling, and both of vLLM's model runners.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from engine_adapter.board import BoardPlan, BoardWriter
from engine_adapter.paths import engine_paths
from engine_adapter.records import Arrived, Finished, Record, Rows, Step, handle_of, unpack
from engine_adapter.ring import RingConsumer

LAYERS = (12, 18)
FLOAT32_ERROR, BFLOAT16_ERROR = 1e-4, 1e-2
LONG = "The quick brown fox jumps over the lazy dog, and then it does it again. " * 6
PROMPTS = (
    LONG + "Why?",
    "What is the capital of France?",
    LONG + "Who?",
    "Count from one to twenty.",
    "Say something.",
)
OUTPUT_TOKENS = 24

pytestmark = pytest.mark.vllm


@dataclass
class Tapped:
    """A vLLM engine in this process, with its rings read here instead of by an agent."""

    dtype: str
    llm: Any
    events: RingConsumer
    rows: RingConsumer
    board: BoardWriter
    tokens: dict[int, list[int]] = field(default_factory=dict)
    """Handle -> prompt and output."""
    seen: list[Record] = field(default_factory=list)

    def generate(self, names: dict[str, str], plans: dict[int, BoardPlan] | None = None) -> list[Rows]:
        """Greedy answers to ``names``' prompts, publishing ``plans[n]`` before step n."""
        from vllm import SamplingParams

        engine = self.llm.llm_engine
        prompts: dict[str, list[int]] = {}
        for name, text in names.items():
            prompts[name] = self.llm.get_tokenizer().encode(text)
            greedy = SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0, ignore_eos=True)
            engine.add_request(name, {"prompt_token_ids": prompts[name]}, greedy)
        outputs: dict[str, list[int]] = {}
        step = 0
        while engine.has_unfinished_requests():
            step += 1
            if plans and step in plans:
                self.board.publish(plans[step])
            for output in engine.step():
                outputs[output.request_id] = list(output.outputs[0].token_ids)
        while (record := self.events.read()) is not None:
            self.seen.append(unpack(record))
        for arrived in (record for record in self.seen if isinstance(record, Arrived)):
            name = next((n for n in names if arrived.request_id.startswith(n)), None)
            if name is not None:
                self.tokens[arrived.handle] = prompts[name] + outputs[name]
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # The GPU writes rows by itself.
        found: list[Rows] = []
        while (record := self.rows.read()) is not None:
            rows = unpack(record)
            assert isinstance(rows, Rows)
            found.append(rows)
        return found


ON_GPU = torch.cuda.is_available()


@pytest.fixture(scope="module", params=["runner 2", "runner 1"] if ON_GPU else ["float32", "bfloat16"])
def tapped(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tapped]:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    dtype = "bfloat16" if ON_GPU else request.param
    if ON_GPU:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(int(request.param == "runner 2"))
    from vllm import LLM

    # A GPU can write to shared memory only, not to a file on a disk.
    root = Path(tempfile.mkdtemp(dir="/dev/shm")) if ON_GPU else tmp_path_factory.mktemp("shm")
    paths = engine_paths("tap", root)
    rings = RingConsumer(paths.events, 1 << 22), RingConsumer(paths.rows, 1 << 24)
    board = BoardWriter(paths.board)
    trail = {
        "engine_id": "tap", "shm_root": str(root), "layers": LAYERS, "row_dtype": dtype,
        "event_ring_bytes": 1 << 22, "row_ring_bytes": 1 << 24, "tap_share": 1,
    }  # fmt: skip
    llm = LLM(
        str(model), dtype=dtype, enforce_eager=not ON_GPU, max_num_seqs=3, max_num_batched_tokens=32,
        max_model_len=512, block_size=32, enable_prefix_caching=True, seed=0, gpu_memory_utilization=0.4,
        scheduler_cls=f"engine_adapter.vllm.scheduler.Trail{'Async' if ON_GPU else ''}Scheduler",
        worker_cls=f"engine_adapter.vllm.{'worker.TrailGPUWorker' if ON_GPU else 'cpu_worker.TrailCPUWorker'}",
        additional_config={"trail": trail},
    )  # fmt: skip
    yield Tapped(dtype, llm, *rings, board)
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="module")
def reference(model: Path) -> Any:
    """transformers' model in float32: the weights are bfloat16's, so it is the truth for both precisions."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def _states(reference: Any, tokens: list[int]) -> npt.NDArray[np.float32]:
    """The tapped layers of every position, one after the other: [tokens, layers * hidden]."""
    with torch.no_grad():
        hidden = reference(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    return torch.cat([hidden[layer][0].float() for layer in LAYERS], 1).numpy()


def _values(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32, of float32 or of bfloat16's bits."""
    return (vectors.astype(np.uint32) << 16).view(np.float32) if vectors.dtype == np.uint16 else vectors


def _error(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _check(tapped: Tapped, reference: Any, found: list[Rows]) -> dict[int, list[int]]:
    """Every row against transformers; returns the ages seen of each request, 0 for the prompt's row.

    In float32 each row must agree. In bfloat16 the rows' median must: single rows of two correct bfloat16 programs
    differ by more (transformers' own bfloat16 from its float32, these prompts: median 0.7 %, worst row 25 %), and a
    row of another position or layer is off by its whole size.
    """
    ages: dict[int, list[int]] = {}
    states = {handle: _states(reference, tokens) for handle, tokens in tapped.tokens.items()}
    prompts = {record.handle: len(record.prompt_token_ids) for record in tapped.seen if isinstance(record, Arrived)}
    errors: list[float] = []
    for rows in found:
        for handle, age, vector in zip(rows.handles.tolist(), rows.ages.tolist(), _values(rows.vectors), strict=True):
            errors.append(_error(vector, states[handle][prompts[handle] + age - 1]))
            ages.setdefault(handle, []).append(age)
    if tapped.dtype == "float32":
        assert max(errors) < FLOAT32_ERROR
    else:
        assert np.median(errors) < BFLOAT16_ERROR
        assert np.percentile(errors, 95) < 5 * BFLOAT16_ERROR
    return ages


def test_every_row_is_the_hidden_state_through_chunked_prefill(tapped: Tapped, reference: Any) -> None:
    """Prompts longer than the token budget, more requests than slots."""
    found = tapped.generate({f"a{i}-": prompt for i, prompt in enumerate(PROMPTS)})
    ages = _check(tapped, reference, found)
    assert len(ages) == len(PROMPTS)
    # The last token is sampled and never read, so its state does not exist.
    assert all(seen == list(range(OUTPUT_TOKENS)) for seen in ages.values())


def test_a_prefix_cache_hit_leaves_the_rows_right(tapped: Tapped, reference: Any) -> None:
    found = tapped.generate({"b-": LONG + "Why?"})
    ages = _check(tapped, reference, found)
    assert [seen for seen in ages.values()] == [list(range(OUTPUT_TOKENS))]
    handle = next(iter(ages))
    first = next(record for record in tapped.seen if isinstance(record, Step) and handle in record.running)
    assert first.computed_tokens[first.running == handle].tolist() != [0], "the cache had its beginning"


def test_preemption_and_recompute_leave_every_row_right(tapped: Tapped, reference: Any) -> None:
    names = {f"c{i}-": f"{i}. {prompt}" for i, prompt in enumerate(PROMPTS)}
    engine = tapped.llm.llm_engine
    preempted_before = _preemptions(tapped)

    class Plans(dict[int, BoardPlan]):
        """Before every fourth step, the batch's first gives way to the first that waits."""

        def __contains__(self, step: object) -> bool:
            scheduler = engine.engine_core.engine_core.scheduler
            return isinstance(step, int) and step % 4 == 0 and bool(scheduler.running) and bool(scheduler.waiting)

        def __getitem__(self, step: int) -> BoardPlan:
            scheduler = engine.engine_core.engine_core.scheduler
            victim = handle_of(scheduler.running[0].request_id)
            beneficiary = handle_of(next(iter(scheduler.waiting)).request_id)
            return BoardPlan(
                number=step, expires_ns=time.monotonic_ns() + 10**10,
                handles=np.array([beneficiary, victim], np.uint64), ranks=np.zeros(2, np.float32),
                victims=np.array([victim], np.uint64), guards=np.array([OUTPUT_TOKENS], np.uint32),
                beneficiaries=np.array([beneficiary], np.uint64),
            )  # fmt: skip

        def __bool__(self) -> bool:
            return True

    found = tapped.generate(names, Plans())
    ages = _check(tapped, reference, found)
    assert _preemptions(tapped) - preempted_before >= 3
    outcomes = [record for record in tapped.seen if isinstance(record, Finished) and record.preemptions]
    assert outcomes, "some request finished after a preemption"
    assert all(seen == sorted(set(seen)) for seen in ages.values()), "no age twice, none out of order"
    assert all(max(seen) == OUTPUT_TOKENS - 1 for seen in ages.values())


def _preemptions(tapped: Tapped) -> int:
    return sum(record.preempted_by_plan for record in tapped.seen if isinstance(record, Step))
