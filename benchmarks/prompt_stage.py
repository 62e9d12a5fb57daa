"""How well the prompt alone tells the length of a response, by prompt predictor, and what each costs on one core.

    trail train prompts --llm LLM --work WORK --kinds all --minilm MINILM
    python -m benchmarks.prompt_stage --work WORK --source alpaca5k --out benchmarks/results/prompt-stage.json

Reads what `trail train` left in WORK: responses and fitted prompt predictors. Figures are of the test prompts.
The ceiling needs several responses a prompt: one is held back, and the others' mean logarithm predicts it. That is what
knowing k draws from a prompt's own distribution is worth; knowing infinitely many is extrapolated from it.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks import machine
from benchmarks.timing import Budget, call_times, summary
from predictor_service import prompt_stage
from predictor_service.bins import Bins
from predictor_service.classifier import Graph
from predictor_service.evaluation.metrics import Estimate
from predictor_service.evaluation.resampling import Sample, estimate
from predictor_service.prompt import Prompt, PromptPredictor
from predictor_service.prompt_section import PromptSection
from predictor_service.training.collect import PROMPTS_FILE, TEST, TRAIN, Responses
from predictor_service.training.labels import Floats, Ints, log_edges, representatives
from predictor_service.training.prompt_data import Prompts
from predictor_service.training.prompts import PromptTable
from predictor_service.training.stored import load_prompt_stage
from predictor_service.training.study import FIRST_BIN_TOKENS

BATCHES = (1, 32)
LONG_PROMPT_IDS = 64
SECTION: TypeAdapter[prompt_stage.Section] = TypeAdapter(PromptSection)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes JSON, prints Markdown."""
    options = _options(argv)
    responses = Responses.load(options.work)
    chosen = _of_source(responses, options.work, options.source)
    budget = Budget(0.2, 5, 20) if options.quick else Budget(2.0, 20, 1000)
    results = {
        "what": "Prompt stage: total length from the prompt alone, on test prompts",
        "source": options.source or "all",
        **machine.provenance("onnxruntime", "numpy", "tokenizers", "torch", "transformers"),
        "ceiling": ceiling(_draws(responses, chosen)),
        "kinds": [_kind(folder, responses, chosen, budget) for folder in _folders(options.work)],
    }
    machine.write(options.out, results)
    print(table(results))


def ceiling(draws: Floats) -> dict[str, Any]:
    """Tau-b that knowing k other draws of a prompt's length reaches, for `draws` [prompts, samples] of log length.

    By Greiner's relation rho = sin(pi tau / 2), and with k draws 1 / rho_k^2 = (1 + lambda / k) / rho_inf^2, which is
    exact where draws scatter normally and alike around each prompt's mean: a line in 1 / k, read at 0. Needs three
    samples a prompt.
    """
    prompts, samples = draws.shape
    if samples < 3:
        raise ValueError(f"responses: {samples} a prompt tell no ceiling, 3 are needed")
    sample = Sample.of(np.arange(prompts), np.arange(prompts))
    taus = {k: np.mean([sample.tau(*pair) for pair in _held_back(draws, k)], axis=0) for k in range(1, samples)}
    inverse = np.array([1 / np.sin(np.pi * tau / 2) ** 2 for tau in taus.values()])
    share = np.array([1 / k for k in taus])
    # The least-squares line's value at 1 / k = 0, draw by draw.
    slope = ((share - share.mean()) @ (inverse - inverse.mean(axis=0))) / ((share - share.mean()) ** 2).sum()
    at_zero = np.maximum(inverse.mean(axis=0) - slope * share.mean(), 1.0)
    return {
        "prompts": prompts,
        "samples": samples,
        "kendall_tau_by_draws_known": {str(k): estimate(tau) for k, tau in taus.items()},
        "kendall_tau": estimate(2 / np.pi * np.arcsin(1 / np.sqrt(at_zero))),
    }


def _held_back(draws: Floats, known: int) -> Iterator[tuple[Floats, Floats]]:
    """Each draw, and the mean of the `known` that follow it."""
    for one in range(draws.shape[1]):
        others = [(one + step) % draws.shape[1] for step in range(1, known + 1)]
        yield draws[:, others].mean(axis=1), draws[:, one]


