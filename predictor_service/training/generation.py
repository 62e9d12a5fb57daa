"""Draws answers from an LLM: with vLLM, or with transformers where that is not installed."""

import importlib.util
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

Backend = Literal["auto", "vllm", "transformers"]
Advance = Callable[[int], None]  # told how many more answers are there


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn."""

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 1024
    samples: int = 3  # responses to a training prompt
    seed: int = 0
    held_out_samples: int = 1  # responses to a prompt for validation or test
    stop: tuple[str, ...] = ()  # a response ends where its text holds one of these, for base models


@dataclass(frozen=True)
class Answer:
    token_ids: Sequence[int]  # with the end-of-sequence token, or those that completed a stop string
    finished: bool  # False: cut at its cap


class Generator(Protocol):
    """An LLM that is loaded and ready to answer."""

    def draw(self, prompts: Sequence[Sequence[int]], caps: Sequence[int], seed: int, advance: Advance) -> list[Answer]:
        """One answer to each prompt (token ids), of at most its cap in tokens; ``seed`` decides which."""
        ...

    def close(self) -> None:
        """Frees the accelerator's memory."""
        ...


def require_model_folder(llm: Path) -> None:
    """Raises ValueError where ``llm`` is no Hugging Face model folder."""
    if not (llm / "config.json").exists():
        raise ValueError(f"{llm}: no config.json in it, so it is not a Hugging Face model folder")


@contextmanager
def generator(llm: Path, sampling: Sampling, backend: Backend = "auto", **engine: Any) -> Iterator[Generator]:
    """Loads ``llm``; ``engine`` are arguments of `vllm.LLM`, or `batch_sequences` for transformers.

    "auto" is vLLM where that is installed. Raises ValueError where ``llm`` is no model folder.
    """
    require_model_folder(llm)
    has_vllm = importlib.util.find_spec("vllm") is not None
    chosen = ("vllm" if has_vllm else "transformers") if backend == "auto" else backend
    made: Generator = _Vllm(llm, sampling, **engine) if chosen == "vllm" else _Transformers(llm, sampling, **engine)
    try:
        yield made
    finally:
        made.close()


class Reseeded:
    """Extends vLLM's worker: what follows is drawn as after a start with this seed."""

    def seed_sampling(self, seed: int) -> None:
        import torch

        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


class _Vllm:
    """No request has a seed of its own: vLLM would then keep a generator a request and sample in a Python loop, which
    doubles the time of a step on a GPU. Its workers are seeded before each draw, and the order of requests is fixed.

    That repeats exactly where batches form alike: with `enable_prefix_caching=False`, and the engine in this process
    (VLLM_ENABLE_V1_MULTIPROCESSING=0). Otherwise another run draws other answers of the same distribution.
    """

    def __init__(self, llm: Path, sampling: Sampling, **engine: Any) -> None:
        # A fork of a process that has asked for CUDA, be it only whether it is there, cannot use it.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        from vllm import LLM

        extension = f"{Reseeded.__module__}.{Reseeded.__qualname__}"
        self._llm = LLM(
            model=str(llm), seed=sampling.seed, disable_log_stats=True, worker_extension_cls=extension, **engine
        )
        self._sampling = sampling

    def draw(self, prompts: Sequence[Sequence[int]], caps: Sequence[int], seed: int, advance: Advance) -> list[Answer]:
        from tqdm import tqdm  # type: ignore[import-untyped]
        from vllm import SamplingParams

        class Told(tqdm):  # type: ignore[misc]
            """vLLM's progress bar, told on instead of drawn."""

            def update(self, n: int = 1) -> Any:
                if self.desc.startswith("Processed"):  # not the bar of requests being taken in
                    advance(n)
                return super().update(n)

        sampling = self._sampling
        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=cap,
                stop=list(sampling.stop),
                detokenize=bool(sampling.stop),
            )
            for cap in caps
        ]
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        self._llm.collective_rpc("seed_sampling", args=(seed,))
        with open(os.devnull, "w") as nowhere:
            outputs = self._llm.generate(asked, parameters, use_tqdm=partial(Told, file=nowhere))
        answers = [output.outputs[0] for output in outputs]
        return [Answer(answer.token_ids, answer.finish_reason != "length") for answer in answers]

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


class _Transformers:
    def __init__(self, llm: Path, sampling: Sampling, batch_sequences: int = 32) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        self._model = AutoModelForCausalLM.from_pretrained(str(llm), dtype=dtype).to(self._device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(str(llm)) if sampling.stop else None
        self._sampling = sampling
        self._batch = batch_sequences

    def draw(self, prompts: Sequence[Sequence[int]], caps: Sequence[int], seed: int, advance: Advance) -> list[Answer]:
        import torch

        torch.manual_seed(seed)
        answers: list[Answer] = []
        for begin in range(0, len(prompts), self._batch):
            batch = slice(begin, begin + self._batch)
            answers += self._answers(prompts[batch], caps[batch])
            advance(len(prompts[batch]))
        return answers

    def _answers(self, prompts: Sequence[Sequence[int]], caps: Sequence[int]) -> list[Answer]:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        ends = _Ends(self._endings(), width, torch.tensor(caps, device=self._device))
        with torch.inference_mode():
            rows = self._model.generate(
                ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=self._configuration(max(caps)),
                stopping_criteria=[ends],
            )
        lengths, finished = ends.lengths.tolist(), ends.finished.tolist()
        generated = rows[:, width:].tolist()
        return [Answer(row[:n], done) for row, n, done in zip(generated, lengths, finished, strict=True)]

    def _configuration(self, max_tokens: int) -> Any:
        from transformers import GenerationConfig

        sampling, eos = self._sampling, self._model.generation_config.eos_token_id
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(
            **(drawn if sampling.temperature > 0 else {"do_sample": False}),
            max_new_tokens=max_tokens,
            repetition_penalty=1.0,
            eos_token_id=eos,
            pad_token_id=eos[0] if isinstance(eos, list) else eos,
        )

    def _endings(self) -> Any:
        from transformers import EosTokenCriteria, StoppingCriteriaList, StopStringCriteria

        found = StoppingCriteriaList()
        if self._model.generation_config.eos_token_id is not None:
            found.append(EosTokenCriteria(self._model.generation_config.eos_token_id))
        if self._sampling.stop:
            found.append(StopStringCriteria(self._tokenizer, list(self._sampling.stop)))
        return found

    def close(self) -> None:
        del self._model


class _Ends:
    """Notes after how many tokens each row of a batch ended: what follows in the row is padding."""

    def __init__(self, endings: Any, prompt_tokens: int, caps: Any) -> None:
        self.lengths = caps * 0
        self.finished = caps < 0
        self._endings = endings
        self._prompt_tokens = prompt_tokens
        self._caps = caps

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        generated = ids.shape[1] - self._prompt_tokens
        ended = self._endings(ids, scores)
        newly = (ended | (generated >= self._caps)) & (self.lengths == 0)
        self.lengths[newly] = generated
        self.finished |= newly & ended
        return self.lengths > 0
