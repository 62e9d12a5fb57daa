"""Puts the fitted parts together into one artefact, with how it was made and how good it is."""

import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from predictor_service.bins import Bins
from predictor_service.evaluation.breakdown import measure, measure_prompt
from predictor_service.evaluation.predicted import Predicted, Requests, sample_positions
from predictor_service.training.collect import TEST, TRAIN, Responses, Sampling
from predictor_service.training.export import Artefact, write
from predictor_service.training.fit import Classifier, Stream
from predictor_service.training.labels import Floats, leaving_rates, representatives, tail_hazard
from predictor_service.training.networks import Array
from predictor_service.training.refinement import Refinement, refine
from predictor_service.training.stored import CLASSIFIER, PAPER_CLASSIFIER, PAPER_PROMPT, PromptStage, load_prompt_stage
from predictor_service.training.tune import Scale, Tried, as_rows, choose, interval_levels, remaining_of, request_of

RECIPE_SUFFIX = "-trail-recipe"
PAPER_FLOOR = 1e-9
POSITIONS = 16


@dataclass(frozen=True)
class About:
    """What an artefact says of itself beside its numbers."""

    name: str
    served_model: str
    # How each stage was run, for the manifest.
    stages: Mapping[str, Any]


def scale_of(classifier: Classifier, responses: Responses, cap: int) -> Scale:
    """Bins with the mean remaining length of the training rows in each."""
    known = responses.finished[classifier.response]
    remaining = responses.lengths[classifier.response] - classifier.age
    means = representatives(remaining[known], classifier.edges)
    return Scale(Bins(classifier.edges.astype(np.float64), means), cap)


def tuned(classifier: Classifier, responses: Responses, cap: int) -> tuple[Refinement, list[Tried]]:
    """Our refinement with tau, forgetting and floor from validation, and all that were tried, best first."""
    start = Refinement(_rates(classifier, responses, cap), classifier.prior, tau=1.0, floor=0.0)
    return choose(classifier.validation, responses, start, scale_of(classifier, responses, cap))


def paper_refinement(classifier: Classifier, responses: Responses, cap: int) -> Refinement:
    """The paper's: bin 0 absorbs, every bin alike before evidence, and each step's output counts in full."""
    flat = np.full(len(classifier.edges), 1 / len(classifier.edges))
    return Refinement(_rates(classifier, responses, cap), flat, tau=1.0, floor=PAPER_FLOOR, absorbing=True)


def write_all(work: Path, out: Path, about: About, kind: str, sampling: Sampling) -> list[Path]:
    """Writes our artefact to ``out`` and, where it was fitted, the paper's recipe on the same data beside it.

    Returns the folders. Raises ValueError where a stage has not been run, or a graph strays from its network.
    """
    responses, cap = Responses.load(work), sampling.max_tokens
    if not (work / CLASSIFIER).exists():
        raise ValueError(f"{work / CLASSIFIER}: no classifier was fitted (`trail train fit`)")
    ours = Classifier.load(work / CLASSIFIER)
    by, tried = tuned(ours, responses, cap)
    stage, said = load_prompt_stage(work / "prompt" / kind)
    write(assemble(responses, ours, by, sampling, stage, said, about, tried), out)
    if not (work / PAPER_CLASSIFIER).exists():
        return [out]
    baseline = out.with_name(f"{out.name}{RECIPE_SUFFIX}")
    paper = Classifier.load(work / PAPER_CLASSIFIER)
    by = paper_refinement(paper, responses, cap)
    stage, said = load_prompt_stage(work / PAPER_PROMPT)
    named = replace(about, name=baseline.name)
    write(assemble(responses, paper, by, sampling, stage, said, named, []), baseline)
    return [out, baseline]


def assemble(
    responses: Responses,
    classifier: Classifier,
    refinement: Refinement,
    sampling: Sampling,
    prompt: PromptStage,
    prompt_said: Array,
    about: About,
    tried: list[Tried],
) -> Artefact:
    """The artefact; its interval levels are set on validation and its figures measured on test prompts.

    ``prompt_said`` are the prompt stage's probabilities for the test responses [responses, bins].
    """
    cap, learnt = sampling.max_tokens, responses.split == TRAIN
    scale = scale_of(classifier, responses, cap)
    levels = _levels(classifier.validation, responses, refinement, scale)
    training = {
        "stages": about.stages,
        "sampling": asdict(sampling),
        "responses": {n: int((responses.split == i).sum()) for i, n in enumerate(("train", "validation", "test"))},
        "prompts": int(len(np.unique(responses.prompt))),
        "rows": {
            "train": len(classifier.age),
            "validation": len(classifier.validation.age),
            "test": len(classifier.test.age),
        },
        "constant_tokens": float(np.median(responses.lengths[classifier.response] - classifier.age)),
        "cut_at_max_tokens": round(float(1 - responses.finished[learnt].mean()), 4),
        "validation_loss_nats": min(classifier.losses),
        "refinements_tried": as_rows(tried),
        "versions": versions(),
    }
    return Artefact(
        name=about.name,
        served_model=about.served_model,
        layers=tuple(int(layer) for layer in classifier.layers),
        hidden_size=(len(classifier.dense.mean) - 1) // len(classifier.layers),
        states=classifier.dense,
        prompt=prompt.fields,
        prompt_files=prompt.files,
        edges=classifier.edges,
        representatives=scale.bins.representatives,
        refinement=refinement,
        interval_levels=levels,
        training=training,
        metrics=_metrics(classifier.test, responses, refinement, levels, scale, prompt_said),
    )


def _metrics(
    stream: Stream,
    responses: Responses,
    refinement: Refinement,
    levels: tuple[float, float],
    scale: Scale,
    prompt_said: Array,
) -> dict[str, Any]:
    """Figures on test requests, 16 decode positions of each, as `trail evaluate` computes them."""
    request, age, truth = request_of(stream), stream.age, remaining_of(stream, responses)
    q = refine(stream.probabilities, age, refinement)
    low, median, high = (scale.quantile(q, level, age) for level in (levels[0], 0.5, levels[1]))
    every = Predicted(request, age, truth, scale.mean(q, age), median, low, high, q.astype(np.float32))
    at = sample_positions(request, POSITIONS, seed=0)
    prompts = responses.prompt[stream.response[age == 0]]
    tests = np.flatnonzero(responses.split == TEST)
    r0 = scale.quantile(prompt_said.astype(np.float64), 0.5, np.zeros(len(tests), dtype=np.int64))
    every_response = Requests(
        responses.prompt[tests],
        np.full(len(tests), ""),
        np.full(len(tests), ""),
        responses.lengths[tests],
        responses.finished[tests],
    )
    counts = {"requests": int(request[-1]) + 1, "positions": len(at)}
    return counts | measure(every.take(at), prompts) | {"prompt": measure_prompt(r0, every_response)}


def _rates(classifier: Classifier, responses: Responses, cap: int) -> Floats:
    learnt = responses.split == TRAIN
    hazard = tail_hazard(responses.lengths[learnt], responses.finished[learnt], cap // 2)
    return leaving_rates(classifier.edges, hazard)


def _levels(stream: Stream, responses: Responses, refinement: Refinement, scale: Scale) -> tuple[float, float]:
    q = refine(stream.probabilities, stream.age, refinement)
    return interval_levels(q, remaining_of(stream, responses), request_of(stream), stream.age, scale)


def versions() -> dict[str, str]:
    """Versions of what has a part in the numbers, of those installed here."""
    found = {"python": platform.python_version(), "platform": sys.platform}
    for package in ("vllm", "torch", "transformers", "onnx", "onnxruntime", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
