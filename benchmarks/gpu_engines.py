"""Two vLLM engines driven from one process, one stock and one attached to a store, predictor and scheduler of its own.

Both live at once and are used in turn, so that they see the same machine. Several drivers may run on one host, each
with its own GPU (CUDA_VISIBLE_DEVICES): ports, engine ids and folders are their own. On a CPU it works too, for checks.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.engine_counts import StepLog, recorder
from benchmarks.served_step import free_ports
from engine_adapter.paths import engine_paths
from scheduler_service import wire_policy
from scheduler_service.choice import PolicyChoice
from sidecar.cli.serve import adapter_classes, agent_beside
from sidecar.cli.stack import Stack, running_stack
from sidecar.cli.tapping import tap_settings

PREDICTOR_WAIT_S = 60.0
COUNTERS_WAIT_S = 10.0
UTILISATION = 0.05
"""What vLLM wants to find free at its start; KV memory is given in bytes, so it means nothing else."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # A fork of a process with threads of gRPC does not work.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
CPU_ENVIRONMENT = {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}


@dataclass(frozen=True, slots=True)
class EngineShape:
    """What both engines are given."""

    llm: Path
    slots: int
    model_tokens: int
    step_tokens: int = 8192
    kv_bytes: int = 8 << 30
    kv_blocks: int | None = None
    dummy: bool = False
    """Random weights, and no tokenizer."""

    def arguments(self, on_cpu: bool) -> dict[str, Any]:
        """Of vLLM's `AsyncEngineArgs`."""
        shared: dict[str, Any] = {
            "model": str(self.llm), "seed": 0, "max_num_seqs": self.slots, "max_model_len": self.model_tokens,
            "max_num_batched_tokens": self.step_tokens, "kv_cache_memory_bytes": self.kv_bytes,
            "num_gpu_blocks_override": self.kv_blocks, "gpu_memory_utilization": UTILISATION,
            "enable_prefix_caching": True, "disable_log_stats": True, "enable_log_requests": False,
        }  # fmt: skip
        if self.dummy:
            shared |= {"load_format": "dummy", "skip_tokenizer_init": True}
        if on_cpu:
            # vLLM on CPU cannot rewind the generator of a seeded request whose prefill is chunked.
            shared |= {"enforce_eager": True, "async_scheduling": False, "enable_chunked_prefill": False}
        return shared


