"""Prompts that the packaged predictor never saw: those that its training held out for its test, told by their hash."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARTEFACT = "smollm2-135m-instruct"
MODELS = Path(__file__).parents[1] / "predictor_service" / "models"
ALPACA = Path(__file__).parents[2] / "shared" / "data" / "alpaca5k" / "dev_4000.json"
LONGEST_PROMPT_TOKENS = 1024
"""As in training."""


@dataclass(frozen=True, slots=True)
class TrainedWith:
    """How the responses that an artefact learned from were drawn."""

    temperature: float
    top_p: float
    max_tokens: int

    @classmethod
    def of(cls, artefact: str) -> "TrainedWith":
        sampling = training(artefact)["sampling"]
        return cls(sampling["temperature"], sampling["top_p"], sampling["max_tokens"])


def training(artefact: str) -> dict[str, Any]:
    """What the artefact's manifest says of its training."""
    found: dict[str, Any] = json.loads((MODELS / artefact / "manifest.json").read_text())["training"]
    return found


def prepare(path: Path, llm: Path, artefact: str, source: Path = ALPACA) -> int:
    """Writes a JSON object a line with `prompt` and `token_ids` (chat template applied); returns how many."""
    from predictor_service.training.prompts import TEST, Shares, prompt_key, read_prompts, split_of

    shares = training(artefact)["stages"]["collect"]["arguments"]["shares"]
    split = Shares(shares["validation"], shares["test"], seed=shares["seed"])
    read = read_prompts([source], llm=llm, max_prompt_tokens=LONGEST_PROMPT_TOKENS, skip_bad=True).prompts
    unseen = {prompt_key(each.text): each for each in read if split_of(prompt_key(each.text), split) == TEST}
    lines = [json.dumps({"prompt": each.text, "token_ids": list(each.token_ids)}) for each in unseen.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return len(lines)


def load(path: Path) -> list[Sequence[int]]:
    """Token ids of each prompt."""
    return [json.loads(line)["token_ids"] for line in path.read_text().splitlines()]
