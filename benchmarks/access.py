"""What it costs a step that the predictor asks who calls, and that TLS encrypts: `python -m benchmarks.access`.

Three services side by side take turns, so that what else the machine does hits all of them.
"""

import argparse
import asyncio
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import replicas
from benchmarks.machine import provenance, write
from benchmarks.replicas import Replica
from benchmarks.served_step import PLAIN, STORE_TIMEOUT_MS, step_times
from benchmarks.timing import Budget, summary
from predictor_service.artefact import load
from sidecar.cli.stack import embedded_valkey
from sidecar.cli.token import new_token
from sidecar.dial import Credentials

MODELS = Path("predictor_service/models")
MODEL = "smollm2-135m-instruct"
_SELF_SIGNED = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=bench -addext"


def main(argv: Sequence[str] | None = None) -> None:
    """Writes `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/access.json"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50, help="of each service in a round")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="trail-access-") as folder, embedded_valkey() as url:
        ways = _ways(Path(folder), url)
        with replicas.running([replica for replica, _ in ways.values()]):
            found = asyncio.run(_measured(ways, options))
    result = {**provenance("grpcio", "onnxruntime"), "model": MODEL, "rounds": options.rounds, "steps": found}
    write(options.out, result)
    for rows, by_way in found.items():
        print(rows, "rows:", ", ".join(f"{way} {each['median_us']:.0f} us" for way, each in by_way.items()))


def _ways(folder: Path, url: str) -> dict[str, tuple[Replica, Credentials]]:
    certificate, key, token, access = (folder / name for name in ("tls.crt", "tls.key", "token", "access.toml"))
    command = ["openssl", *_SELF_SIGNED.split(), "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out"]
    subprocess.run([*command, str(certificate)], check=True, capture_output=True)
    access.write_text(new_token("bench", token, ["*"], admin=False))
    tls = {"tls_cert_file": certificate, "tls_key_file": key}
    shared: dict[str, Any] = {
        "redis_url": url,
        "redis_timeout_ms": STORE_TIMEOUT_MS,
        "model_dir": MODELS,
        "default_model": MODEL,
    }

    def replica(name: str, **flags: Any) -> Replica:
        return Replica("predictor_service.main", folder / f"{name}.log", **shared, **flags)

    return {
        "plain": (replica("plain"), PLAIN),
        "access_file": (replica("access", access_file=access), Credentials(token_file=token)),
        "access_file_and_tls": (
            replica("tls", access_file=access, **tls),
            Credentials(ca_file=certificate, token_file=token),
        ),
    }


async def _measured(ways: dict[str, tuple[Replica, Credentials]], options: Any) -> dict[str, Any]:
    dim = load(MODELS / MODEL).manifest.dim
    found: dict[str, Any] = {}
    for rows in options.rows:
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(options.rounds):
            for way, (replica, credentials) in ways.items():
                times[way] += await step_times(
                    replica.address,
                    MODEL,
                    dim=dim,
                    rows=rows,
                    budget=Budget(0, options.steps, options.steps),
                    engine=f"{way}-{rows}-{turn}",
                    credentials=credentials,
                )
        found[str(rows)] = {way: summary(each, rows) for way, each in times.items()}
    return found


if __name__ == "__main__":
    main()
