"""``trail evaluate``: from prompts that nobody has seen to a report."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import progress as bars
from rich.console import Console

from predictor_service.artefact import Artefact, ArtefactError, load
from predictor_service.evaluation import report, table
from predictor_service.evaluation.answers import Progress, Source
from predictor_service.evaluation.drawing import check_fits, choose_prompts, draw
from predictor_service.evaluation.evaluation import Evaluation, evaluate
from predictor_service.evaluation.service import Address
from predictor_service.evaluation.stream import ReplayError
from predictor_service.evaluation.unseen import Unseen
from predictor_service.training.artefact import versions
from predictor_service.training.collect import Responses
from predictor_service.training.generation import Backend, Sampling
from predictor_service.training.labels import Ints
from predictor_service.training.shards import ShardError
from predictor_service.training.states import read_states
from sidecar.cli.stack import StackError

RECIPE_SUFFIX = "-trail-recipe"


class EvaluateError(RuntimeError):
    """The evaluation cannot be done; the text says what to change."""


@dataclass(frozen=True)
class Options:
    """What `trail evaluate` was told."""

    artefact: Path
    model: Path
    prompts: Path
    max_prompts: int
    sampling: Sampling
    out: Path
    baseline: Path | None = None  # None: the artefact's sibling of the paper's recipe, if there is one
    predictor: Address | None = None  # None: a service of our own
    template: str | None = None
    backend: Backend = "auto"
    study: Path | None = None


def main(options: Options, *, as_json: bool) -> Evaluation:
    """Runs the evaluation and prints its result on standard output; all else goes to standard error."""
    with _standard_output_kept():
        evaluation = run(options, Console(stderr=True))
    if as_json:
        print(json.dumps(evaluation.summary()))
    else:
        table.show(evaluation, Console())
    return evaluation


def run(options: Options, console: Console) -> Evaluation:
    """Draws responses, predicts through the service, measures, and writes the report into ``options.out``.

    Responses are kept there: the same command goes on where it was stopped. Everything said goes to ``console``.

    Raises:
        EvaluateError: a bad prompt, artefact, model or setting, a full disk, or a service that fails.
    """
    try:
        return _run(options, console)
    except (ArtefactError, ShardError, StackError, ReplayError, ValueError, OSError) as error:
        raise EvaluateError(str(error)) from error


def read_unseen(
    llm: Path,
    responses: Responses,
    rows: Ints,
    prompts: Sequence[str],
    sources: Sequence[str],
    artefacts: Sequence[Path],
    max_tokens: int,
    progress: Progress,
) -> Unseen:
    """Reads the hidden states of the responses ``rows`` at every age, of all layers that one of ``artefacts`` reads.

    ``prompts`` and ``sources``: text and data set of each prompt, counted by ``responses.prompt``.
    """
    layers = tuple(sorted({layer for folder in artefacts for layer in load(folder).manifest.layers}))
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress("reading hidden states", done, len(rows))

    states = read_states(llm, responses, rows, layers, None, 0, progress=count)
    return Unseen(states, layers, responses, prompts, sources, max_tokens)


def _run(options: Options, console: Console) -> Evaluation:
    artefact = load(options.artefact)
    baseline = _baseline(options, console)
    folders = [options.artefact, *([baseline] if baseline else [])]
    for folder in folders:
        check_fits(load(folder), options.model, options.sampling.max_tokens)
    study = json.loads(options.study.read_text()) if options.study else None
    options.out.mkdir(parents=True, exist_ok=True)
    prompts = choose_prompts(options.prompts, options.model, options.sampling, options.max_prompts, options.template)
    folder = options.out / "responses"
    responses = draw(folder, options.model, prompts, options.sampling, options.backend, console)
    with _shown(console) as progress:
        texts, sources = [prompt.text for prompt in prompts], [prompt.source for prompt in prompts]
        cap = options.sampling.max_tokens
        rows = np.arange(len(responses.prompt))
        unseen = read_unseen(options.model, responses, rows, texts, sources, folders, cap, progress)
        evaluation = evaluate(
            unseen,
            Source(options.artefact, options.predictor),
            Source(baseline) if baseline else None,
            seed=options.sampling.seed,
            log_file=options.out / "services.log",
            about=_about(options, artefact, responses),
            progress=progress,
        )
    console.print(f"report: {report.write(evaluation, options.out, study)}", highlight=False, soft_wrap=True)
    return evaluation


def _baseline(options: Options, console: Console) -> Path | None:
    if options.baseline is not None:
        return options.baseline
    folder = options.artefact.resolve()
    sibling = folder.with_name(folder.name + RECIPE_SUFFIX)
    if sibling.is_dir():
        return sibling
    console.print(f"no {sibling.name} beside the artefact: the paper's recipe is left out (--baseline gives one)")
    return None


def _about(options: Options, artefact: Artefact, responses: Responses) -> dict[str, Any]:
    return {
        "artefact": artefact.name,
        "model.onnx sha256": artefact.manifest.files.model,
        "runs on": artefact.classifier.device,
        "layers": str(artefact.manifest.layers),
        "served model": artefact.manifest.served_model,
        "LLM": options.model.name,
        "prompts": f"{options.prompts.name}: {len(np.unique(responses.prompt))}",
        "sampling": asdict(options.sampling),
        "mean length, tokens": round(float(responses.lengths.mean()), 1),
        "cut at the cap": round(float(1 - responses.finished.mean()), 4),
        "versions": versions(),
    }


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[Progress]:
    """A bar for each thing that is being done."""
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    with bars.Progress(*columns, bars.TimeElapsedColumn(), bars.TimeRemainingColumn(), console=console) as shown:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total)
            shown.update(tasks[what], completed=done)

        yield show


@contextlib.contextmanager
def _standard_output_kept() -> Iterator[None]:
    """What vLLM prints, in its processes too, goes to standard error: the result is to stand alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
