"""A real model for the end-to-end tests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.cli.demo.engine import share_cores, stock_engine
from sidecar.cli.demo.load import Sampling, send
from tests.e2e.parts import System, running_system

pytest.importorskip("vllm")

ROOT = Path(__file__).parents[2]
SLOTS = 4
PROMPTS: list[str] = json.loads((ROOT / "sidecar" / "cli" / "demo" / "prompts.json").read_text())[::3]
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=48)


@pytest.fixture(scope="session")
def model() -> Path:
    """SmolLM2-135M-Instruct as safetensors; converted once, and shared with the demo."""
    from sidecar.cli.demo.model import smollm2

    return smollm2(ROOT / "out" / "models" / "SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def system(model: Path) -> Iterator[System]:
    """One attached engine with all services, for the whole session."""
    # A short path: Unix sockets allow about 100 characters.
    with tempfile.TemporaryDirectory(prefix="trail-") as folder, running_system(model, Path(folder), SLOTS) as running:
        yield running


@pytest.fixture(scope="session")
def greedy(model: Path) -> dict[str, tuple[int, ...]]:
    """What the model answers, by stock vLLM without the adapter: prompt -> token ids."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "stock.log"
        with stock_engine(model, SLOTS, share_cores(), log) as server:
            samples = send(server.url, PROMPTS, [0.0] * len(PROMPTS), GREEDY)
    return {prompt: sample.token_ids for prompt, sample in zip(PROMPTS, samples, strict=True)}