@dataclass(frozen=True, slots=True)
class Sampled:
    """How a request is sampled, and what it declares."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    declared_tokens: int | None = None

    def parameters(self) -> Any:
        """vLLM's; only the last output is asked for, for it tells all times."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        declared = {"trail_output_tokens": self.declared_tokens} if self.declared_tokens else None
        return SamplingParams(
            max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed,
            ignore_eos=self.ignore_eos, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, extra_args=declared,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ended:
    """One request: monotonic times at which the engine gave out its first and its last token."""

    sent_s: float
    first_token_s: float
    end_s: float
    output_tokens: int
    reason: str


@dataclass(frozen=True, slots=True)
class Engine:
    """One of the two."""

    name: str
    llm: Any
    log: StepLog

    async def answer(self, request_id: str, prompt: Sequence[int], sampled: Sampled) -> Ended:
        """Sends one request and waits for its end."""
        from vllm.inputs import tokens_input

        sent_s, last = time.monotonic(), None
        async for output in self.llm.generate(tokens_input(list(prompt)), sampled.parameters(), request_id):
            last = output
        if last is None or not last.finished:
            raise RuntimeError(f"{self.name}: request {request_id} ended without an output")
        answer, times = last.outputs[0], last.metrics
        return Ended(
            sent_s, times.first_token_ts, times.last_token_ts, len(answer.token_ids), answer.finish_reason or ""
        )

    async def forget_prefixes(self) -> None:
        """Empties the prefix cache; the engine must be idle.

        Raises RuntimeError where it could not: some block was in use for ten seconds.
        """
        for _ in range(100):
            if await self.llm.reset_prefix_cache():
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{self.name}: its prefix cache cannot be reset, for it is not idle")


@dataclass(frozen=True, slots=True)
class Engines:
    """Both, and the way to the attached one's scheduler and agent."""

    stock: Engine
    attached: Engine
    engine_id: str
    stack: Stack
    tap: dict[str, Any]
    on_cpu: bool

    def set_policy(self, choice: PolicyChoice) -> None:
        """From the next plan on."""
        self.stack.set_policy(self.engine_id, wire_policy.settings(choice))

    def agent(self) -> dict[str, Any]:
        """The attached one's agent, now."""
        return agent_statistics(self.engine_id)


def agent_statistics(engine_id: str) -> dict[str, Any]:
    """What the agent of an engine of this host wrote of itself after now.

    Raises RuntimeError where it wrote nothing for ten seconds: it is dead.
    """
    path, asked_s = engine_paths(engine_id).folder / "statistics.json", time.time()
    while time.time() < asked_s + COUNTERS_WAIT_S:
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads(path.read_text())
            if found["written_s"] > asked_s:
                return found
        time.sleep(0.05)
    raise RuntimeError(f"the agent of {engine_id} has written no statistics: see its log")


@contextlib.contextmanager
def running(
    shape: EngineShape,
    logs: Path,
    *,
    artefact: str,
    model_dir: Path | None = None,
    adapter: Mapping[str, object] = MappingProxyType({}),
    one_by_one: bool = False,
    turn: Path | None = None,
) -> Iterator[Engines]:
    """Starts everything; logs of services and agent go to `logs`, those of the engines to standard error.

    Args:
        artefact: name of the predictor's model.
        model_dir: folder of the predictor's models; default: those that it comes with.
        adapter: settings of the attached engine's adapter that are not the default.
        one_by_one: start one engine after the other, not both at once.
        turn: file that one driver at a time holds, once its engines are up. Others on the GPU stay idle meanwhile.
    """
    on_cpu = prepare_environment()
    engine_id = f"benchmark-{os.getpid()}"
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as parts:
        log = logs / f"{engine_id}.log"
        predictor_port, scheduler_port = free_ports(2)
        stack = parts.enter_context(running_stack(
            predictor_port=predictor_port, scheduler_port=scheduler_port, model_dir=model_dir, log_file=log
        ))  # fmt: skip
        layers, row_dtype = tap_settings(str(shape.llm), stack.predictor, artefact, "", PREDICTOR_WAIT_S)
        folder = engine_paths(engine_id).folder
        shutil.rmtree(folder, ignore_errors=True)
        parts.callback(shutil.rmtree, folder, ignore_errors=True)
        output = parts.enter_context(log.open("ab"))
        parts.enter_context(agent_beside(engine_id, stack.predictor, stack.scheduler, artefact, output))
        tap = {"layers": layers, "row_dtype": row_dtype, **adapter}
        scheduler, worker = adapter_classes(synchronous=False)
        attached_as = {
            "scheduler_cls": scheduler,
            "worker_cls": worker,
            "additional_config": {"trail": {"engine_id": engine_id, **tap}},
        }
        arguments = shape.arguments(on_cpu)
        begun_s = time.monotonic()
        stock, attached = _start(parts, {"stock": arguments, "attached": arguments | attached_as}, one_by_one)
        print(f"both engines are up after {time.monotonic() - begun_s:.0f} s", file=sys.stderr, flush=True)
        if turn is not None:
            fcntl.flock(parts.enter_context(turn.open("w")), fcntl.LOCK_EX)
        yield Engines(stock, attached, engine_id, stack, tap, on_cpu)


def prepare_environment() -> bool:
    """Sets what vLLM reads from the environment, of this process and its children; whether it runs on the CPU."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm.platforms import current_platform

    on_cpu = bool(current_platform.is_cpu())
    if on_cpu:
        cores = sorted(os.sched_getaffinity(0))
        bound = {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores[:-1]))} if len(cores) > 1 else {}
        for name, value in (CPU_ENVIRONMENT | bound).items():
            os.environ.setdefault(name, value)
    return on_cpu


def _start(parts: contextlib.ExitStack, arguments: dict[str, dict[str, Any]], one_by_one: bool) -> list[Engine]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    # vLLM keeps the configuration that is being made in a global: these are made in turn, what takes time is not.
    configurations = {name: AsyncEngineArgs(**given).create_engine_config() for name, given in arguments.items()}

    def start(name: str) -> Engine:
        log = StepLog()
        llm = AsyncLLM.from_vllm_config(configurations[name], stat_loggers=[recorder(log)], disable_log_stats=True)
        started.append(llm)
        return Engine(name, llm, log)

    def shut_down() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda llm: llm.shutdown(), started))

    started: list[Any] = []
    parts.callback(shut_down)
    with ThreadPoolExecutor(1 if one_by_one else 2) as pool:
        return list(pool.map(start, arguments))
