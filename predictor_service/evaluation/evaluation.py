"""Measures an artefact, as it is served, against every simpler way to predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from predictor_service.artefact import Artefact, load
from predictor_service.bins import Bins
from predictor_service.evaluation.answers import Answers, Progress, Source, ask
from predictor_service.evaluation.breakdown import Figures, Group, breakdown, measure, measure_prompt
from predictor_service.evaluation.breakdown import without_intervals as plain
from predictor_service.evaluation.calibration import levels
from predictor_service.evaluation.predicted import Predicted, Requests, sample_positions
from predictor_service.evaluation.unseen import Unseen
from predictor_service.training.labels import Floats

POSITIONS = 16
SERVED, UNREFINED = "refined, as served", "classifier alone"
PREFILL, PROMPT = "r1 counted down", "r0 counted down"
RECIPE, CONSTANT = "the paper's recipe", "constant"
OF_INTERVALS = "coverage_80", "ece", "ece_of_steps", "pinball_tokens"
IN_SUMMARY = "mae_tokens", "median_ae_tokens", "kendall_tau", "coverage_80", "ece", "ece_of_steps"
IN_SUMMARY_OF_PROMPT = "mae_tokens", "kendall_tau"


@dataclass(frozen=True)
class Method:
    """One way to predict, at the sampled positions, and how it did."""

    predicted: Predicted
    level_of: Floats | None  # [rows] from `calibration.levels`, where the posterior is known
    figures: Figures
    by_age: Sequence[Group]


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report shows."""

    about: Mapping[str, Any]
    bins: Bins
    requests: Requests
    methods: Mapping[str, Method]  # by name, the served one first
    prompt: Mapping[str, Figures]  # the total length from the prompt alone, by name of the method
    groups: Mapping[str, Sequence[Group]]  # of the served method
    r0: Floats  # [requests] total that the served prompt stage predicted

    @property
    def positions(self) -> int:
        """How many were drawn."""
        return len(self.methods[SERVED].predicted)

    def summary(self) -> dict[str, Any]:
        """What ``trail evaluate --json`` prints; a baseline that was not there is null."""

        def of_method(name: str) -> dict[str, Any] | None:
            if name not in self.methods:
                return None
            figures = self.methods[name].figures
            told: dict[str, Any] = plain({key: figures[key] for key in IN_SUMMARY if key in figures})
            if name in self.prompt:
                told["prompt"] = plain({key: self.prompt[name][key] for key in IN_SUMMARY_OF_PROMPT})
            return told

        counts = {"n_requests": len(self.requests), "n_positions": self.positions}
        baselines = {"constant": of_method(CONSTANT), "trail_recipe": of_method(RECIPE)}
        return counts | (of_method(SERVED) or {}) | {"baselines": baselines}


def evaluate(
    unseen: Unseen,
    artefact: Source,
    recipe: Source | None,
    *,
    seed: int,
    log_file: Path,
    about: Mapping[str, Any],
    progress: Progress,
) -> Evaluation:
    """Draws positions, predicts through the real service, and measures.

    ``recipe`` is the artefact of the paper's recipe; ``log_file`` takes the services' logs.

    Raises:
        ArtefactError: an artefact that must not serve.
        ValueError: an artefact reads a layer that is not in ``unseen``.
        StackError, ReplayError: a service did not start or did not answer as it should.
    """

    def answers(source: Source) -> Answers:
        loaded = load(source.folder)
        recorded = unseen.recorded(loaded.manifest.layers)
        rows = sample_positions(recorded.request, POSITIONS, seed)
        return ask(source, loaded, recorded, rows, log_file, progress)

    ours, theirs = answers(artefact), answers(recipe) if recipe is not None else None
    return assess(unseen.requests(), ours, theirs, unseen.max_tokens, seed=seed, about=about, progress=progress)


def assess(
    requests: Requests,
    ours: Answers,
    recipe: Answers | None,
    max_tokens: int,
    *,
    seed: int,
    about: Mapping[str, Any],
    progress: Progress,
) -> Evaluation:
    """Measures answers about ``requests``, all at the same positions, whose responses were cut at ``max_tokens``."""
    served = ours.served
    posteriors = {SERVED: (served, ours.artefact), UNREFINED: (ours.unrefined, ours.artefact)}
    if recipe is not None:
        posteriors[RECIPE] = (recipe.served, recipe.artefact)
    points = {
        PREFILL: np.maximum(ours.r1[served.request] - served.age, 1),
        PROMPT: np.maximum(ours.r0[served.request] - served.age, 1),
        CONSTANT: np.minimum(constant_tokens(ours.artefact), max_tokens - served.age),
    }
    methods: dict[str, Method] = {}
    for name, (predicted, artefact) in posteriors.items():
        progress("measuring", len(methods), len(posteriors) + len(points))
        level_of = None if predicted.q is None else levels(predicted, artefact.bins, max_tokens, seed)
        methods[name] = _method(predicted, level_of, requests)
    for name, remaining in points.items():
        progress("measuring", len(methods), len(posteriors) + len(points))
        methods[name] = _without_interval(_method(_point(served, remaining), None, requests))
    groups = breakdown(served, requests, methods[SERVED].level_of)
    progress("measuring", len(methods), len(methods))
    prompt = {name: measure_prompt(one.r0, requests) for name, one in ((SERVED, ours), (RECIPE, recipe)) if one}
    return Evaluation(about, ours.artefact.bins, requests, methods, prompt, groups, ours.r0)


def constant_tokens(artefact: Artefact) -> float:
    """Median remaining length of the training rows, as the manifest says it, or else as its bin frequencies do."""
    said = artefact.manifest.training.get("constant_tokens")
    return float(said) if said is not None else float(artefact.bins.quantile(artefact.evidence.prior[None], 0.5)[0])


def _method(predicted: Predicted, level_of: Floats | None, requests: Requests) -> Method:
    figures = measure(predicted, requests.prompt, level_of)
    return Method(predicted, level_of, figures, breakdown(predicted, requests, level_of, by=("age",))["age"])


def _without_interval(method: Method) -> Method:
    figures = {name: figure for name, figure in method.figures.items() if name not in OF_INTERVALS}
    return Method(method.predicted, None, figures, method.by_age)


def _point(like: Predicted, remaining: Floats) -> Predicted:
    """A prediction without a distribution."""
    return Predicted(like.request, like.age, like.truth, remaining, remaining, remaining, remaining)
