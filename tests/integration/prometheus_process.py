"""A real Prometheus with the committed configuration, pointed at ports of a test."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from sidecar.cli.demo.engine import free_port
from tests.debian import needed
from tests.patience import PATIENCE_S

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)

    def get(self, path: str, **parameters: Any) -> Any:
        """The data of an answer. Raises AssertionError with Prometheus' own words where it does not take the query."""
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Series of an expression now."""
        return list(self.get("query", query=expr)["result"])

    def labels(self, metric: str) -> set[str]:
        """Labels of a metric's series; empty where it has none."""
        return {label for series in self.get("series", **{"match[]": metric}) for label in series}

    def ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self._client.get("/-/ready").status_code == httpx.codes.OK
        return False


@contextlib.contextmanager
def prometheus(folder: Path, ports: dict[str, int]) -> Iterator[Prometheus]:
    """Scrapes ports by job, four times a second, with rules and all; ended with the context."""
    program = needed("prometheus", "prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "alerts.yml", folder)
    port = free_port()
    command = [
        program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        served = Prometheus(port)
        deadline_s = time.monotonic() + PATIENCE_S
        while not served.ready():
            assert process.poll() is None, "Prometheus ended"
            assert time.monotonic() < deadline_s, "Prometheus was never ready"
            time.sleep(0.1)
        yield served
    finally:
        process.terminate()
        process.wait()
