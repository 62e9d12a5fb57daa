"""`trail predictor check ARTEFACT`: what an artefact is, and whether the service would serve it."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from predictor_service.artefact import MANIFEST, Artefact, ArtefactError
from predictor_service.catalogue import read
from predictor_service.drift import promised_by
from predictor_service.prompt import Prompt

BATCHES = (1, 32, 256)
PROMPT_TOKENS = 64
_LEAST_RUNS, _LEAST_S = 5, 0.2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def check(
    artefact: Annotated[Path, typer.Argument(help="Folder with model.onnx, prompt.onnx and manifest.json.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of one run on the CPU.")] = 1,
) -> None:
    """Loads ARTEFACT as the service does, runs its canary, and tells what it is and how fast; exits with 1 if bad."""
    try:
        _check_there(artefact)
        loaded = read(artefact, threads=threads)
    except ArtefactError as error:
        missing = error.__cause__ if isinstance(error.__cause__, FileNotFoundError) else None
        said = f"{artefact}: {Path(missing.filename).name} is missing" if missing else str(error)
        typer.echo(f"bad artefact: {' '.join(said.split())}", err=True)
        raise typer.Exit(1) from None
    table = Table(title=f"{artefact}: good", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in description(loaded, artefact):
        table.add_row(name, value)
    Console().print(table)


def _check_there(artefact: Path) -> None:
    """Raises ArtefactError, in words that say what to give instead, where this is no artefact's folder."""
    if not artefact.exists():
        raise ArtefactError(f"{artefact}: there is no such folder")
    if not artefact.is_dir():
        raise ArtefactError(f"{artefact}: a file; give the folder that holds {MANIFEST}")
    if not (artefact / MANIFEST).exists():
        inside = sorted(path.parent.name for path in artefact.glob(f"*/{MANIFEST}"))
        hint = f"; give one of the artefacts in it: {', '.join(inside)}" if inside else ""
        raise ArtefactError(f"{artefact}: there is no {MANIFEST} in it{hint}")


def description(artefact: Artefact, folder: Path) -> Iterator[tuple[str, str]]:
    """What the table says, row by row."""
    manifest = artefact.manifest
    yield "name", manifest.name
    yield "served model", manifest.served_model
    yield "layers", f"{_listed(manifest.layers)} of {manifest.hidden_size}, so dim {manifest.dim} ({manifest.dtype})"
    yield (
        "bins",
        f"{len(manifest.edges)}, the open one from {manifest.edges[-1]:g} tokens; edges {_listed(manifest.edges)}",
    )
    bin_0 = "absorbing" if manifest.absorbing else "of living requests"
    yield (
        "refinement",
        f"tau {manifest.tau:g}, forgetting {manifest.forgetting:g}, floor {manifest.floor:g}, bin 0 {bin_0}",
    )
    low, high = manifest.interval_levels
    yield "80 % interval", f"quantiles {low:g} and {high:g}"
    yield "prompt stage", manifest.prompt_stage.kind
    yield "opset", str(manifest.training.get("opset", "not said"))
    for name, sha256 in manifest.files.model_dump(by_alias=True, exclude_none=True).items():
        yield f"sha256 {name}", sha256
    yield f"sha256 {MANIFEST}", hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    yield "training", _summary(manifest.training) or "not said"
    yield "test", _tested(manifest.metrics)
    cut = artefact.projected
    yield "projected rows", f"{cut.project.dim} values, projection {cut.id}" if cut else "none (`trail train split`)"
    yield "runs on", artefact.classifier.device
    yield "classifier", _timings(_classifier_run(artefact))
    yield f"prompt of {PROMPT_TOKENS} tokens", _timings(_prompt_run(artefact))


def _listed(values: list[Any]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _summary(training: Mapping[str, Any]) -> str:
    """The parts of `training` that a reader compares artefacts by."""
    names = ("prompts", "responses", "rows", "sampling", "cut_at_max_tokens")
    told = [f"{name} {json.dumps(training[name])}" for name in names if name in training]
    return "\n".join(part.replace('"', "") for part in told)


def _tested(metrics: Mapping[str, Any]) -> str:
    tested = promised_by(metrics)
    told = (
        ("MAE {:.1f} tokens", tested.mae_tokens),
        ("Kendall tau {:.3f}", tested.kendall_tau),
        ("coverage {:.3f}", tested.coverage),
    )
    return ", ".join(text.format(value) for text, value in told if value is not None) or "not said"


def _classifier_run(artefact: Artefact) -> Callable[[int], Callable[[], object]]:
    def of(rows: int) -> Callable[[], object]:
        hidden = np.random.default_rng(0).standard_normal((rows, artefact.manifest.dim)).astype(np.float16)
        ages = np.arange(rows)
        return lambda: artefact.classifier(hidden, ages)

    return of


def _prompt_run(artefact: Artefact) -> Callable[[int], Callable[[], object]]:
    def of(prompts: int) -> Callable[[], object]:
        ids = np.random.default_rng(0).integers(0, 1000, (prompts, PROMPT_TOKENS), dtype=np.uint32)
        return lambda: artefact.prompt([Prompt(row, PROMPT_TOKENS) for row in ids])

    return of


def _timings(runs: Callable[[int], Callable[[], object]]) -> str:
    told = [f"batch {rows}: {_microseconds(runs(rows)):.0f} us" for rows in BATCHES]
    return ", ".join(told) + " (median)"


def _microseconds(run: Callable[[], object]) -> float:
    """Median of one run, once warm."""
    run()
    took: list[float] = []
    while len(took) < _LEAST_RUNS or sum(took) < _LEAST_S:
        begun = time.perf_counter()
        run()
        took.append(time.perf_counter() - begun)
    return 1e6 * median(took)
