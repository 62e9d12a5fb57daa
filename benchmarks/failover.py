"""How long engines are without fresh predictions when a master of the store dies.

    python -m benchmarks.failover --out benchmarks/results/failover.json

Simulated engines with real agents, two predictors, a scheduler, and Redis as a cluster of three masters and as a master
with Sentinels. The master that holds an engine is killed under load. What Redis itself takes until another master is
there depends on its timeouts, which are one second here.
"""

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from benchmarks import machine, random_artefacts, redis_servers, replicas
from benchmarks.predictor_cost import PACKAGED
from benchmarks.redis_servers import NODE_TIMEOUT_MS, Servers
from sidecar import log
from sidecar.cli.load.options import LoadOptions
from sidecar.cli.load.run import Load
from sidecar.redis import connect, keys

PACKAGES = ("redis", "grpcio", "numpy", "onnxruntime")
KINDS = {"cluster": redis_servers.cluster, "sentinel": redis_servers.with_sentinels}
REPEATS = 3
ENGINES, DIM, STEP_MS = 4, 64, 20.0
BEFORE_S, LONGEST_S, AFTER_S = 3.0, 30.0, 3.0


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes JSON, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench/failover.json"), help="JSON file of results")
    options = parser.parse_args(argv)
    log.configure("warning", "console")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = {
        "what": "Seconds without a fresh prediction after a master was killed, the longest of all engines",
        "redis_timeout_ms": NODE_TIMEOUT_MS,
        "engines": ENGINES,
        **machine.provenance(*PACKAGES),
        **{kind: _summary([_once(kind) for _ in range(REPEATS)]) for kind in KINDS},
    }
    machine.write(options.out, results)
    print("| Redis | without predictions, s, each time | requests lost |\n|---|---|---|")
    for kind in KINDS:
        cell = results[kind]
        print(f"| {kind} | {', '.join(f'{each:.2f}' for each in cell['gaps_s'])} | {cell['requests_lost']} |")


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    gaps = [run["gap_s"] for run in runs]
    return {
        "gaps_s": gaps,
        "worst_s": max(gaps),
        "redis_s": [run["redis_s"] for run in runs],
        "requests_lost": sum(run["requests_lost"] for run in runs),
        "requests_ended": sum(run["requests_ended"] for run in runs),
    }


def _once(kind: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="trail-") as name:
        folder = Path(name)
        model = random_artefacts.make(folder / "models" / "random", PACKAGED, dim=DIM)
        with KINDS[kind](folder / "redis") as servers:
            flags: dict[str, Any] = {"redis_url": servers.url}
            predictors = [
                replicas.Replica("predictor_service.main", folder / f"predictor-{n}.log", model_dir=model, **flags)
                for n in range(2)
            ]
            scheduler = replicas.Replica("scheduler_service.main", folder / "scheduler.log", **flags)
            with replicas.running([*predictors, scheduler]):
                options = LoadOptions(
                    replicas.addresses(predictors), scheduler.address, ENGINES, requests=16, dim=DIM, step_ms=STEP_MS
                )
                return _killed(servers, options)


def _killed(servers: Servers, options: LoadOptions) -> dict[str, Any]:
    key = keys(f"{options.prefix}-0").owner
    with Load(options) as load:
        if load.connect() < options.engines:
            raise RuntimeError("not all engines are connected")
        load.begin()
        load.during(BEFORE_S)
        master, killed_s = servers.master_of(key), time.time()
        master.kill()
        asyncio.run(_until_writable(servers.url, f"{key}-probe"))
        redis_s = round(time.time() - killed_s, 2)
        while time.time() - killed_s < LONGEST_S and not _again(load, killed_s):
            load.during(0.1)
        # Whoever else was without predictions has them again by then.
        load.during(AFTER_S)
    found = load.result()
    gaps = [gap.seconds for gap in load.gaps if gap.ended_s > killed_s]
    if not _again(load, killed_s):
        raise RuntimeError(f"no predictions came again in {LONGEST_S:.0f} s")
    return {
        "gap_s": round(max(gaps), 2),
        "redis_s": redis_s,
        "requests_lost": found["requests_lost"],
        "requests_ended": found["requests_ended"],
    }


def _again(load: Load, since_s: float) -> bool:
    """Whether the engine whose master was killed has had predictions again."""
    first = f"{load.options.prefix}-0"
    return any(gap.ended_s > since_s and gap.engine_id == first for gap in load.gaps)


async def _until_writable(url: str, key: str) -> None:
    async with connect(url, 500) as client:
        while True:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await client.set(key, "x", ex=60)
                return
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    main()
