"""Fitted prompt predictors on disk, between the stage that fits them and the artefact that holds one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from predictor_service.training.networks import Array
from predictor_service.training.prompt_export import prompt_files
from predictor_service.training.prompt_fit import PromptFit

CLASSIFIER, PAPER_CLASSIFIER = "classifier.npz", "paper.npz"
# The one over the paper's bins, for the artefact of its recipe.
PAPER_PROMPT = "prompt/paper"
ABOUT, SAID = "about.json", "probabilities.npz"


@dataclass(frozen=True)
class PromptStage:
    """The prompt predictor as an artefact holds it: fields of the manifest, and files by name."""

    fields: Mapping[str, Any]
    files: Mapping[str, bytes]


def save_prompt_stage(folder: Path, fit: PromptFit) -> None:
    """Writes its files, its manifest section with its metrics, and what it says of held-out responses."""
    section, files = prompt_files(fit)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    np.savez_compressed(folder / SAID, validation=fit.validation.astype(np.float16), test=fit.test.astype(np.float16))
    about = {"prompt": section, "files": sorted(files), "metrics": dict(fit.metrics)}
    (folder / ABOUT).write_text(json.dumps(about, indent=1))


def load_prompt_stage(folder: Path) -> tuple[PromptStage, Array]:
    """The stage, and its probabilities for test responses [responses, bins].

    Raises ValueError where nothing was fitted there.
    """
    if not (folder / ABOUT).exists():
        raise ValueError(f"{folder}: no prompt predictor was fitted here (`trail train prompts`)")
    about = json.loads((folder / ABOUT).read_text())
    files = {name: (folder / name).read_bytes() for name in about["files"]}
    with np.load(folder / SAID, allow_pickle=False) as stored:
        return PromptStage({"prompt": about["prompt"]}, files), stored["test"].astype(np.float32)
