"""Puts the fitted parts together into one artefact, with how it was made and how good it is."""

import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from predictor_service.bins import Bins
from predictor_service.training.collect import TEST, TRAIN, Responses, Sampling
from predictor_service.training.evaluate import Scale, choose, measure
from predictor_service.training.export import Artefact
from predictor_service.training.fit import Classifier
from predictor_service.training.labels import Ints, leaving_rates, representatives, tail_hazard
from predictor_service.training.networks import Recipe
from predictor_service.training.prompt_network import fit_prompt, prompt_features
from predictor_service.training.refinement import Refinement

PROMPT_RECIPE = Recipe(widths=(64,), dropout=0.5, epochs=20, batch_rows=256, weight_decay=0.3)


def assemble(
    responses: Responses,
    classifier: Classifier,
    edges: Ints,
    sampling: Sampling,
    *,
    name: str,
    served_model: str,
    layers: tuple[int, ...],
    buckets: int,
    stages: Mapping[str, Any],
) -> tuple[Artefact, list[dict[str, float]]]:
    """The artefact, and every (tau, floor) tried on validation with its error."""
    learnt = responses.split == TRAIN
    hazard = tail_hazard(responses.lengths[learnt], responses.finished[learnt], sampling.max_tokens // 2)
    remaining = responses.lengths[classifier.response] - classifier.age
    known = responses.finished[classifier.response]
    means = representatives(remaining[known], edges)
    scale = Scale(Bins(edges.astype(np.float64), means), sampling.max_tokens)
    start = Refinement(leaving_rates(edges, hazard), classifier.prior, tau=1.0, floor=0.0)
    chosen, tried = choose(classifier.validation, responses, start, scale)
    prompt, prompt_losses = fit_prompt(responses, edges, buckets, PROMPT_RECIPE)
    features = prompt_features(responses, _test_requests(responses, classifier), buckets)
    metrics = measure(
        classifier.test,
        responses,
        chosen,
        scale,
        prompt=prompt.probabilities(features).astype(np.float64),
        constant=float(np.median(remaining)),
    )
    training = {
        "stages": stages,
        "sampling": asdict(sampling),
        "responses": {n: int((responses.split == i).sum()) for i, n in enumerate(("train", "validation", "test"))},
        "prompts": int(len(np.unique(responses.prompt))),
        "rows": {
            "train": len(classifier.age),
            "validation": len(classifier.validation.age),
            "test": len(classifier.test.age),
        },
        "cut_at_max_tokens": round(float(1 - responses.finished[learnt].mean()), 4),
        "open_bin_hazard_per_token": hazard,
        "validation_loss_nats": {"states": min(classifier.losses), "prompt": min(prompt_losses)},
        "censoring": "a response cut at max_tokens counts in the loss with its mass on the bins above what was seen",
        "prompt_recipe": asdict(PROMPT_RECIPE),
        "versions": versions(),
    }
    return Artefact(
        name=name,
        served_model=served_model,
        layers=layers,
        hidden_size=(len(classifier.dense.mean) - 1) // len(layers),
        states=classifier.dense,
        prompt=prompt,
        edges=edges,
        representatives=means,
        rates=chosen.rates,
        prior=chosen.prior,
        tau=chosen.tau,
        floor=chosen.floor,
        training=training,
        metrics=metrics,
    ), tried


def _test_requests(responses: Responses, classifier: Classifier) -> Ints:
    rows: Ints = classifier.test.response[classifier.test.age == 0]
    if np.any(responses.split[rows] != TEST):
        raise ValueError("classifier: it was not made from these responses")
    return rows


def versions() -> dict[str, str]:
    """Versions of what has a part in the numbers, of those installed here."""
    found = {"python": platform.python_version(), "platform": sys.platform}
    for package in ("vllm", "torch", "transformers", "onnx", "onnxruntime", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
