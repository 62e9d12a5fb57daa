"""What a collection that was stopped lacks, and the command that goes on with it."""

import json
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np

from predictor_service.training.collect import PROMPTS_FILE, RESPONSES_FOLDER, TRAIN
from predictor_service.training.generation import Sampling
from predictor_service.training.prompts import PromptTable


def unfinished(work: Path, *, noted: bool) -> str:
    """Which of its shards are there and how to go on; empty where all are, or no collection was begun.

    ``noted``: whether how it was made is written down, which `trail train collect` does at its end.
    """
    origin, table = work / RESPONSES_FOLDER / "origin.json", work / PROMPTS_FILE
    begun = json.loads(origin.read_text()) if origin.exists() and table.exists() else {}
    if "shard_responses" not in begun:
        return ""
    sampling = Sampling(**begun["sampling"] | {"stop": tuple(begun["sampling"]["stop"])})
    samples = np.where(PromptTable.load(table).split == TRAIN, sampling.samples, sampling.held_out_samples)
    shards = -(-int(samples.sum()) // int(begun["shard_responses"]))
    there = sum((work / RESPONSES_FOLDER / f"{number:05d}.npz").exists() for number in range(shards))
    if there == shards and noted:
        return ""
    return (
        f"{work}: the collection is unfinished, {there} of {shards} shards are there; go on with "
        f"`{_command(work, sampling, begun['shard_responses'])}` and the --llm, --prompts and other options of before"
    )


def _command(work: Path, sampling: Sampling, shard_responses: int) -> str:
    """`trail train collect` with everything that is kept beside the shards."""
    parts = ["trail", "train", "collect", "--work", str(work), "--shard-responses", str(shard_responses)]
    for field in fields(sampling):
        value = getattr(sampling, field.name)
        for one in value if isinstance(value, tuple) else [value]:
            parts += [f"--{field.name.replace('_', '-')}", str(one)]
    return shlex.join(parts)
