"""A real model for the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("vllm")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def model() -> Path:
    """SmolLM2-135M-Instruct as safetensors; converted once, and shared with the demo."""
    from sidecar.cli.demo.model import smollm2

    return smollm2(ROOT / "out" / "models" / "SmolLM2-135M-Instruct")
