"""vLLM's real scheduler classes, driven by a pretend worker that keeps several steps in flight.

The worker knows of a request only what the scheduler tells it, and "samples" a token that depends on every token before
it: one token lost, repeated or recomputed wrongly changes all that follow.
"""

from __future__ import annotations

import json
import string
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from vllm.config import CacheConfig, DeviceConfig, LoRAConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import BlockHash, get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

BLOCK_TOKENS = 16
VOCABULARY = 1000
END = 0
"""The token that ends a sequence, for requests that do not ignore it."""
_CHARACTERS = string.ascii_lowercase + string.digits + '{}[]":, '
WORDS = ["</s>", *_CHARACTERS, *(f"word{i}" for i in range(VOCABULARY - len(_CHARACTERS) - 1))]
"""The tokens, by number."""


def sample(tokens: list[int], adapter: int = 0) -> int:
    """The pretend model: a token that depends on all tokens so far, and on the LoRA adapter."""
    return zlib.crc32(np.array(tokens, np.int64).tobytes(), adapter) % VOCABULARY


def expected_output(prompt: list[int], length: int, adapter: int = 0) -> list[int]:
    tokens = list(prompt)
    for _ in range(length):
        tokens.append(sample(tokens, adapter))
    return tokens[len(prompt) :]


class PretendWorker:
    """Executes steps at once and answers them ``depth`` steps later."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.adapters: dict[str, int] = {}
        self.scheduled_tokens = 0
        self.most_adapters = 0
        """In any one step."""

    def execute(self, output: SchedulerOutput, grammar: GrammarOutput | None = None) -> ModelRunnerOutput:
        """``grammar``: which tokens the requests with structured output may go on with."""
        allowed = _allowed(grammar)
        for request in output.finished_req_ids:
            self.tokens.pop(request, None)
        computed: dict[str, int] = {}
        for new in output.scheduled_new_reqs:
            self.tokens[new.req_id] = list(new.prefill_token_ids or new.prompt_token_ids or ())
            self.adapters[new.req_id] = new.lora_request.lora_int_id if new.lora_request else 0
            computed[new.req_id] = new.num_computed_tokens
        cached = output.scheduled_cached_reqs
        for name, position in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            computed[name] = position
            if name in cached.resumed_req_ids and name in cached.all_token_ids:
                self.tokens[name] = list(cached.all_token_ids[name])
        names = list(output.num_scheduled_tokens)
        self.most_adapters = max(self.most_adapters, len({self.adapters[name] for name in names} - {0}))
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: i for i, name in enumerate(names)},
            sampled_token_ids=[
                self._step(n, computed[n], output.num_scheduled_tokens[n], allowed.get(n)) for n in names
            ],
            prompt_logprobs_dict={},
        )

    def _step(self, name: str, computed: int, scheduled: int, allowed: list[int] | None) -> list[int]:
        tokens = self.tokens[name]
        self.scheduled_tokens += scheduled
        assert computed + scheduled <= len(tokens), f"{name}: asked for tokens that nobody knows"
        if computed + scheduled < len(tokens):
            return []
        token = sample(tokens, self.adapters[name])
        tokens.append(allowed[token % len(allowed)] if allowed else token)
        return [tokens[-1]]


def _allowed(grammar: GrammarOutput | None) -> dict[str, list[int]]:
    """Of vLLM's bitmasks, of 32 tokens a word: the tokens of each request."""
    if grammar is None:
        return {}
    names = grammar.structured_output_request_ids
    bits = np.unpackbits(grammar.grammar_bitmask.view(np.uint8), axis=1, bitorder="little")[:, :VOCABULARY]
    return {name: np.flatnonzero(row).tolist() for name, row in zip(names, bits, strict=True)}


class HeldExecutor(Executor):
    """Does its work when it is told to, so that two engines find it done at the same step."""

    def __init__(self) -> None:
        self._held: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._held.append((future, partial(work, *args, **kwargs)))
        return future

    def release(self) -> None:
        held, self._held = self._held, []
        for future, work in held:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)