def _draws(responses: Responses, chosen: Ints) -> Floats:
    """Log lengths [prompts, samples] of the prompts with most samples, of the responses `chosen`."""
    lengths = Prompts.of(responses, chosen).lengths
    known = (~np.isnan(lengths)).sum(axis=1)
    logs: Floats = np.log(lengths[known == known.max()])
    return logs


def _kind(folder: Path, responses: Responses, chosen: Ints, budget: Budget) -> dict[str, Any]:
    stage, said = load_prompt_stage(folder)
    rows = np.flatnonzero(responses.split == TEST)
    inside = np.isin(rows, chosen)
    predictor = _predictor(stage.fields["prompt"], stage.files)
    prompts = Prompts.of(responses, rows[inside]).prompts
    return {
        "kind": folder.name,
        "reads": stage.fields["prompt"]["kind"],
        "bytes": sum(map(len, stage.files.values())),
        "quality": _quality(said[inside].astype(np.float64), responses, rows[inside]),
        "cost": {
            **{f"batch {size}": _cost(predictor, prompts, size, budget) for size in BATCHES},
            f"{LONG_PROMPT_IDS} ids": _cost(predictor, [_long(prompts)], 1, budget),
        },
    }


def _quality(p: Floats, responses: Responses, rows: Ints) -> dict[str, Estimate]:
    """Of the mean of the distributions p [rows, bins] as r0."""
    learnt = np.flatnonzero((responses.split == TRAIN) & responses.finished)
    edges = log_edges(p.shape[1], FIRST_BIN_TOKENS, int(responses.lengths.max()))
    r0 = Bins(edges.astype(np.float64), representatives(responses.lengths[learnt], edges)).mean(p)
    length = responses.lengths[rows].astype(np.float64)
    sample = Sample.of(rows, responses.prompt[rows])
    return {
        "kendall_tau": estimate(sample.tau(r0, length)),
        "mae_tokens": estimate(sample.mean(np.abs(r0 - length))),
    }


def _cost(predictor: PromptPredictor, prompts: Sequence[Prompt], size: int, budget: Budget) -> dict[str, Any]:
    """Microseconds on one core, another batch of real prompts each time."""
    endless = cycle(prompts)
    return summary(call_times(lambda: predictor(list(islice(endless, size))), budget), size)


def _long(prompts: Sequence[Prompt]) -> Prompt:
    ids = np.concatenate([prompt.token_ids for prompt in prompts])[:LONG_PROMPT_IDS]
    return Prompt(ids, len(ids))


def _predictor(section: Mapping[str, Any], files: Mapping[str, bytes]) -> PromptPredictor:
    graph = Graph(files["prompt.onnx"], threads=1)
    return prompt_stage.build(SECTION.validate_python(section), graph, files)


def _folders(work: Path) -> list[Path]:
    """Fitted prompt predictors over the artefact's own bins."""
    return sorted(path.parent for path in (work / "prompt").glob("*/about.json") if path.parent.name != "paper")


def _of_source(responses: Responses, work: Path, source: str) -> Ints:
    """Responses to the prompts of one data set; empty: of all."""
    if not source:
        return np.arange(len(responses.prompt))
    sources = np.array(PromptTable.load(work / PROMPTS_FILE).source)
    return np.flatnonzero(sources[responses.prompt] == source)


def table(results: Mapping[str, Any]) -> str:
    """Markdown: one row a kind, best first."""
    head = ["kind", "tau-b", "MAE, tokens", *(f"us a prompt, {what}" for what in results["kinds"][0]["cost"]), "MB"]
    rows = sorted(results["kinds"], key=lambda row: -row["quality"]["kendall_tau"]["value"])
    lines = [[row["kind"], *_figures(row), f"{row['bytes'] / 1e6:.1f}"] for row in rows]
    lines.append(["ceiling", _with_interval(results["ceiling"]["kendall_tau"], 3), *[""] * (len(head) - 2)])
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def _figures(row: Mapping[str, Any]) -> list[str]:
    quality, costs = row["quality"], row["cost"].values()
    figures = [_with_interval(quality["kendall_tau"], 3), _with_interval(quality["mae_tokens"], 1)]
    return figures + [f"{cost['us_per_sample']:.0f}" for cost in costs]


def _with_interval(value: Estimate, digits: int) -> str:
    return f"{value['value']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of `trail train`")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--source", default="", help="data set whose prompts count; all, if not given")
    parser.add_argument("--quick", action="store_true", help="time little")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
