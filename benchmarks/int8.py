"""What eight bits cost the classifier in exactness, and what they save, on hidden states of real text.

    python -m benchmarks.int8 --llm out/models/SmolLM2-135M-Instruct --prompts ../shared/data/alpaca5k/dev_4000.json \
        --out benchmarks/results/int8-smollm2-135m.json

The packaged artefact reads Alpaca's reference answers behind their prompts, 16 positions of each. They are not the
model's own answers, so both errors are larger than on those; what counts is how far they lie apart.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau
from transformers import AutoTokenizer

from benchmarks import machine
from benchmarks.predictor_cost import PACKAGED
from benchmarks.timing import Budget, call_times
from predictor_service import artefact as artefacts
from predictor_service.artefact import Artefact
from predictor_service.training.collect import Responses
from predictor_service.training.states import States, read_states

ANSWERS, POSITIONS, LONGEST_ANSWER = 220, 16, 400
BATCHES = (1, 32, 256)
REPEATS = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Compares, writes JSON, prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=Path, required=True, help="JSON list with instruction, input and output")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    options = parser.parse_args(argv)
    both = {"float32": artefacts.load(PACKAGED, int8=False), "int8": artefacts.load(PACKAGED)}
    responses = responses_of(options.llm, json.loads(options.prompts.read_text())[-ANSWERS:])
    rows = np.arange(len(responses.lengths))
    states = read_states(options.llm, responses, rows, both["int8"].manifest.layers, POSITIONS, seed=0)
    p = {name: each.classifier(states.hidden, states.age) for name, each in both.items()}
    divergence = (p["float32"] * np.log(np.maximum(p["float32"], 1e-12) / np.maximum(p["int8"], 1e-12))).sum(axis=1)
    results = {
        "what": "The packaged classifier in eight bits beside float32, not refined; reference answers of Alpaca",
        **machine.provenance("numpy", "onnxruntime", "torch", "transformers"),
        "answers": len(rows),
        "rows": len(states.age),
        **{name: errors(each, p[name], states) for name, each in both.items()},
        "largest_difference_of_a_probability": round(float(np.abs(p["int8"] - p["float32"]).max()), 4),
        "mean_divergence_nats": float(f"{divergence.mean():.2g}"),
        "microseconds_a_run": _times(both),
    }
    machine.write(options.out, results)
    print(json.dumps({name: results[name] for name in ("rows", *both, "microseconds_a_run")}, indent=1))


def responses_of(llm: Path, items: Sequence[dict[str, str]]) -> Responses:
    tokenizer = AutoTokenizer.from_pretrained(llm)
    sequences, prompt_tokens = [], []
    for item in items:
        text = "\n".join(filter(None, (item["instruction"], item["input"])))
        turns = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        begun = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(item["output"], add_special_tokens=False)["input_ids"][:LONGEST_ANSWER]
        if answer:
            sequences.append(np.array([*begun, *answer], np.int32))
            prompt_tokens.append(len(begun))
    count = len(sequences)
    return Responses(
        prompt=np.arange(count),
        split=np.zeros(count, np.int64),
        seed=np.zeros(count, np.int64),
        prompt_tokens=np.array(prompt_tokens),
        finished=np.ones(count, np.bool_),
        tokens=np.concatenate(sequences),
        offsets=np.cumsum([0, *map(len, sequences)]),
    )


def errors(artefact: Artefact, p: Any, states: States) -> dict[str, float]:
    median = artefact.bins.quantile(p, 0.5)
    tau = kendalltau(median, states.remaining).statistic
    error = np.abs(median - states.remaining).mean()
    return {"mae_tokens": round(float(error), 2), "kendall_tau": round(float(tau), 4)}


def _times(both: dict[str, Artefact]) -> dict[str, dict[str, Any]]:
    """Medians, in turn."""
    found: dict[str, dict[str, Any]] = {}
    for batch in BATCHES:
        hidden = np.random.default_rng(0).standard_normal((batch, both["int8"].manifest.dim)).astype(np.float16)
        ages = np.arange(batch)
        taken: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(REPEATS):
            for name, each in both.items():
                run = partial(each.classifier, hidden, ages)
                taken[name].append(float(np.median(call_times(run, Budget(0.2, 5, 200)))))
        medians = {name: round(float(np.median(times)), 1) for name, times in taken.items()}
        found[str(batch)] = medians | {"ratio": round(medians["float32"] / medians["int8"], 2), "samples": taken}
    return found


if __name__ == "__main__":
    main()
