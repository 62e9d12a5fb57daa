"""Responses to new prompts, from an LLM that suits the artefacts."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from predictor_service.artefact import Artefact
from predictor_service.training.collect import Responses, collect
from predictor_service.training.generation import Backend, Sampling, require_model_folder
from predictor_service.training.prompts import TEST, Prompt, read_prompts

SEQUENCES_AT_ONCE = {"gpu": 256, "cpu": 32}


def check_fits(artefact: Artefact, llm: Path, max_tokens: int) -> None:
    """Raises ValueError where ``llm`` is not one that the artefact can be for, or too short for ``max_tokens``."""
    config, manifest = _configuration(llm), artefact.manifest
    if config.hidden_size != manifest.hidden_size:
        raise ValueError(
            f"artefact {artefact.name!r} was made for {manifest.served_model} with hidden size {manifest.hidden_size}, "
            f"but {llm} has {config.hidden_size}"
        )
    if missing := [layer for layer in manifest.layers if layer > config.num_hidden_layers]:
        raise ValueError(
            f"artefact {artefact.name!r} reads layers {missing}, "
            f"but {llm} has hidden states 0 to {config.num_hidden_layers}"
        )
    if max_tokens >= config.max_position_embeddings:
        raise ValueError(
            f"max_tokens: {max_tokens} leaves no room for a prompt "
            f"(limit of {llm}: {config.max_position_embeddings} tokens in all)"
        )


def choose_prompts(path: Path, llm: Path, sampling: Sampling, most: int, template: str | None) -> list[Prompt]:
    """Up to ``most`` of the file's, drawn by the seed, in the order of the file. Raises PromptError for a bad one."""
    longest = _configuration(llm).max_position_embeddings - sampling.max_tokens
    found = read_prompts([path], llm=llm, max_prompt_tokens=longest, template=template).prompts
    order = np.random.default_rng(sampling.seed).permutation(len(found))
    return [found[i] for i in np.sort(order[:most])]


def draw(
    folder: Path, llm: Path, prompts: Sequence[Prompt], sampling: Sampling, backend: Backend, console: Console
) -> Responses:
    """One response to each prompt, kept in a folder of ``folder`` named by what they are made from.

    So the same call goes on where it was stopped, and another one draws its own. Raises what `collect` does.
    """
    ids = [prompt.token_ids for prompt in prompts]
    origin = json.dumps([ids, asdict(sampling), str(llm.resolve())])
    work = folder / hashlib.sha256(origin.encode()).hexdigest()[:12]
    has_vllm = backend != "transformers" and importlib.util.find_spec("vllm") is not None
    engine = _engine(max(map(len, ids)) + sampling.max_tokens) if has_vllm else {}
    split = np.full(len(prompts), TEST)
    return collect(work, llm, prompts, split, sampling, backend=backend, console=console, **engine)


def _configuration(llm: Path) -> Any:
    from transformers import AutoConfig

    require_model_folder(llm)
    return AutoConfig.from_pretrained(str(llm)).get_text_config()


def _engine(longest: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM`; on a CPU in the arithmetic in which hidden states are read."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {"max_model_len": longest, "max_num_seqs": SEQUENCES_AT_ONCE["gpu"]}
    # vLLM keeps a core free for a server's front end, which is not there.
    for name, value in (("VLLM_CPU_KVCACHE_SPACE", "2"), ("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")):
        os.environ.setdefault(name, value)
    flags = {"dtype": "float32", "enforce_eager": True}
    return {"max_model_len": longest, "max_num_seqs": SEQUENCES_AT_ONCE["cpu"], **flags}
