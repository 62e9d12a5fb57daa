"""What projecting rows before they are sent costs in exactness: the classifier cut behind its first product, with
float16 between the two halves, beside the whole one.

    python -m benchmarks.projected_rows --llm out/models/SmolLM2-135M-Instruct \
        --prompts ../shared/data/alpaca5k/dev_4000.json --out benchmarks/results/projected-smollm2-135m.json

The packaged artefact, on the rows of `benchmarks.int8`, hidden states of real text, and on random ones.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import machine
from benchmarks.int8 import ANSWERS, POSITIONS, errors, responses_of
from benchmarks.predictor_cost import PACKAGED
from predictor_service import artefact as artefacts
from predictor_service.artefact import Artefact
from predictor_service.training.states import read_states

RANDOM_ROWS, LONGEST = 4096, 1024


def main(argv: Sequence[str] | None = None) -> None:
    """Compares, writes JSON, prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=Path, required=True, help="JSON list with instruction, input and output")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    options = parser.parse_args(argv)
    artefact = artefacts.load(PACKAGED, int8=False)
    responses = responses_of(options.llm, json.loads(options.prompts.read_text())[-ANSWERS:])
    layers = artefact.manifest.layers
    states = read_states(options.llm, responses, np.arange(len(responses.lengths)), layers, POSITIONS, seed=0)
    whole, cut = both_ways(artefact, states.hidden, states.age)
    results = {
        "what": "The packaged classifier of projected rows beside that of hidden states, float32, not refined",
        **machine.provenance("numpy", "onnxruntime", "torch", "transformers"),
        "answers": len(responses.lengths),
        "rows": len(states.age),
        "hidden": errors(artefact, whole, states),
        "projected": errors(artefact, cut, states),
        "largest_difference_of_a_probability": float(f"{np.abs(cut - whole).max():.2g}"),
        "random_rows": RANDOM_ROWS,
        "largest_difference_on_random_rows": float(f"{largest_on_random(artefact):.2g}"),
    }
    machine.write(options.out, results)
    print(json.dumps(results, indent=1))


def both_ways(
    artefact: Artefact, hidden: npt.NDArray[np.float16], age: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Probabilities [N, bins] of hidden states [N, D], as they are and projected. Raises ValueError."""
    if artefact.projected is None:
        raise ValueError(f"{artefact.name}: no projection")
    return artefact.classifier(hidden, age), artefact.projected.head(artefact.projected.project(hidden), age)


def largest_on_random(artefact: Artefact) -> float:
    """Largest difference of a probability on rows that are spread twice as wide as training's."""
    if artefact.projected is None:
        raise ValueError(f"{artefact.name}: no projection")
    rng, project = np.random.default_rng(0), artefact.projected.project
    standard = 2 * rng.standard_normal((RANDOM_ROWS, len(project.mean)))
    hidden = (project.mean + standard / project.scale).astype(np.float16)
    whole, cut = both_ways(artefact, hidden, rng.integers(0, LONGEST, RANDOM_ROWS))
    return float(np.abs(cut - whole).max())


if __name__ == "__main__":
    main()