class PretendEngine:
    """A scheduler of class ``scheduler`` and the worker, ``depth`` steps in flight.

    ``max_adapters``: LoRA adapters that may be in one batch; 0: an engine without LoRA. ``options``: of `config_of`.
    """

    def __init__(
        self,
        folder: Path,
        scheduler: type,
        *,
        trail: dict[str, Any] | None,
        depth: int,
        blocks: int,
        slots: int,
        max_adapters: int = 0,
        **options: Any,
    ) -> None:
        config = config_of(folder, slots, asynchronous=depth > 1, trail=trail, max_adapters=max_adapters, **options)
        self._hasher = block_hasher()
        self.scheduler = scheduler_of(scheduler, config, blocks)
        self.compiling = HeldExecutor()
        """Grammars of structured output; their requests wait for it."""
        self._grammars = self.scheduler.structured_output_manager
        self._grammars.executor = self.compiling
        self.worker = PretendWorker()
        self.outputs: dict[str, list[int]] = {}
        self.answers: list[EngineCoreOutputs] = []
        """What clients were told in the newest step."""
        self._depth = depth
        self._flying: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()

    def add(
        self,
        name: str,
        prompt: list[int],
        length: int,
        adapter: int = 0,
        *,
        sampling: dict[str, Any] | None = None,
        resumable: bool = False,
        **extra: Any,
    ) -> None:
        """``sampling``: more of vLLM's `SamplingParams`."""
        given = {"max_tokens": length, "ignore_eos": True, "extra_args": extra or None} | (sampling or {})
        parameters = SamplingParams(**given)
        parameters.update_from_generation_config({}, END)
        self.outputs.setdefault(name, [])
        lora = LoRARequest(f"adapter-{adapter}", adapter, "nowhere") if adapter else None
        request = Request(
            name, [*prompt], parameters, None, lora_request=lora, block_hasher=self._hasher, resumable=resumable
        )
        if request.use_structured_output:
            self._grammars.grammar_init(request)
        self.scheduler.add_request(request)

    def step(self, meanwhile: Callable[[], None] | None = None) -> SchedulerOutput | None:
        """Schedules one step, and delivers the answer of the oldest where enough are in flight.

        ``meanwhile``: done between the two.
        """
        self.answers, output = [], None
        if self.scheduler.has_requests():
            output = self.scheduler.schedule()
            # As the engine core does: a grammar has to know of every token before the next.
            while self._flying and output.pending_structured_output_tokens:
                self._deliver()
            self._flying.append((output, self.worker.execute(output, self.scheduler.get_grammar_bitmask(output))))
        if meanwhile is not None:
            meanwhile()
        if self._flying and (len(self._flying) >= self._depth or not self._flying[-1][0].num_scheduled_tokens):
            self._deliver()
        return output

    def finish(self, limit: int = 100_000) -> None:
        for _ in range(limit):
            if not self.scheduler.has_unfinished_requests():
                while self._flying:
                    self._deliver()
                self.step()
                return
            self.step()
        raise AssertionError(f"still unfinished after {limit} steps")

    def _deliver(self) -> None:
        for outputs in self.scheduler.update_from_output(*self._flying.popleft()).values():
            self.answers.append(outputs)
            for output in outputs.outputs:
                self.outputs[output.request_id].extend(output.new_token_ids)


def block_hasher() -> Callable[[Request], list[BlockHash]]:
    """As an engine with prefix caching makes it."""
    init_none_hash(sha256)
    return get_request_block_hasher(BLOCK_TOKENS, sha256)


def scheduler_of(kind: type, config: VllmConfig, blocks: int) -> Any:
    """A scheduler of class ``kind`` with so many KV blocks, of which vLLM keeps one for itself."""
    spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=16, dtype=torch.float16)
    config.cache_config.num_gpu_blocks = blocks
    return kind(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_TOKENS,
        log_stats=True,
    )


def config_of(
    folder: Path,
    slots: int,
    *,
    asynchronous: bool,
    trail: dict[str, Any] | None,
    max_adapters: int = 0,
    step_tokens: int = 64,
    long_prefill_tokens: int = 0,
    chunked_prefill: bool = True,
    prefix_caching: bool = True,
    max_length: int = 2048,
    structured_output: bool = False,
) -> VllmConfig:
    """``long_prefill_tokens``: of one prompt in a step at most; 0: as many as fit. ``max_length``: tokens of a prompt
    and its answer. ``structured_output``: with the tokenizer that grammars need."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096,
        })
    )  # fmt: skip
    if structured_output:
        write_tokenizer(folder)
    model = ModelConfig(
        model=str(folder), skip_tokenizer_init=not structured_output, dtype="float16", max_model_len=max_length
    )
    scheduler = SchedulerConfig(
        max_num_seqs=slots, max_num_batched_tokens=max(step_tokens, slots), max_model_len=max_length,
        enable_chunked_prefill=chunked_prefill, is_encoder_decoder=False, async_scheduling=asynchronous,
        long_prefill_token_threshold=long_prefill_tokens,
    )  # fmt: skip
    cache = CacheConfig(block_size=BLOCK_TOKENS, enable_prefix_caching=prefix_caching)
    return VllmConfig(
        model_config=model,
        scheduler_config=scheduler,
        cache_config=cache,
        device_config=DeviceConfig("cpu"),
        lora_config=LoRAConfig(max_loras=max_adapters, max_lora_rank=8) if max_adapters else None,
        additional_config={"trail": trail} if trail else {},
    )


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[-1]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=WORDS[END]).save_pretrained(folder)


def text(tokens: list[int]) -> str:
    return "".join(WORDS[token] for token in tokens if token != END)
