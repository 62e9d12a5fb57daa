"""The demo's prompts: of Alpaca where the file is at hand, else our own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from predictor_service.training.prompts import TEST, Shares, prompt_key, split_of

REFERENCE_WORDS, PROMPT_CHARACTERS = 8, 120
ALPACA = Path("../shared/data/alpaca5k/dev_4000.json")
# The packaged predictor was trained on this file: how it was split, so that we serve what it has not seen.
_SPLIT = Shares(validation=0.1, test=0.15, seed=0)


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompt texts and where they are from."""

    texts: list[str]
    source: str


def load(path: Path | None, count: int, seed: int = 0) -> Prompts:
    """``count`` prompts, many short answers among a few long ones, as in chat traffic.

    Args:
        path: JSON list of ``{"instruction", "input"}``; None: Alpaca's, else the packaged file.

    Raises:
        ValueError: the file has no such list, or too few entries.
    """
    if path is None and not ALPACA.is_file():
        own = json.loads(resources.files(__package__).joinpath("prompts.json").read_text())
        return Prompts(_draw(own, count, seed, "prompts.json"), "our own prompts (packaged)")
    file = path or ALPACA
    rows = json.loads(file.read_text())
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("instruction") for row in rows):
        raise ValueError(f"{file}: expected a JSON list of objects with 'instruction'")
    source = str(file)
    if path is None:
        rows = [row for row in rows if split_of(prompt_key(_text(row, "\n\n")), _SPLIT) == TEST]
        source = f"{file.parent.name}/{file.name}, held out from training"
        # Questions with a short reference answer: half of what the model says to them is under 30 tokens long, and
        # two cores get through it.
        rows = [row for row in rows if len(row.get("output", "").split()) <= REFERENCE_WORDS and _short(row)]
        source += f", reference answer of at most {REFERENCE_WORDS} words"
    texts = [_text(row, "\n") for row in rows]
    return Prompts(_draw(texts, count, seed, str(file)), source)


def _text(row: dict[str, str], between: str) -> str:
    return between.join(filter(None, (row["instruction"], row.get("input"))))


def _short(row: dict[str, str]) -> bool:
    """Prefill is slow on two cores."""
    return len(row["instruction"]) + len(row.get("input", "")) <= PROMPT_CHARACTERS


def _draw(texts: list[str], count: int, seed: int, name: str) -> list[str]:
    if len(texts) < count:
        raise ValueError(f"{name}: {len(texts)} prompts, but {count} requests: give more prompts or fewer --requests")
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:count]]
